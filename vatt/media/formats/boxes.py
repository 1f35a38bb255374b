"""Check MP4 and QuickTime files before FFmpeg opens them: references to other files, and huge tables.

A few bytes can declare any number of samples. FFmpeg allocates about 40 bytes for each, and no option limits that. The
structure is that of ISO/IEC 14496-12 and QuickTime. As in FFmpeg, any box may contain any other.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

import numpy as np

MAX_SAMPLES = 2**24  # of all tracks together: 38 hours at 120 frames per second
MAX_ITEMS = 2**20  # entries of a table with larger entries
MAX_BOXES = 2**18
MAX_DEPTH = 12  # FFmpeg gives up at 10
MAX_HEADER = 2**25  # bytes of a compressed header after decompression
PCM_PACKET = 160  # least number of samples of uncompressed audio in one packet of FFmpeg, except at the end of a chunk
REFERS = "QuickTime reference movies are not supported: this one refers to other files"
TOO_LARGE = "its header declares {} and would take gigabytes of memory"

PARENTS = frozenset(
    b"moov trak mdia minf stbl dinf edts mvex moof traf udta ilst sinf schi tref iprp ipco strk cmov".split()
)
HIDING = (b"free", b"hoov")  # FFmpeg searches these for a header
# Offsets of the 32-bit number of entries of tables, in bytes from the start of the payload.
COUNT_AT = {b"stsz": 8, b"stz2": 8, b"stco": 4, b"co64": 4, b"trun": 4, b"elst": 4, b"senc": 4, b"uuid": 20, b"keys": 4}
COUNT_AT |= {b"iinf": 4, b"iloc": 6}
# Tables of runs. Offsets of the first entry, and the 32-bit numbers of an entry.
RUNS_AT = {b"stsc": (8, 3), b"ctts": (8, 2), b"sbgp": (12, 2)}
SINCE_VERSION = {b"iinf": 1, b"iloc": 2}  # earlier versions have 16-bit numbers
ENCRYPTION = bytes.fromhex("a2394f525a9b4f14a2446c427c648df4")  # the "senc" of Microsoft's PIFF
READ, BUFFER = 2**16, 2**12  # bytes of a payload that are parsed; bytes read at once to find the next box
# A long file has thousands of fragments. Fragments without these tables, and with few samples in anything that could be
# a "trun", are not parsed.
RUN, USUAL_SAMPLES = re.compile(rb"trun(?=.{4}(.{4}))", re.DOTALL), 2**16
NOT_IN_FRAGMENTS = re.compile(b"|".join([kind for kind in COUNT_AT if kind != b"trun"] + [b"trak", b"cmov", b"dref"]))


class _Refused(Exception):
    pass


@dataclass
class _Track:
    handlers: set[bytes] = field(default_factory=set)
    samples: int = 0
    chunks: int = 0
    runs: int = 0  # samples in tables of runs, which FFmpeg expands to 4 bytes for each sample
    edits: int = 1
    is_even: bool = True  # every sample lasts one tick, as in uncompressed audio
    is_external: bool = False
    chunk_tables: list[np.ndarray] = field(default_factory=list)  # (N, 2) first chunk and samples per chunk

    @property
    def entries(self) -> int:
        """Number of 40-byte entries in FFmpeg's tables. Edits may repeat its index, whose entries are half as large."""
        is_pcm = self.is_even and b"soun" in self.handlers and b"vide" not in self.handlers
        packets = max((_packets(table, self.chunks) for table in self.chunk_tables), default=0)
        index = packets if is_pcm else max(self.samples, packets)
        return max(index, index * self.edits // 2) + self.runs // 10


class _Header:
    def __init__(self) -> None:
        self.boxes = self.samples = self.tracks = 0
        self.has_alternatives = False

    def visit(self, file: BinaryIO, begin: int, end: int, depth: int = 0, track: _Track | None = None) -> None:
        """Visit all boxes between two byte positions."""
        for kind, start, stop in iterate_boxes(file, begin, end) if depth <= MAX_DEPTH else ():
            self.boxes += 1
            if self.boxes > MAX_BOXES:
                raise _Refused(TOO_LARGE.format(f"more than {MAX_BOXES:,} boxes"))
            if kind == b"trak":
                inner = _Track()
                self.visit(file, start, stop, depth + 1, inner)
                self.add(inner)
            elif kind == b"moof" and stop - start <= READ and self.is_usual(_read(file, start, stop)):
                continue
            elif kind == b"cmvd":
                header = _decompress(_read(file, start + 4, stop, MAX_HEADER))
                self.visit(io.BytesIO(header), 0, len(header), depth + 1)
            elif kind == b"rmra":
                self.has_alternatives = True
            elif kind == b"meta":
                at = max(4, _read(file, start, stop).find(b"hdlr"))
                self.visit(file, start + at - 4, stop, depth + 1, track)
            elif kind in PARENTS or (kind in HIDING and _read(file, start + 4, stop, 4) in (b"mvhd", b"cmov")):
                self.visit(file, start, stop, depth + 1, track)
            elif kind in COUNT_AT or kind in (b"stts", b"hdlr", b"dref"):
                self.record(kind, _read(file, start, stop), track or _Track())
            elif kind in RUNS_AT:
                self.record_runs(kind, _runs(file, kind, start, stop), track or _Track())

    def is_usual(self, fragment: bytes) -> bool:
        """Count the samples of a fragment and return True if they are few and it has no other table with a count."""
        samples = sum(int.from_bytes(count) for count in RUN.findall(fragment))
        if samples > USUAL_SAMPLES or NOT_IN_FRAGMENTS.search(fragment):
            return False
        self.count(samples)
        return True

    def record(self, kind: bytes, payload: bytes, track: _Track) -> None:
        """Record a table."""
        if kind == b"hdlr":
            track.handlers.add(payload[8:12])
        elif kind == b"dref":
            track.is_external |= _is_external(payload)
        elif kind == b"stts":
            track.is_even &= payload[4:8] == payload[12:16] == b"\0\0\0\1"
        elif payload[:1] >= bytes([SINCE_VERSION.get(kind, 0)]) and (kind != b"uuid" or payload.startswith(ENCRYPTION)):
            count = int.from_bytes(payload[COUNT_AT[kind] : COUNT_AT[kind] + 4])
            if kind in (b"stsz", b"stz2"):
                track.samples = max(track.samples, count)
            elif kind in (b"stco", b"co64"):
                track.chunks = max(track.chunks, count)
            elif kind == b"elst":
                track.edits = max(track.edits, count)
            elif kind == b"trun":
                self.count(count)
            elif count > MAX_ITEMS:
                raise _Refused(TOO_LARGE.format(f"more than {MAX_ITEMS:,} items"))

    def record_runs(self, kind: bytes, table: np.ndarray, track: _Track) -> None:
        """Record a table whose entries stand for many chunks or samples."""
        if kind == b"stsc":
            track.chunk_tables.append(table[:, :2])
        else:
            track.runs += int(table[:, 0].sum())

    def add(self, track: _Track) -> None:
        """Record a track after all of its boxes."""
        self.tracks += 1
        self.count(track.entries)
        if track.is_external and track.handlers & {b"vide", b"soun"}:
            raise _Refused(REFERS)

    def count(self, samples: int) -> None:
        self.samples += samples
        if self.samples > MAX_SAMPLES:
            raise _Refused(TOO_LARGE.format(f"more than {MAX_SAMPLES:,} samples"))


def problem(file: io.RawIOBase, size: int, max_boxes: int | None = None) -> str:
    """Return why FFmpeg must not open a file, or an empty string. Files of other formats pass the check.

    Args:
        file: Seekable file.
        size: Its length in bytes.
        max_boxes: Number of boxes at the top of the file that are visited; all by default.

    Raises:
        OSError, MediaError: The file cannot be read.
    """
    header, reader, begin = _Header(), io.BufferedReader(file, BUFFER), 0
    try:
        for _, _, end in islice(iterate_boxes(reader, 0, size), max_boxes):
            header.visit(reader, begin, end)
            begin = end
    except _Refused as refused:
        return str(refused)
    finally:
        reader.detach()
    return REFERS if header.has_alternatives and not header.tracks else ""


def _runs(file: BinaryIO, kind: bytes, begin: int, end: int) -> np.ndarray:
    """Return a table of runs, (N, numbers of an entry).

    Raises:
        _Refused: It is too large.
    """
    head, (at, width) = _read(file, begin, end, 16), RUNS_AT[kind]
    at += 4 * (kind == b"sbgp" and head[:1] == b"\1")  # a parameter of the grouping
    count = int.from_bytes(head[at - 4 : at])
    if count > MAX_SAMPLES:
        raise _Refused(TOO_LARGE.format(f"more than {MAX_SAMPLES:,} samples"))
    data = _read(file, begin + at, end, 4 * width * count)
    count = len(data) // (4 * width)
    return np.frombuffer(data, ">u4", count * width).reshape(count, width).astype(np.int64)


def _packets(table: np.ndarray, chunks: int) -> int:
    """Return the largest number of packets that FFmpeg makes of uncompressed audio.

    Args:
        table: (N, 2) first chunk of each run of chunks, and the number of samples in each chunk.
        chunks: Number of chunks.
    """
    if not len(table):
        return 0
    packets, lengths = np.maximum(table[:, 1] // PCM_PACKET, 1), np.diff(table[:, 0], append=chunks + 1)
    if lengths.min() < 1 or table.min() < 1:  # FFmpeg replaces invalid entries by others
        return chunks * int(packets.max())
    return int(packets @ lengths)


def iterate_boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of the payload of each box between two positions."""
    while end - begin >= 8:
        file.seek(begin)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        start = begin + 8
        if size == 1 and len(head) == 16:
            size, start = int.from_bytes(head[8:]), begin + 16
        elif size == 0:
            size = end - begin
        if begin + size < start:
            return
        yield kind, start, min(begin + size, end)
        begin += size


def _read(file: BinaryIO, begin: int, end: int, limit: int = READ) -> bytes:
    file.seek(begin)
    return file.read(max(0, min(end - begin, limit)))


def _decompress(data: bytes) -> bytes:
    """Expand a compressed header.

    Raises:
        _Refused: It is too large.
    """
    expander = zlib.decompressobj()
    try:
        header = expander.decompress(data, MAX_HEADER)
    except zlib.error:  # FFmpeg does not read it either
        return b""
    if expander.unconsumed_tail:
        raise _Refused(TOO_LARGE.format(f"more than {MAX_HEADER:,} compressed bytes"))
    return header


def _is_external(dref: bytes) -> bool:
    """Return whether a table of data references has an entry for another file, without the flag "self-contained"."""
    at = 8
    while len(dref) - at >= 12:
        size, flags = int.from_bytes(dref[at : at + 4]), dref[at + 11]
        if size < 12:
            return False
        if not flags & 1 and any(dref[at + 12 : at + size]):
            return True
        at += size
    return False
