"""Concatenated files that FFmpeg reads only in part are refused."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import numbered_frames
from tests.media.clocks import MIDDLES_S, chirp, numbers, pitch, tone, write, write_joined
from vatt.media.decoding import open_media
from vatt.media.formats import joined
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

RATE = 16_000


def assert_refused(path: Path, at: int, reason: str) -> None:
    """The reader, the scan and the conversion refuse a file for the same reason."""
    reason = f"a second file begins at byte {at}, {reason}"
    with pytest.raises(MediaError, match=reason):
        open_media(path)
    with pytest.raises(MediaError, match=reason):
        transcode(str(path), path.with_name("new.mp4"), Encoding())
    facts = scan_file(str(path), 2, 60.0)
    assert facts.status == "unreadable"
    assert reason in facts.reason


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.wav", "adpcm_ima_wav"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.au", "pcm_s16be"),
        ("a.tta", "tta"),
        ("a.flac", "flac"),
        ("a.voc", "pcm_u8"),
        ("a.sox", "pcm_s32le"),
        ("a.caf", "pcm_s16le"),
        ("a.wv", "wavpack"),
    ],
)
def test_joined_audio_files_are_refused(tmp_path: Path, name: str, codec: str) -> None:
    for rate in (RATE, 2 * RATE):
        first = write(tmp_path / name, None, codec, chirp(1.0, RATE), RATE)
        assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
        second = write(tmp_path / f"second_{name}", None, codec, chirp(1.0, rate), rate)
        (tmp_path / name).write_bytes(first + second)
        assert_refused(tmp_path / name, len(first), "which FFmpeg does not read completely")


@pytest.mark.parametrize("name", ["a.wav", "a.au"])
def test_joined_streamed_audio_is_refused(tmp_path: Path, name: str) -> None:
    data = bytearray(
        write(tmp_path / name, None, "pcm_s16le" if name == "a.wav" else "pcm_s16be", chirp(1, RATE), RATE)
    )
    sizes = (4, data.index(b"data") + 4) if name == "a.wav" else (8,)
    for at in sizes:
        data[at : at + 4] = b"\xff" * 4
    (tmp_path / name).write_bytes(data)
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(data * 2)
    assert_refused(tmp_path / name, len(data), "which FFmpeg does not read completely")


@pytest.mark.parametrize(
    ("name", "video", "audio"), [("a.mxf", "mpeg2video", "pcm_s16le"), ("a.nut", "libx264", "aac")]
)
def test_joined_video_files_are_refused(tmp_path: Path, name: str, video: str, audio: str) -> None:
    data = write(tmp_path / name, video, audio, tone(440, 1, 48_000), 48_000, numbered_frames(25))
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(data * 2)
    assert_refused(tmp_path / name, len(data), "which FFmpeg does not read completely")


@pytest.mark.parametrize(
    ("name", "codec", "audio", "size"),
    [
        ("a.gxf", "mpeg2video", "pcm_s16le", (576, 720)),
        ("a.wtv", "mpeg2video", "mp2", (48, 64)),
        ("a.ogv", "libvpx", "vorbis", (48, 64)),
        ("a.ivf", "libvpx", None, (48, 64)),
    ],
)
def test_other_joined_video_files_are_refused(
    tmp_path: Path, name: str, codec: str, audio: str | None, size: tuple[int, int]
) -> None:
    frames = numbered_frames(110 if name == "a.gxf" else 25, *size)  # GXF repeats its beginning after 100 packets
    samples = tone(440, len(frames) / 25, 48_000)
    data = write(tmp_path / name, codec, audio, samples, 48_000, frames)
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(data * 2)
    assert_refused(tmp_path / name, len(data), "which FFmpeg does not read completely")


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.gif", "gif", "rgb8"), ("a.apng", "apng", "rgb24"), ("a.y4m", "wrapped_avframe", "yuv420p")],
)
def test_joined_animations_are_refused(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for picture in numbered_frames(25):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    data = path.read_bytes()
    facts = scan_file(str(path), 2, 60.0)
    assert facts.status == "ok"
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(facts.duration_s, abs=1e-3)
        assert media.info.duration_s == pytest.approx(1.0, abs=0.05)
    path.write_bytes(data * 2)
    assert_refused(path, len(data), "which FFmpeg does not read completely")


def test_a_tag_before_a_file_is_no_second_file(tmp_path: Path) -> None:
    data = b"ID3\4\0\0\0\0\1\0" + bytes(128) + write(tmp_path / "a.flac", None, "flac", chirp(1.0, RATE), RATE)
    (tmp_path / "a.flac").write_bytes(data)
    assert scan_file(str(tmp_path / "a.flac"), 2, 60.0).status == "ok"
    (tmp_path / "a.flac").write_bytes(data * 2)
    assert_refused(tmp_path / "a.flac", len(data) + 138, "which FFmpeg does not read completely")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("xwma", b"RIFF\x40\0\0\0XWMA"),
        ("qcp", b"RIFF\x40\0\0\0QLCM"),
        ("ape", b"MAC \x96\x0f\0\0\x34\0\0\0"),
        ("tak", b"tBaK\1\x0a\0\0"),
        ("dsf", b"DSD \x1c\0\0\0\0\0\0\0"),
        ("nistsphere", b"NIST_1A\n   1024\n"),
    ],
)
def test_signatures_of_formats_that_ffmpeg_does_not_write(name: str, head: bytes) -> None:
    data = head + bytes(range(256))
    assert joined.unread(io.BytesIO(data), len(data), name, can_search=True) is None
    assert joined.unread(io.BytesIO(data * 2), 2 * len(data), name, can_search=True) == len(data)


def test_several_blocks_of_wavpack_begin_at_the_first_sample(tmp_path: Path) -> None:
    path, channels = tmp_path / "a.wv", 5
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wavpack", rate=RATE, layout="5.0")
        samples = np.stack([chirp(1.0, RATE)] * channels)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="5.0")
        frame.sample_rate = RATE
        for part in av.AudioResampler(stream.format, "5.0", RATE).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert joined.unread(io.BytesIO(data), len(data), "wv", can_search=True) is None
    assert joined.unread(io.BytesIO(data * 2), 2 * len(data), "wv", can_search=True) == len(data)


def chained(path: Path, codec: str, first: tuple[int, str], second: tuple[int, str]) -> list[bytes]:
    """Write two Ogg files of 2 s, with tones of 440 and 880 Hz, one after the other, and return them."""
    parts = []
    for (rate, layout), hz in zip((first, second), (440, 880), strict=True):
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, layout=layout)
            stream.codec_context.options = {"strict": "experimental"}
            frame = av.AudioFrame.from_ndarray(tone(hz, 2, rate)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            size = stream.codec_context.frame_size
            for part in av.AudioResampler(stream.format, layout, rate, frame_size=size or None).resample(frame):
                container.mux(stream.encode(part))
            container.mux(stream.encode())
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    return parts


@pytest.mark.parametrize(
    ("codec", "first", "second"),
    [
        ("vorbis", (48_000, "stereo"), (22_050, "stereo")),
        ("libopus", (48_000, "mono"), (48_000, "stereo")),
        ("flac", (22_050, "mono"), (48_000, "mono")),
    ],
)
def test_chained_ogg_files_that_change_are_refused(
    tmp_path: Path, codec: str, first: tuple[int, str], second: tuple[int, str]
) -> None:
    parts = chained(tmp_path / "a.ogg", codec, first, second)
    assert_refused(tmp_path / "a.ogg", len(parts[0]), "whose codecs, rates or sizes differ")


@pytest.mark.parametrize(
    ("codec", "first", "second"),
    [
        ("flac", (48_000, "mono"), (22_050, "mono")),
        ("flac", (48_000, "mono"), (48_000, "stereo")),
    ],
)
def test_other_chained_ogg_files_are_read(
    tmp_path: Path, codec: str, first: tuple[int, str], second: tuple[int, str]
) -> None:
    chained(tmp_path / "a.ogg", codec, first, second)
    facts = scan_file(str(tmp_path / "a.ogg"), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(4.0, abs=0.05))
    assert [pitch(tmp_path / "a.ogg", start_s) for start_s in (0.5, 1.4, 2.1, 3.4)] == [440, 440, 880, 880]


@pytest.mark.parametrize("options", [{}, {"write_xing": "0"}, {"write_id3v1": "1"}])
def test_joined_mp3_files_with_tags(tmp_path: Path, options: dict[str, str]) -> None:
    path = write_joined(tmp_path / "a.mp3", None, "libmp3lame", container_options=options)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(8.0, abs=0.15))
    assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.2, 7.0)] == [440, 440, 880, 880]
    transcode(str(path), tmp_path / "new.m4a", Encoding())
    assert pitch(tmp_path / "new.m4a", 7.0) == 880


def test_joined_matroska_files_without_sizes_are_read(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mkv", container_options={"live": "1"})
    assert numbers(path, MIDDLES_S) == list(range(200))
    assert (pitch(path, 1.0), pitch(path, 5.0)) == (440, 880)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(8.0, abs=0.1))


@pytest.mark.parametrize(
    ("name", "codec", "live"),
    [("a.mka", "pcm_s16le", False), ("a.mka", "aac", False), ("a.mka", "aac", True), ("a.avi", "pcm_s16le", False)],
)
def test_joined_files_of_different_rates_are_refused(tmp_path: Path, name: str, codec: str, live: bool) -> None:
    options = {"live": "1"} if live else {}
    parts = [
        write(tmp_path / name, None, codec, tone(440, 2, rate), rate, container_options=options)
        for rate in (48_000, 44_100)
    ]
    (tmp_path / name).write_bytes(parts[0] * 2)
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(b"".join(parts))
    assert_refused(tmp_path / name, len(parts[0]), "whose codecs, rates or sizes differ")
    (tmp_path / name).write_bytes(parts[0] * 2 + parts[1])
    assert_refused(tmp_path / name, 2 * len(parts[0]), "whose codecs, rates or sizes differ")


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")])
def test_joined_files_of_different_frame_sizes_are_refused(tmp_path: Path, name: str, codec: str) -> None:
    small, large = (
        write(tmp_path / name, codec, frames=np.zeros((25, height, 96, 3), np.uint8)) for height in (64, 128)
    )
    (tmp_path / name).write_bytes(small + large)
    assert_refused(tmp_path / name, len(small), "whose codecs, rates or sizes differ")


def test_beginnings_of_joined_files(tmp_path: Path) -> None:
    frames = numbered_frames(25)
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx")):
        data = write(tmp_path / name, codec, frames=frames)
        size = len(data)
        assert joined.parts(io.BytesIO(data), size) == []
        assert joined.parts(io.BytesIO(data * 3), 3 * size) == [size, 2 * size]
        assert joined.parts(io.BytesIO(data + bytes(999)), size + 999) == []
        assert joined.parts(io.BytesIO(data[:60]), 60) == []


@pytest.mark.parametrize("block", [200, 2**20])
def test_signatures_across_blocks(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "BLOCK", block)
    data = write(tmp_path / "a.flac", None, "flac", chirp(1.0, RATE), RATE)
    assert joined.unread(io.BytesIO(data), len(data), "flac", can_search=True) is None
    assert joined.unread(io.BytesIO(data * 2), 2 * len(data), "flac", can_search=True) == len(data)
