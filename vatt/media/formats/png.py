"""Check PNG files before FFmpeg opens them: image size, and the size of texts and profiles after expansion."""

from __future__ import annotations

import io
import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_IMAGE = 2**30  # bytes of the decoded image: 16,384 x 16,384 pixels of four channels
MAX_EXPANDED = 2**24  # bytes; color profiles have a few megabytes at most
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
COMPRESSED = (b"iCCP", b"zTXt")  # a keyword, a NUL, the method and the data; FFmpeg does not expand "iTXt"


def problem(file: io.RawIOBase, size: int) -> str:
    """Return why FFmpeg must not open a file, or an empty string. Files of other formats pass the check.

    Args:
        file: Seekable file.
        size: Its length in bytes.

    Raises:
        OSError, MediaError: The file cannot be read.
    """
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return ""
    reader, at, expanded = io.BufferedReader(file), len(SIGNATURE), 0
    try:
        while size - at >= 12:
            reader.seek(at)
            head = reader.read(8)
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind == b"IHDR":
                width, height, depth, color = struct.unpack(">IIBB", reader.read(10).ljust(10, b"\0"))
                bits = CHANNELS.get(color, 1) * depth
                if width * height * bits > 8 * MAX_IMAGE:
                    return f"{width} x {height} pixels of {bits} bits would take gigabytes of memory"
            if kind in COMPRESSED:
                expanded += _expanded_size(reader.read(min(length, MAX_EXPANDED)))
            if expanded > MAX_EXPANDED:
                return f"its texts and color profiles expand to more than {MAX_EXPANDED:,} bytes"
            at += 12 + length
    finally:
        reader.detach()
    return ""


def _expanded_size(chunk: bytes) -> int:
    """Return the uncompressed size of a chunk, up to `MAX_EXPANDED` + 1."""
    expander = zlib.decompressobj()
    try:
        return len(expander.decompress(chunk[chunk.find(b"\0") + 2 :], MAX_EXPANDED + 1))
    except zlib.error:  # FFmpeg does not read it either
        return 0
