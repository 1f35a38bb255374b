"""Codecs of all video and audio streams of a file, as its header describes them."""

from __future__ import annotations

from dataclasses import dataclass

import av

from vatt.media.demuxing import MediaInput, is_still_format
from vatt.media.opening import OPENING_ERRORS, opening_error


@dataclass(frozen=True)
class Stream:
    """A video or audio stream.

    Args:
        kind: "video" or "audio".
        codec: FFmpeg's name of the codec; empty if FFmpeg has no decoder for it.
        profile: FFmpeg's name of the profile; empty if it is unknown.
        pixel_format: FFmpeg's name of the pixel format; empty for audio.
    """

    kind: str
    codec: str
    profile: str = ""
    pixel_format: str = ""


@dataclass(frozen=True)
class Streams:
    """Streams of a file.

    Args:
        container: FFmpeg's name of the format.
        is_still: Whether the format is that of a single still image.
        size: Number of bytes of the file; None if a server does not report it.
        streams: Video and audio streams, in the order of the file. Cover art is left out.
    """

    container: str
    is_still: bool
    size: int | None
    streams: tuple[Stream, ...]


def read_streams(path: str, time_limit_s: float) -> Streams:
    """Read the header of a media file.

    Args:
        path: See `vatt.media.sources.files`.
        time_limit_s: Time limit for opening (clamped to between 1 and 60 s).

    Raises:
        MediaError: The file cannot be opened.
    """
    try:
        with MediaInput(path, time_limit_s) as media:
            container = media.container
            streams = tuple(_stream(stream) for stream in container.streams if _is_media(stream))
            return Streams(container.format.name, is_still_format(container.format.name), media.size, streams)
    except OPENING_ERRORS as error:
        raise opening_error(path, error) from error


def _is_media(stream: av.stream.Stream) -> bool:
    is_cover = stream.disposition & stream.disposition.__class__.attached_pic
    return stream.type in ("video", "audio") and not is_cover


def _stream(stream: av.stream.Stream) -> Stream:
    decoder = stream.codec_context
    if decoder is None:
        return Stream(stream.type, "")
    pixel_format = decoder.pix_fmt or "" if stream.type == "video" else ""
    return Stream(stream.type, decoder.codec.canonical_name, decoder.profile or "", pixel_format)
