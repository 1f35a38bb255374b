"""Types of media files by their first bytes, and which files browsers play as they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from vatt.media.sources.files import read_bytes, split_member, state
from vatt.media.sources.remote import is_url
from vatt.media.tracks.streams import Stream, Streams, read_streams
from vatt.media.types import MediaError

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

# Files in which Chrome, Firefox and Safari play a segment exactly: FFmpeg's names of the format and of codecs, by media
# type. Ogg and ADTS are not listed: they have no index, and browsers estimate positions in them.
MP4 = ("mov,mp4,m4a,3gp,3g2,mj2", {"h264", "vp9", "av1", "aac", "mp3", "opus", "flac"})
NATIVE = {
    "video/mp4": MP4,
    "audio/mp4": MP4,
    "video/webm": ("matroska,webm", {"vp8", "vp9", "av1", "opus", "vorbis"}),
    "audio/mpeg": ("mp3", {"mp3"}),
    "audio/flac": ("flac", {"flac"}),
    "audio/wav": ("wav", {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"}),
}
PROFILES = {
    "h264": {"Baseline", "Constrained Baseline", "Main", "High"},
    "aac": {"LC", "HE-AAC", "HE-AACv2"},
}
PIXEL_FORMATS = {"yuv420p", "yuvj420p"}
OPEN_LIMIT_S = 1.0  # time limit of reading the codecs of a file

Delivery = Literal["media", "clip"]


def media_type(file: Path) -> str | None:
    """Return the type of an audio, video or raster image file by its first bytes, or None for other files.

    With this type and ``nosniff``, a browser does not run scripts that the file may contain.

    Raises:
        OSError: The file cannot be read.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # does not block on a FIFO
    with os.fdopen(descriptor, "rb") as opened:
        return type_of(opened.read(HEAD) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b"")


def delivery(source: str, read: Callable[[str, float], Streams] = read_streams) -> Delivery | None:
    """Return how the page plays a file.

    Args:
        source: File, member of a shard or URL, as `vatt.media.decoding.open_media` opens it.
        read: Reads the streams of a source within a time limit.

    Returns:
        "media" if browsers play the file as it is, "clip" if a segment of it is transcoded for them, and None for still
        images. Shards, URLs other than HTTP, and files that cannot be opened are "clip".
    """
    file, _, size = split_member(source)
    if is_url(file):  # not opened, since a server may be slow; the script of the page falls back to "clip"
        return "media" if size is None and file.startswith(("http://", "https://")) else "clip"
    try:
        return _delivery(source, state(source), read)
    except OSError:
        return "clip"


@lru_cache(maxsize=2**14)
def _delivery(source: str, _: tuple[int, int], read: Callable[[str, float], Streams]) -> Delivery | None:
    head = read_bytes(source, 0, HEAD)
    kind = type_of(head)
    if kind is not None and kind not in NATIVE and not kind.startswith("image/"):
        return "clip"
    try:
        file = read(source, OPEN_LIMIT_S)
    except MediaError:
        return "clip"
    if file.is_still:
        return None
    is_exact = split_member(source)[2] is None and _is_native(kind, file)
    if kind == "audio/wav":  # the size in the header may be wrong, as after writing to a pipe
        is_exact &= int.from_bytes(head[4:8], "little") + 8 == file.size
    elif kind == "audio/mpeg":
        is_exact &= _has_constant_rate(source, head)
    return "media" if is_exact else "clip"


def _has_constant_rate(source: str, head: bytes) -> bool:
    """Return whether the first frame of an MP3 file declares a constant bit rate."""
    tag = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)) + 10  # ID3v2.4.0, 3.1
    return b"Info" in read_bytes(source, tag if head[:3] == b"ID3" else 0, 64)


def _is_native(kind: str | None, file: Streams) -> bool:
    """Return whether browsers play all streams. Of several streams of a kind, a browser might play another one."""
    container, codecs = NATIVE.get(kind or "", ("", set()))
    kinds = [stream.kind for stream in file.streams]
    is_known = file.container == container and len(kinds) == len(set(kinds))
    return is_known and all(_is_native_codec(stream, codecs) for stream in file.streams)


def _is_native_codec(stream: Stream, codecs: set[str]) -> bool:
    if stream.codec not in codecs or stream.profile not in PROFILES.get(stream.codec, {stream.profile}):
        return False
    return stream.kind == "audio" or stream.pixel_format in PIXEL_FORMATS


def type_of(head: bytes) -> str | None:
    """Return the type of a file by its first `HEAD` bytes; see `media_type`."""
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
