"""Tracks of an MPEG transport stream that continue under another PID, as after a change of the program.

FFmpeg makes them separate tracks, with wrong starts and durations. The positions of PIDs in the file show which tracks
follow each other: packets of parallel tracks alternate everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from vatt.media.sources.files import read_bytes

CHUNKS, CHUNK = 64, 2**17  # parts of the file that are read, and their bytes
PACKET_SIZES = (188, 192, 204)  # plain, with time codes (M2TS), with error correction
SYNC = 0x47
MIN_OTHERS = 3  # headers of another kind; fewer may be transmission errors
MAX_CHANGES = 4  # tracks that alternate more often are parallel


@dataclass
class Pid:
    """Packets of one PID.

    Attributes:
        offsets: Positions of packets in the file in bytes, ascending.
        kind: "video" or "audio" by the first PES header; empty for others.
        others: Positions of PES headers of another kind than the first one.
    """

    offsets: list[int] = field(default_factory=list)
    kind: str = ""
    others: list[int] = field(default_factory=list)

    @property
    def changes_at(self) -> int | None:
        """Position at which the kind changes, as where a file with other tracks follows; None where it does not."""
        return self.others[0] if len(self.others) >= MIN_OTHERS else None


def find_pids(path: str, size: int) -> dict[int, Pid]:
    """Find the packets of every PID in a bounded number of parts of a transport stream (ISO/IEC 13818-1, 2.4.3.2).

    Args:
        path: See `vatt.media.sources.files`.
        size: Number of bytes of the file.

    Raises:
        OSError: The file cannot be read.
    """
    pids: dict[int, Pid] = defaultdict(Pid)
    number = min(CHUNKS, -(-size // CHUNK))
    for at in np.linspace(0, max(0, size - CHUNK), number, dtype=int).tolist():
        data = read_bytes(path, at, CHUNK)
        for begin, pid, packet in _packets(data):
            pids[pid].offsets.append(at + begin)
            kind = _kind(packet) if packet[1] & 0x40 else ""
            pids[pid].kind = pids[pid].kind or kind
            if kind and kind != pids[pid].kind:
                pids[pid].others.append(at + begin)
    return dict(pids)


def continues(one: Pid, other: Pid) -> bool:
    """Return whether two PIDs follow each other in the file, so that they hardly alternate."""
    offsets = np.concatenate([one.offsets, other.offsets])
    is_one = np.arange(len(offsets)) < len(one.offsets)
    is_one = is_one[np.argsort(offsets, kind="stable")]
    return 0 < np.count_nonzero(is_one[1:] != is_one[:-1]) <= MAX_CHANGES


def _packets(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, PID and bytes of the packets in a part of a transport stream."""
    values = np.frombuffer(data, np.uint8)
    for size in PACKET_SIZES:
        for begin in range(min(size, len(values))):
            table = values[begin : begin + (len(values) - begin) // size * size].reshape(-1, size)
            if len(table) and (table[:, 0] == SYNC).all():
                pids = (table[:, 1].astype(int) & 0x1F) << 8 | table[:, 2]
                for number, pid in enumerate(pids.tolist()):
                    at = begin + number * size
                    yield at, pid, data[at : at + size]
                return


def _kind(packet: bytes) -> str:
    """Return the kind of track whose PES header (2.4.3.6) begins in a packet; empty for tables and other kinds."""
    payload = 5 + packet[4] if packet[3] & 0x20 else 4
    if packet[payload : payload + 3] != b"\0\0\1":
        return ""
    stream_id = packet[payload + 3]
    if 0xE0 <= stream_id <= 0xEF:
        return "video"
    return "audio" if 0xC0 <= stream_id <= 0xDF else ""
