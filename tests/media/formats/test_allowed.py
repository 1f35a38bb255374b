"""Supported formats, and the suffixes of media files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vatt.datasets.folders import MEDIA_SUFFIXES, PICTURE_SUFFIXES
from vatt.media.decoding import open_media
from vatt.media.formats.allowed import REFERRING, SELF_CONTAINED, TEXT

DEVICES = (
    "alsa android_camera avfoundation bktr caca decklink dshow fbdev gdigrab iec61883 jack kmsgrab libcdio libdc1394 "
    "openal oss pulse sndio v4l2 vfwcap video4linux2 x11grab"
).split()
# Formats that FFmpeg 7.1 (the oldest one of PyAV 15) does not have, or that depend on build options.
OPTIONAL = {
    "apv",
    "jpegxs_pipe",
    "evc",
    "iamf",
    "vvc",
    "ac4",
    "avs3",
    "jpegxl_anim",
    "hdr_pipe",
    "phm_pipe",
    "pfm_pipe",
}
FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".3gp", ".m4a", ".3g2", ".f4v", ".mj2", ".m4b"), "mov"),
    **dict.fromkeys((".mkv", ".webm", ".mka"), "matroska"),
    **dict.fromkeys((".mpg", ".mpeg", ".mpe", ".vob"), "mpeg"),
    **dict.fromkeys((".ts", ".mts", ".m2ts", ".m2t"), "mpegts"),
    **dict.fromkeys((".wmv", ".wma", ".asf"), "asf"),
    **dict.fromkeys((".ogv", ".ogg", ".opus", ".oga", ".ogx", ".spx"), "ogg"),
    **dict.fromkeys((".m1v", ".m2v"), "mpegvideo"),
    **dict.fromkeys((".aif", ".aiff", ".aifc"), "aiff"),
    ".divx": "avi",
    ".rf64": "wav",
    ".mp2": "mp3",
    ".thd": "truehd",
    ".y4m": "yuv4mpegpipe",
    **{f".{name}": name for name in ("avi", "flv", "wav", "flac", "mp3", "aac", "ac3", "eac3", "caf", "w64", "tta")},
    **{f".{name}": name for name in ("wv", "mlp", "voc", "wtv", "gif", "mxf", "nut", "dv", "ivf", "h264", "hevc")},
    **dict.fromkeys((".jpg", ".jpeg"), "jpeg_pipe"),
    **dict.fromkeys((".tif", ".tiff"), "tiff_pipe"),
    **{f".{name}": f"{name}_pipe" for name in ("png", "webp", "bmp")},
}


def demuxers() -> set[str]:
    names = set()
    for name in av.formats_available:
        with suppress(ValueError):
            names.add(name) if av.ContainerFormat(name, "r").is_input else None
    return names


def test_no_listed_format_opens_other_files() -> None:
    assert not set(SELF_CONTAINED) & {*REFERRING, *DEVICES, *TEXT}
    assert len(set(SELF_CONTAINED)) == len(SELF_CONTAINED)


def test_listed_formats_exist_in_this_ffmpeg() -> None:
    """A name that no longer exists was renamed: look for the new one. New formats are refused until they are listed."""
    assert set(SELF_CONTAINED) - demuxers() - OPTIONAL == set()


CODECS = {  # of video and audio; None without
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".flv", ".ts", ".mts", ".m2ts"), ("libx264", "aac")),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("mpeg4", "mp2"),
    ".mpg": ("mpeg1video", "mp2"),
    ".mpeg": ("mpeg1video", "mp2"),
    ".wmv": ("wmv2", "wmav2"),
    ".ogv": (None, "flac"),
    ".wav": (None, "pcm_s16le"),
    ".flac": (None, "flac"),
    ".mp3": (None, "libmp3lame"),
    ".m4a": (None, "aac"),
    ".aac": (None, "aac"),
    ".ogg": (None, "libopus"),
    ".opus": (None, "libopus"),
    ".wma": (None, "wmav2"),
    **dict.fromkeys((".3g2", ".f4v", ".m2t", ".nut"), ("libx264", "aac")),
    **dict.fromkeys((".mpe", ".vob", ".wtv"), ("mpeg2video", "mp2")),
    **dict.fromkeys((".aif", ".aiff", ".aifc"), (None, "pcm_s16be")),
    **dict.fromkeys((".caf", ".w64", ".rf64", ".voc"), (None, "pcm_s16le")),
    **dict.fromkeys((".oga", ".ogx"), (None, "flac")),
    **{f".{name}": (None, name) for name in ("mp2", "ac3", "eac3", "mlp", "tta")},
    ".asf": ("wmv2", "wmav2"),
    ".divx": ("mpeg4", "mp2"),
    ".dv": ("dvvideo", "pcm_s16le"),
    ".gif": ("gif", None),
    ".h264": ("libx264", None),
    ".hevc": ("libx265", None),
    ".ivf": ("libvpx", None),
    ".m1v": ("mpeg1video", None),
    ".m2v": ("mpeg2video", None),
    ".m4b": (None, "aac"),
    ".mj2": ("jpeg2000", None),
    ".mka": (None, "libopus"),
    ".mxf": ("mpeg2video", "pcm_s16le"),
    ".spx": (None, "libspeex"),
    ".thd": (None, "truehd"),
    ".wv": (None, "wavpack"),
    ".y4m": ("wrapped_avframe", None),
}
FORMAT_TO_WRITE = {
    **dict.fromkeys((".m2ts", ".mts", ".m2t"), "mpegts"),
    ".m4v": "mp4",
    ".m4b": "mp4",
    ".mj2": "mov",
    ".mpe": "mpeg",
    ".divx": "avi",
    ".ogx": "ogg",
    ".aifc": "aiff",
    ".rf64": "wav",
    ".ivf": "ivf",
}
SIZES, PIXELS = {".dv": (720, 576)}, {".gif": "rgb8"}
LAYOUTS = {".dv": "stereo"}


def write(path: Path, video: str | None, audio: str | None) -> None:
    suffix = path.suffix
    width, height = SIZES.get(suffix, (96, 64))
    options = {"rf64": "always"} if suffix == ".rf64" else {}
    with av.open(str(path), "w", format=FORMAT_TO_WRITE.get(suffix), options=options) as container:
        video_stream = container.add_stream(video, rate=25) if video else None
        layout = LAYOUTS.get(suffix, "mono")
        audio_stream = container.add_stream(audio, rate=48_000, layout=layout) if audio else None
        if audio_stream is not None:
            audio_stream.bit_rate = 64_000
        if video_stream is not None:
            pixels = PIXELS.get(suffix, "yuv420p")
            video_stream.width, video_stream.height, video_stream.pix_fmt = width, height, pixels
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 99, np.uint8), format="rgb24")
                container.mux(video_stream.encode(frame))
            container.mux(video_stream.encode())
        if audio_stream is None:
            return
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        resampler = av.AudioResampler(audio_stream.format, layout, 48_000, frame_size=audio_stream.frame_size or 1024)
        for part in resampler.resample(frame):
            container.mux(audio_stream.encode(part))
        container.mux(audio_stream.encode())


def has_encoder(name: str | None) -> bool:
    with suppress(av.codec.codec.UnknownCodecError):
        return name is None or av.Codec(name, "w").is_encoder
    return False


@pytest.mark.parametrize("suffix", sorted(MEDIA_SUFFIXES | PICTURE_SUFFIXES))
def test_files_with_every_media_suffix_are_read(suffix: str, tmp_path: Path) -> None:
    assert FORMAT_OF_SUFFIX[suffix] in SELF_CONTAINED
    path = tmp_path / f"a{suffix}"
    if suffix in PICTURE_SUFFIXES:
        Image.new("RGB", (32, 32), (250, 250, 250)).save(path)
    elif all(map(has_encoder, CODECS[suffix])):
        write(path, *CODECS[suffix])
    else:
        pytest.skip(f"PyAV has no encoder for {CODECS[suffix]}")
    with open_media(path) as media:
        name = media._container.format.name
        assert FORMAT_OF_SUFFIX[suffix] in name.split(",")
        assert media.info.has_video == (suffix in PICTURE_SUFFIXES or CODECS[suffix][0] is not None)
