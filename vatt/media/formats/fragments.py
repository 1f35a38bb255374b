"""Fragments of MP4 files, their order, and second files behind the first one (ISO/IEC 14496-12, section 8.8)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from vatt.media.formats.boxes import BUFFER, READ, iterate_boxes

BEGINS = (b"ftyp", b"styp", b"moov", b"free", b"skip", b"wide", b"pdin", b"sidx")  # types of the first box
REMOTE_BOXES = 16  # boxes of a remote file that are inspected; each may need a request to the server


@dataclass
class Fragments:
    """What the boxes at the top of an MP4 file say.

    Args:
        is_fragmented: Whether its samples are, or may be, in fragments.
        second_file_at: Byte at which another file begins; None if there is none.
        not_later_at: Byte at which a fragment begins that is not later than one before it; None if there is none.
    """

    is_fragmented: bool = False
    second_file_at: int | None = None
    not_later_at: int | None = None


def inspect_fragments(file: io.RawIOBase, size: int, max_boxes: int | None = None) -> Fragments:
    """Inspect the boxes at the top of an MP4 file.

    Args:
        file: Seekable file.
        size: Its length in bytes.
        max_boxes: Number of boxes that are inspected; all by default.

    Raises:
        OSError, MediaError: The file cannot be read.
    """
    reader, result, has_begun = io.BufferedReader(file, BUFFER), Fragments(), False
    latest: dict[int, int] = {}  # time of the last fragment of each track
    try:
        begin = 0
        for kind, start, end in islice(iterate_boxes(reader, 0, size), max_boxes):
            if kind == b"ftyp":
                result.second_file_at = begin if has_begun and result.second_file_at is None else result.second_file_at
                has_begun = True
            elif kind == b"moov":
                result.is_fragmented = any(inner == b"mvex" for inner, _, _ in iterate_boxes(reader, start, end))
            elif kind == b"moof" and result.not_later_at is None and end - start <= READ:
                times = _decode_times(reader, start, end)
                if any(time <= latest.get(track, -1) for track, time in times.items()):
                    result.not_later_at = begin
                latest |= times
            begin = end
    finally:
        reader.detach()
    return result


def _decode_times(file: BinaryIO, begin: int, end: int) -> dict[int, int]:
    """Return the decode time of the first sample of each track of a fragment that has samples, in ticks."""
    file.seek(begin)
    content, result = io.BytesIO(file.read(end - begin)), dict[int, int]()
    for kind, start, stop in iterate_boxes(content, 0, end - begin):
        if kind != b"traf":
            continue
        track, time, samples = None, None, 0
        for inner, inner_start, inner_stop in iterate_boxes(content, start, stop):
            payload = content.getbuffer()[inner_start:inner_stop]
            if inner == b"tfhd":
                track = int.from_bytes(payload[4:8])
            elif inner == b"tfdt" and len(payload):
                time = int.from_bytes(payload[4 : 12 if payload[0] == 1 else 8])
            elif inner == b"trun":
                samples += int.from_bytes(payload[4:8])
        if track is not None and time is not None and samples:
            result.setdefault(track, time)
    return result
