"""MP4 and QuickTime headers built box by box: references to other files, and tables of any length."""

from __future__ import annotations

import struct
import zlib

SELF = struct.pack(">I4sI", 12, b"url ", 1)  # a data reference to the file itself


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full(kind: bytes, flags: int, *numbers: int, tail: bytes = b"") -> bytes:
    """Return a box with version 0, flags and 32-bit numbers."""
    return box(kind, struct.pack(f">{1 + len(numbers)}I", flags, *numbers), tail)


def external(kind: bytes = b"alis", path: bytes = b"/tmp/canary.ts") -> bytes:
    """Return a data reference to another file: a URL (MP4), or an alias record with an absolute path (QuickTime)."""
    if kind == b"url ":
        return box(b"url ", bytes(4), path + b"\0")
    name = path.rpartition(b"/")[2][:63]
    record = bytes(10) + bytes([4]) + b"disk".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    path = b"disk" + path
    record = record.ljust(150, b"\0") + struct.pack(">HH", 2, len(path)) + path + b"\0" * (len(path) % 2)
    return box(kind, bytes(4), record + struct.pack(">HH", 0xFFFF, 0))


def tables(
    samples: int = 25, size: int = 100, ticks: int = 1, sizes: bytes | None = None, chunk: int | None = None
) -> list[bytes]:
    """Return the tables of ``samples`` samples of ``size`` bytes and ``ticks`` ticks each."""
    return [
        full(b"stts", 0, 1, samples, ticks),
        full(b"stsc", 0, 1, 1, chunk or samples, 1),
        sizes or full(b"stsz", 0, size, samples),
        full(b"stco", 0, 1, 48),
    ]


def track(
    number: int = 1,
    handler: bytes = b"vide",
    reference: bytes = SELF,
    table: list[bytes] | None = None,
    edits: int = 0,
    codec: bytes = b"jpeg",
) -> bytes:
    if handler == b"soun":
        entry = box(codec, bytes(6), struct.pack(">H", 1), bytes(8), struct.pack(">HHIHH", 1, 16, 0, 16_000, 0))
        media = full(b"smhd", 0, 0)
    else:
        size = struct.pack(">HH", 96, 64) + struct.pack(">II", 72 << 16, 72 << 16)
        entry = box(
            codec, bytes(6), struct.pack(">H", 1), bytes(16), size, bytes(4), b"\0\1", bytes(32), b"\0\x18\xff\xff"
        )
        media = full(b"vmhd", 1, 0, 0)
    table = tables() if table is None else table
    header = full(b"tkhd", 7, 0, 0, number, 0, 1000, tail=bytes(16) + MATRIX + struct.pack(">II", 96 << 16, 64 << 16))
    edit = full(b"elst", 0, edits, tail=struct.pack(">III", 1000, 0, 1 << 16) * edits)
    return box(
        b"trak",
        header,
        box(b"edts", edit) if edits else b"",
        box(
            b"mdia",
            full(b"mdhd", 0, 0, 0, 25, 25, 0),
            full(b"hdlr", 0, 0, tail=handler + bytes(12) + b"\0"),
            box(
                b"minf",
                media,
                box(b"dinf", full(b"dref", 0, 1, tail=reference)),
                box(b"stbl", full(b"stsd", 0, 1, tail=entry), *table),
            ),
        ),
    )


MATRIX = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
MVHD = full(
    b"mvhd", 0, 0, 0, 1000, 1000, 1 << 16, tail=struct.pack(">H", 256) + bytes(10) + MATRIX + bytes(24) + b"\0\0\0\2"
)


def movie(*tracks: bytes, data: bytes = bytes(4096), compressed: bool = False, extra: bytes = b"") -> bytes:
    """Return a file with a header and data. The data start at byte 48."""
    header = box(b"moov", MVHD, *tracks, extra)
    if compressed:
        packed = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", len(header)), zlib.compress(header))
        header = box(b"moov", box(b"cmov", packed))
    return box(b"ftyp", b"qt  ", bytes(4), b"isomqt  ", bytes(12)) + box(b"mdat", data) + header


def fragments(count: int, samples: int, number: int = 1) -> bytes:
    """Return a file of ``count`` fragments, each of which declares ``samples`` samples without data."""
    empty = [full(kind, 0, 0) for kind in (b"stts", b"stsc", b"stco")] + [full(b"stsz", 0, 0, 0)]
    mvex = box(b"mvex", full(b"trex", 0, number, 1, 1, 1, 0))
    content = box(b"ftyp", b"isom", bytes(4), b"isomiso5") + box(b"moov", MVHD, track(number, table=empty), mvex)
    for index in range(count):
        run = full(b"tfhd", 0x20000, number) + full(b"tfdt", 0, index * samples) + full(b"trun", 1, samples, 0)
        content += box(b"moof", full(b"mfhd", 0, index + 1), box(b"traf", run)) + box(b"mdat", bytes(100))
    return content


def reference_movie(path: bytes = b"file:///tmp/canary.ts") -> bytes:
    """Return a QuickTime reference movie, which refers to another movie."""
    location = box(b"rdrf", struct.pack(">I4sI", 0, b"url ", len(path) + 1), path + b"\0")
    return movie(extra=box(b"rmra", box(b"rmda", location)))
