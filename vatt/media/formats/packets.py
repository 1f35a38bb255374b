"""Check JPEG and JPEG 2000 images before FFmpeg decodes them: memory that depends on more than the number of pixels.

FFmpeg keeps the coefficients of JPEG 2000 and of progressive JPEG for the whole image. For every code block of
JPEG 2000 (ISO/IEC 15444-1, annexes A and B), it allocates about 150 bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

MAX_BYTES = 3 * 2**29  # of coefficients and pixels of an image: 100 megapixels of JPEG 2000 fit
MAX_BLOCKS, SAMPLES_PER_BLOCK = 2**18, 256  # code blocks of any image, and more if they have 16 x 16 samples or more
TOO_LARGE = "decoding its image of {} x {} pixels would take too much memory ({})"
# Progressive frame header (ITU-T T.81, B.2.2): length, number of bits, height, width, number of components, components.
PROGRESSIVE = re.compile(rb"\xff\xc2\0[\x0b\x0e\x11\x14].(....[\1-\4])", re.DOTALL)
CODESTREAM = re.compile(rb"(?:\A|jp2c(?:.{8})?)(\xff\x4f\xff)", re.DOTALL)  # alone, or in the box of a JP2 file
MAX_HEADERS, MAX_SEGMENTS, MAX_STYLES = 16, 2**18, 2**10  # that are read: more of them would take seconds
SIZ, COD, COC, SOT, SOD, END = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9


def problem(codec: str, packet: Any) -> str:
    """Return why FFmpeg must not decode a packet, or an empty string. Packets of other codecs pass the check.

    Args:
        codec: FFmpeg's name of the decoder.
        packet: Bytes, or an object with the buffer protocol.
    """
    if codec not in CHECKS:
        return ""
    pattern, check = CHECKS[codec]
    data, headers = memoryview(packet), list(islice(pattern.finditer(packet), MAX_HEADERS + 1))
    if len(headers) > MAX_HEADERS:
        return f"its image has more than {MAX_HEADERS} headers"
    return next(filter(None, (check(data[header.start(1) :]) for header in headers)), "")


def _jpeg_problem(data: memoryview) -> str:
    height, width = int.from_bytes(data[:2]), int.from_bytes(data[2:4])
    factors = [(byte >> 4 or 1, byte & 15 or 1) for byte in data[6 : 5 + 3 * data[4] : 3]] or [(1, 1)]
    blocks = math.ceil(width / (8 * max(h for h, _ in factors))) * math.ceil(height / (8 * max(v for _, v in factors)))
    samples = 64 * blocks * sum(h * v for h, v in factors)
    return TOO_LARGE.format(width, height, "progressive JPEG") if 3 * samples > MAX_BYTES else ""


def _jpeg_2000_problem(data: memoryview) -> str:
    size, styles = None, set()
    for number, (marker, payload) in enumerate(_segments(data)):
        if number > MAX_SEGMENTS or len(styles) > MAX_STYLES:
            return f"its image has more than {number:,} headers"
        if marker == SIZ and size is None and len(payload) >= 36:
            size = payload
        elif marker == COD and payload:
            styles.add((payload[0] & 1, payload[5:]))
        elif marker == COC and len(payload) > 1:
            styles.add((payload[1] & 1, payload[2:]))
    if size is None:
        return ""
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(size[at : at + 4]) for at in range(2, 34, 4)
    )
    width, height, components = max(0, right - left), max(0, bottom - top), int.from_bytes(size[34:36])
    if not min(width, height, tile_width, tile_height):
        return ""  # FFmpeg does not read it either
    samples = width * height * components
    if 5 * samples > MAX_BYTES:
        return TOO_LARGE.format(width, height, f"JPEG 2000 with {components} components")
    tiles = math.ceil((right - tile_left) / tile_width) * math.ceil((bottom - tile_top) / tile_height)
    tile = min(width, tile_width), min(height, tile_height)
    blocks = tiles * components * max((_blocks(*tile, *style) for style in styles), default=0)
    if blocks > MAX_BLOCKS + samples // SAMPLES_PER_BLOCK:
        return TOO_LARGE.format(width, height, f"JPEG 2000 with {blocks:,} code blocks")
    return ""


def _segments(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield markers and payloads of the headers of a JPEG 2000 codestream, including those of its tiles."""
    at, part_end = 2, len(data)
    while len(data) - at >= 4:
        marker, length = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
        if 0xFF30 <= marker <= 0xFF3F:
            at += 2
        elif marker == SOD:
            at = max(at + 2, part_end)
        elif marker == END or marker < 0xFF00 or length < 2:
            return
        else:
            payload = bytes(data[at + 4 : at + 2 + length])
            if marker == SOT:
                part_end = at + int.from_bytes(payload[2:6]) if any(payload[2:6]) else len(data)
            yield marker, payload
            at += 2 + length


def _blocks(width: int, height: int, has_precincts: int, style: bytes) -> int:
    """Return the largest number of code blocks of one component of a tile.

    Args:
        width, height: Size of the tile.
        has_precincts: Whether the style ends with the sizes of the precincts.
        style: Number of levels, exponents of the size of code blocks less 2, modes, filter, and precincts.
    """
    if len(style) < 5:
        return 0
    total = 0
    for level in range(levels := min(style[0], 32) + 1):
        precinct = style[5 + level] if has_precincts and len(style) > 5 + level else 0xFF
        per_axis = []
        for length, exponent, precinct_exponent in (
            (width, style[1], precinct & 15),
            (height, style[2], precinct >> 4),
        ):
            is_detail = level > 0
            shift = levels - 1 - level + is_detail  # of the size of a band
            block = min(exponent + 2, max(0, precinct_exponent - is_detail))
            per_axis.append(math.ceil(length / 2 ** (shift + block)) + 1)
        total += (3 if level else 1) * per_axis[0] * per_axis[1]
    return total


CHECKS: dict[str, tuple[re.Pattern[bytes], Callable[[memoryview], str]]] = {
    "mjpeg": (PROGRESSIVE, _jpeg_problem),
    "jpeg2000": (CODESTREAM, _jpeg_2000_problem),
}
