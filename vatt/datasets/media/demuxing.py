"""Files opened with PyAV, and their packets: what it and FFmpeg do oddly is put right here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from vatt.datasets.media.source import av_input

av.logging.set_level(av.logging.PANIC)  # what matters is raised with the name of the file

# Tags that are not UTF-8; from version 19 on PyAV does so by itself.
ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def open_input(path: str, **options: Any) -> Any:
    """A PyAV container to read from; tags that are not UTF-8, as in old AVI and WAV files, are no reason to refuse it.

    Args:
        path: see `vatt.datasets.media.source`.
        options: of `av.open`.

    Raises:
        av.FFmpegError, OSError, ValueError: it cannot be opened.
    """
    return av.open(av_input(path), **ANY_TAGS, **options)


def demux(container: Any, *streams: Any) -> Iterator[av.Packet]:
    """The packets of these streams, or of all, to the end.

    Raises:
        av.FFmpegError, OSError: it cannot be read any further.
    """
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
        except (StopIteration, IndexError):  # at the end PyAV looks for streams that began after it was opened
            return


def best_stream(container: Any, kind: str) -> Any:
    """The stream a player would choose, if it can be decoded; cover art is no video."""
    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None:
        return None
    if kind == "video" and stream.disposition & stream.disposition.__class__.attached_pic:
        return None
    return stream


def first_line(error: BaseException) -> str:
    """The first line of an error, without the path that FFmpeg appends."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).splitlines()[0]
