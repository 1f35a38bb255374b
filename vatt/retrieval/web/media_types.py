"""Types of media files by their first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

HEAD = 4096  # bytes that are read to determine the type of a file
MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"OggS\0": "video/ogg",  # also for audio only
    b"fLaC\0": "audio/flac",
    b"#!AMR": "audio/amr",
    b"FLV\x01": "video/x-flv",
    b"\0\0\x01\xba": "video/mpeg",
    b"\0\0\x01\xb3": "video/mpeg",
    b"0&\xb2u\x8ef\xcf\x11": "video/x-ms-asf",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
IN_CHUNKS = {
    b"WAVE": "audio/wav",
    b"AVI ": "video/x-msvideo",
    b"WEBP": "image/webp",
    b"AIFF": "audio/aiff",
    b"AIFC": "audio/aiff",
}
MPEG_AUDIO = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2", b"\xff\xfd", b"\xff\xfc")
ADTS = (b"\xff\xf1", b"\xff\xf9", b"\xff\xf0", b"\xff\xf8")


def media_type(file: Path) -> str | None:
    """Return the type of an audio, video or raster image file by its first bytes, or None for other files.

    With this type and ``nosniff``, a browser does not run scripts that the file may contain.

    Raises:
        OSError: The file cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # does not block on a FIFO
    with os.fdopen(descriptor, "rb") as opened:
        head = opened.read(HEAD) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        return {b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"avif": "image/avif"}.get(head[8:12], "video/mp4")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
        return "video/quicktime"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[:4] in (b"RIFF", b"RF64", b"FORM"):
        return IN_CHUNKS.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "image/bmp"
    if head[:3] == b"ID3" and len(head) > 10 and head[3] < 16 and max(head[6:10]) < 128:
        return "audio/mpeg"
    if len(head) > 3 and head[:2] in MPEG_AUDIO and head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3:
        return "audio/mpeg"
    if len(head) > 3 and head[:2] in ADTS and head[2] >> 2 & 15 < 13:
        return "audio/aac"
    for first, size in ((0, 188), (4, 192)):  # MPEG transport stream, with and without timestamps
        if len(head) > 4 * size and all(head[first + n * size] == 0x47 for n in range(4)):
            return "video/mp2t"
    return None
