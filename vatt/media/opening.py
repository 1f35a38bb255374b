"""Errors of media files that FFmpeg does not open."""

from __future__ import annotations

import av

from vatt.media.demuxing import first_line
from vatt.media.sources.files import read_bytes
from vatt.media.sources.remote import is_url
from vatt.media.types import MediaError, NoMedia

OPENING_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError)  # of `MediaInput`
HEAD = 512  # bytes at the beginning of a file that are examined
MP4_BOXES = (b"ftyp", b"mdat", b"free", b"wide")  # types of the first box of MP4 files
MAGIC = (b"RIFF", b"OggS", b"fLaC", b"FLV", b"ID3", b"FORM", b"caff", b"GIF8")  # media of printable first bytes


def opening_error(path: str, error: Exception) -> MediaError:
    """Return an error that says why a file cannot be opened, as far as its first bytes tell.

    All commands use it, so that they give the same reason for the same file.

    Args:
        path: See `vatt.media.sources.files`.
        error: Error of FFmpeg, or of the file system.
    """
    if isinstance(error, MediaError):
        return error
    head = b""
    if not is_url(path):
        try:
            head = read_bytes(path, 0, HEAD)
        except OSError as unreadable:
            return MediaError(path, first_line(unreadable))
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return NoMedia(path, "a web page (HTML), perhaps in place of a failed download")
    if head and not any(head):
        return NoMedia(path, "begins with zeros, like a file that was never filled")
    if head and not head.startswith(MAGIC) and all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return NoMedia(path, "plain text")
    message = (getattr(error, "log", None) or (0, "", ""))[2].strip()
    if "moov atom not found" in message:  # which FFmpeg also reports for other files with the suffix .mp4
        if head[4:8] in MP4_BOXES:
            return MediaError(path, "has no index (moov atom): cut off, or never finished")
        message = ""
    reason = first_line(error) + (f" ({message})" if message else "")
    return MediaError(path, reason if isinstance(error, OSError) else f"no readable media: {reason}")
