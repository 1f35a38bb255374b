"""Recognition of media files by their content, and of files outside the roots."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from vatt.retrieval.index import Index
from vatt.retrieval.vectors import Vectors
from vatt.retrieval.web.library import Library
from vatt.retrieval.web.media_types import media_type

VIDEO = {  # container: codec and type
    "mp4": ("mpeg4", "video/mp4"),
    "mov": ("mpeg4", "video/mp4"),
    "matroska": ("mpeg4", "video/x-matroska"),
    "webm": ("libvpx", "video/webm"),
    "avi": ("mpeg4", "video/x-msvideo"),
    "mpegts": ("mpeg2video", "video/mp2t"),
    "mpeg": ("mpeg2video", "video/mpeg"),
    "flv": ("flv1", "video/x-flv"),
    "asf": ("mpeg4", "video/x-ms-asf"),
}
AUDIO = {
    "wav": ("pcm_s16le", "audio/wav"),
    "mp3": ("libmp3lame", "audio/mpeg"),
    "adts": ("aac", "audio/aac"),
    "ipod": ("aac", "audio/mp4"),
    "flac": ("flac", "audio/flac"),
    "ogg": ("libopus", "video/ogg"),
    "aiff": ("pcm_s16be", "audio/aiff"),
}
IMAGES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp", "BMP": "image/bmp"}


def write_video(file: Path, container: str, codec: str) -> None:
    with av.open(str(file), "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def write_audio(file: Path, container: str, codec: str, options: dict[str, str]) -> None:
    with av.open(str(file), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=48_000)
        resampler = av.AudioResampler(stream.codec_context.format, "mono", 48_000, stream.frame_size or 1024)
        tone = np.sin(np.arange(24_000, dtype=np.float32) / 10)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode())


@pytest.mark.parametrize("container", VIDEO)
def test_videos_are_recognized_by_content(tmp_path: Path, container: str) -> None:
    codec, expected = VIDEO[container]
    write_video(tmp_path / "film.html", container, codec)
    assert media_type(tmp_path / "film.html") == expected


@pytest.mark.parametrize("container", AUDIO)
@pytest.mark.parametrize("tags", [True, False])
def test_audio_is_recognized_by_content(tmp_path: Path, container: str, tags: bool) -> None:
    codec, expected = AUDIO[container]
    options = {} if tags or container != "mp3" else {"id3v2_version": "0", "write_xing": "0"}
    write_audio(tmp_path / "sound.svg", container, codec, options)
    assert media_type(tmp_path / "sound.svg") == expected


@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_recognized_by_content(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "image.txt", kind)
    assert media_type(tmp_path / "image.txt") == IMAGES[kind]


@pytest.mark.parametrize(
    "text",
    [
        "<html>", "ID3 is a tag", "BM<html>", "RIFF and more", "FORM and more", "OggS", "fLaC", "GIF88a", "#!/bin/sh",
        "ftypisom<html>", "free<html>", "G" * 1000, "\ufeff<html>", "GIF", "\x89PNG", "%PDF-1.4", "{}", "",
    ],
)  # fmt: skip
def test_texts_are_not_media(tmp_path: Path, text: str) -> None:
    for encoding in ("utf-8", "utf-16", "utf-16-be", "utf-32"):
        (tmp_path / "text.mp4").write_bytes(text.encode(encoding))
        kind = media_type(tmp_path / "text.mp4")
        assert kind is None or (set(text) == {"G"} and kind == "video/mp2t")  # every byte is a sync byte


def test_special_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    assert media_type(tmp_path / "fifo.mp4") is None
    assert media_type(Path("/dev/null")) is None
    with pytest.raises(OSError, match="No such file"):
        media_type(tmp_path / "gone.mp4")


def test_media_behind_links_that_lead_outside_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for name in ("links", "films", "more"):
        (tmp_path / name).mkdir()
    for name in ("films/a.mp4", "more/b.mp4", "links/c.mp4"):
        (tmp_path / name).write_bytes(b"film")
    (tmp_path / "links" / "a.mp4").symlink_to(tmp_path / "films" / "a.mp4")
    (tmp_path / "links" / "b.mp4").symlink_to(tmp_path / "more" / "b.mp4")
    (tmp_path / "links" / "gone.mp4").symlink_to(tmp_path / "gone.mp4")
    paths = [f"{tmp_path}/links/{name}.mp4" for name in ("a", "b", "c", "gone")]
    texts, times_s = pa.nulls(5, pa.string()), np.zeros(5)
    columns = {"id": list("abcde"), "path": [*paths, "https://host/a.mp4"], "start_s": times_s, "end_s": times_s}
    columns |= {"clip_start_s": times_s, "clip_end_s": times_s}
    vectors = Vectors.build(np.ones((5, 2), np.float32), pa.table({**columns, "text": texts, "extra": texts}))
    index = Index({("video", "video_text"): vectors}, "m", None, roots=[f"{tmp_path}/links", "https://host"])
    roots = [str(tmp_path / name) for name in ("films", "links", "more")]
    assert Library(index, None).roots == (tmp_path / "links",)
    description = Library(index, None).describe_outside()
    assert description.startswith("2 of 4 media files lie outside these directories after resolving symbolic links")
    assert description.endswith(f"set --roots [{','.join(roots)}]")
    assert Library(index, None, roots=roots).describe_outside() is None
