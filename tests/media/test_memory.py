"""Memory limits: headers that declare too much."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media.movies import movie, tables, track
from vatt.media import demuxing
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.formats.png import MAX_EXPANDED
from vatt.media.formats.png import problem as png_problem
from vatt.media.types import MediaError


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, depth: int = 8, color: int = 2, padding: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    image = chunk(b"IDAT", zlib.compress(bytes(9999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + image + bytes(padding)


def tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (277, 1), (278, height), (279, 1000)]
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        + bytes(2000)
    )


def bombs() -> dict[str, bytes]:
    text = zlib.compress(bytes(2**27), 9)
    webp = b"VP8L" + struct.pack("<I", 20) + b"\x2f\xff\xff\xff\x0f" + bytes(15)
    bmp = struct.pack("<IiiHHIIiiII", 40, 16000, 16000, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "large.png": png(16000, 16000),
        "huge.png": png(100_000, 100_000, padding=2**16),
        "deep.png": png(16000, 16000, depth=16, color=6, padding=2**16),
        "text.png": png(9, 9, chunk(b"zTXt", b"a\0\0" + text)),
        "profile.png": png(9, 9, chunk(b"iCCP", b"a\0\0" + text)),
        "texts.png": png(9, 9, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22)))] * 40),
        "large.tif": tiff(16000, 16000),
        "huge.tif": tiff(100_000, 100_000),
        "large.webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "large.bmp": b"BM" + struct.pack("<IHHI", 1054, 0, 0, 54) + bmp + bytes(1000),
        "large.qoi": b"qoif" + struct.pack(">II", 16000, 16000) + b"\4\0" + b"\xfd" * 5000 + bytes(7) + b"\1",
        "large.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(99),
        "samples.mp4": movie(track(table=tables(2**26, 1))),
        "tracks of samples.mp4": movie(*(track(number, table=tables(2**24, 1)) for number in range(1, 99))),
        "tracks.mp4": movie(*(track(number) for number in range(1, 3000))),
        "image in a movie.mov": movie(track(codec=b"png "), data=png(16000, 16000) + bytes(4000)),
    }


SCRIPT = """
import resource, sys, warnings
from pathlib import Path
from vatt.media.decoding import open_media
from vatt.media.types import MediaError
from vatt.media.inspection import read_packets
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (lambda: open_media(path).frames([0.0]), lambda: read_packets(str(path))):
        try:
            read()
            print(path.name, "was read")
        except MediaError as error:
            print(path.name, type(error).__name__)
        if peak() - before > 300:
            sys.exit(f"{path.name} took {peak() - before} MB")
"""


def test_no_header_exhausts_memory(tmp_path: Path) -> None:
    for name, content in bombs().items():
        (tmp_path / name).write_bytes(content)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(bombs())
    assert all(line.endswith("MediaError") for line in lines[::2]), done.stdout  # frames


def test_large_frames_and_images_are_read(tmp_path: Path) -> None:
    Image.new("L", (12_000, 9_000), 200).save(tmp_path / "a.png")
    with open_media(tmp_path / "a.png") as media:
        assert (media.info.width, media.info.height) == (12_000, 9_000)
    write_media(tmp_path / "8k.mp4", np.full((1, 4320, 7680, 3), 200, np.uint8), 25)
    with open_media(tmp_path / "8k.mp4") as media:
        assert (media.info.width, media.info.height) == (7680, 4320)


def test_too_large_frames_are_reported(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demuxing, "MAX_VIDEO_PIXELS", 64 * 48)
    open_media(video_file).close()
    monkeypatch.setattr(demuxing, "MAX_VIDEO_PIXELS", 64 * 48 - 1)
    with pytest.raises(
        MediaError, match="frames of 64 x 48 pixels are too large; the limit for a file of this size is 3,071"
    ):
        open_media(video_file)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_png_texts_are_accepted_up_to_the_limit(kind: bytes, tmp_path: Path) -> None:
    for size, is_fine in ((MAX_EXPANDED - 1000, True), (MAX_EXPANDED + 1000, False)):
        content = png(9, 9, chunk(kind, b"a\0\0" + zlib.compress(bytes(size))))
        assert (png_problem(io.BytesIO(content), len(content)) == "") == is_fine  # type: ignore[arg-type]
    for content in (png(9, 9)[:20], png(9, 9, chunk(kind, b"")), png(9, 9, chunk(kind, b"a\0\0broken")), b"\x89PNG"):
        assert png_problem(io.BytesIO(content), len(content)) == ""  # type: ignore[arg-type]


def test_size_of_decoded_media_is_limited(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_media(video_file) as media:
        with pytest.raises(MediaError, match="of audio take more than 4 GiB"):
            media.waveform(0.0, 1e6, 48_000)
        monkeypatch.setattr("vatt.media.reader.MAX_BYTES", 30 * 3 * 48 * 64)
        with pytest.raises(MediaError, match="its frames take more than"):
            media.all_frames()
