from __future__ import annotations

import io
import random
import re
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vatt.media.decoding import open_media
from vatt.media.formats.packets import problem
from vatt.media.types import MediaError

BLOCKS_64, BLOCKS_32, BLOCKS_4 = bytes((5, 4, 4, 0, 1)), bytes((5, 3, 3, 0, 1)), bytes((5, 0, 0, 0, 1))
BOX = b"\0\0\0\1jp2c"  # of a codestream in a JP2 file
SMALL_PRECINCTS = BLOCKS_64 + b"\x11" * 6  # of 2 x 2 samples: code blocks have one sample


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">HH", marker, 2 + len(data)) + data


def codestream(
    width: int, height: int, style: bytes = BLOCKS_64, tile: int = 0, components: int = 3, extra: bytes = b""
) -> bytes:
    """The headers of a JPEG 2000 image."""
    sizes = struct.pack(">H8IH", 0, width, height, 0, 0, tile or width, tile or height, 0, 0, components)
    cod = bytes((len(style) > 5, 0, 0, 1, 0)) + style
    content = segment(0xFF51, sizes + b"\7\1\1" * components) + segment(0xFF52, cod) + extra
    return b"\xff\x4f" + content + segment(0xFF90, struct.pack(">HIBB", 0, 0, 0, 1)) + b"\xff\x93" + bytes(99)


def tile_part(style: bytes) -> bytes:
    """A tile with its own style for the first component, after some packets."""
    coc = segment(0xFF53, bytes((0, len(style) > 5)) + style)
    first = segment(0xFF90, struct.pack(">HIBB", 0, 24, 0, 1)) + b"\xff\x93" + bytes(10)
    return first + segment(0xFF90, struct.pack(">HIBB", 1, 0, 0, 1)) + coc


def progressive(width: int, height: int, factors: tuple[int, ...] = (0x22, 0x11, 0x11)) -> bytes:
    components = b"".join(bytes((i, factor, 0)) for i, factor in enumerate(factors))
    return b"\xff\xd8" + segment(0xFFC2, struct.pack(">BHHB", 8, height, width, len(factors)) + components)


@pytest.mark.parametrize(
    "packet",
    [
        codestream(4096, 2160, BLOCKS_32 + b"\x77" + b"\x88" * 5),  # digital cinema
        codestream(11_648, 8736),  # 100 megapixels
        codestream(11_648, 8736, BLOCKS_32, tile=256),
        codestream(11_648, 8736, BLOCKS_32, tile=1024),
        codestream(16_000, 16_000, components=1),
        codestream(1024, 1024, BLOCKS_4),
    ],
    ids=range(6),
)
def test_usual_jpeg_2000_is_fine(packet: bytes) -> None:
    assert problem("jpeg2000", packet) == ""


@pytest.mark.parametrize(
    ("packet", "match"),
    [
        (codestream(4096, 4096, BLOCKS_4), r"4096 x 4096 .*JPEG 2000 with 3,\d+,\d+ code blocks"),
        (codestream(4096, 4096, SMALL_PRECINCTS), r"JPEG 2000 with 50,\d+,\d+ code blocks"),
        (codestream(4096, 4096, tile=16), "code blocks"),
        (codestream(4096, 4096, extra=tile_part(BLOCKS_4)), "code blocks"),
        (codestream(4096, 4096, extra=tile_part(SMALL_PRECINCTS)), "code blocks"),
        (codestream(4096, 4096, extra=segment(0xFF64, b"\0\1a") + b"\xff\x30" + segment(0xFF52, bytes(5) + BLOCKS_4)),
         "code blocks"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + BOX + codestream(9, 9) + BOX + bytes(8) + codestream(4096, 4096, BLOCKS_4),
         "code blocks"),
        (codestream(16_000, 16_000), "16000 x 16000 .*JPEG 2000 with 3 components"),
        (codestream(2**32 - 1, 2**32 - 1, components=9000), "components"),
    ],
    ids=range(9),
)  # fmt: skip
def test_jpeg_2000_that_would_fill_the_memory_is_refused(packet: bytes, match: str) -> None:
    assert re.search(match, problem("jpeg2000", packet))
    assert problem("png", packet) == ""


def test_progressive_jpeg_is_bounded_by_its_coefficients() -> None:
    assert problem("mjpeg", progressive(16_320, 12_240)) == ""  # 200 megapixels with subsampled colors
    assert problem("mjpeg", progressive(11_648, 8736, (0x11,) * 3)) == ""
    assert problem("mjpeg", progressive(16_000, 16_000, (0x11,))) == ""
    for factors in ((0x11,) * 3, (0x22,) * 3, (0x11, 0x22, 0x22), (0x11,) * 4):
        assert "16000 x 16000 pixels would take too much memory (progressive JPEG)" in problem(
            "mjpeg", progressive(16_000, 16_000, factors)
        )


def test_checks_take_no_seconds() -> None:
    began = time.monotonic()
    styles = b"".join(segment(0xFF52, bytes(5) + BLOCKS_64 + number.to_bytes(4)) for number in range(99_999))
    for name, packet in (
        ("mjpeg", progressive(9, 9) * 500_000),
        ("jpeg2000", b"jp2c\xff\x4f\xff" * 500_000),
        ("jpeg2000", codestream(9, 9, extra=segment(0xFF64, b"") * 500_000)),
        ("jpeg2000", codestream(9, 9, extra=styles)),
    ):
        assert re.fullmatch(r"its image has more than .* headers", problem(name, packet))
    assert time.monotonic() - began < 5


def test_images_of_pillow_are_read(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8))
    image.save(tmp_path / "a.jp2", codeblock_size=(16, 16), precinct_size=(128, 128), tile_size=(256, 256))
    image.save(tmp_path / "b.jpg", progressive=True)
    for path in (tmp_path / "a.jp2", tmp_path / "b.jpg"):
        with open_media(path) as media:
            assert media.frames([0.0]).frames.shape == (1, 3, 600, 800)


def test_small_files_with_many_pixels_are_refused(tmp_path: Path) -> None:
    """A block of 8 x 8 pixels takes a bit or more, even without details."""
    content = io.BytesIO()
    Image.new("L", (64, 64)).save(content, "JPEG", progressive=True)
    data = bytearray(content.getvalue())
    at = data.index(b"\xff\xc2") + 5
    data[at : at + 4] = struct.pack(">HH", 8100, 8100)
    (tmp_path / "a.jpg").write_bytes(bytes(data) + bytes(10_000))
    (tmp_path / "a.j2k").write_bytes(codestream(8100, 8100))
    for name in ("a.jpg", "a.j2k"):
        with pytest.raises(MediaError), open_media(tmp_path / name) as media:
            media.frames([0.0])


def test_damaged_headers_raise_nothing() -> None:
    rng = random.Random(0)
    for name, content in (
        ("jpeg2000", codestream(999, 999, SMALL_PRECINCTS, tile=100, extra=tile_part(BLOCKS_64))),
        ("mjpeg", progressive(999, 999)),
    ):
        for _ in range(500):
            damaged = bytearray(content[: rng.randrange(1, len(content))] if rng.random() < 0.3 else content)
            for _ in range(rng.randrange(1, 9)):
                damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 8, 255, rng.randrange(256)))
            assert isinstance(problem(name, damaged), str)
