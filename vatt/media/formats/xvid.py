"""MPEG-4 Part 2 video in AVI and in files copied from AVI: presentation timestamps, and packed bitstreams.

AVI has no presentation timestamps: those that FFmpeg computes are late by one frame if there are B-VOPs. XviD and DivX
put a P-VOP and the first B-VOP before it into one chunk, and a VOP that is not coded after the last one ("packed
bitstream").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import av

VOP = b"\0\0\1\xb6"  # ISO/IEC 14496-2, section 6.2.5
B_VOP = 2
NOT_CODED_BYTES = 8  # size of a VOP without macroblocks, at most
DELAYED = 32  # chunks at the beginning of a file among which an encoder's delay leaves slots empty


def unpack(packets: Iterator[av.Packet], stream: Any, is_avi: bool) -> Iterator[av.Packet]:
    """Yield packets of one VOP each, with timestamps in the order of presentation.

    Each VOP gets the timestamp of a packet: B-VOPs that of the packet before them, and other VOPs that of the
    last B-VOP that follows them.

    Args:
        packets: Packets of the stream, each with its decoding time.
        stream: PyAV stream.
        is_avi: Whether the file is AVI. In other formats, timestamps are replaced only where a bitstream is packed.
    """
    empty = empty_slots(stream.index_entries) if is_avi else []
    group: list[av.Packet] = []  # a VOP, and the B-VOPs that follow it
    stored: bytes | None = None  # a VOP that was packed with the one before it
    was_packed = False
    for packet in packets:
        if empty and packet.dts is not None:
            packet.dts -= bisect_left(empty, packet.dts)
        data = bytes(packet)
        first = data.find(VOP)
        second = data.find(VOP, first + 4) if first >= 0 else -1
        if second >= 0:
            packet, stored = _like(packet, data[:second], stream), data[second:]
        elif stored is not None and packet.size:
            is_coded = len(data) - first > NOT_CODED_BYTES
            packet, stored = _like(packet, stored, stream), data if is_coded else None
        if not _is_b_vop(bytes(packet)):
            yield from _ordered(group, is_avi, was_packed)
            group, was_packed = [], False
        was_packed = was_packed or second >= 0
        group.append(packet)
    yield from _ordered(group, is_avi, was_packed)


def empty_slots(index: Sequence[Any]) -> list[int]:
    """Return the numbers of the slots without a chunk that the delay of an encoder causes in a packed bitstream.

    The VOPs after such a slot belong to earlier slots. In a bitstream that is not packed, and later in a file, an empty
    slot repeats the frame before it.

    Args:
        index: Index entries of an AVI stream (PyAV); the timestamp of an entry is the number of its slot.
    """
    first = [(entry.timestamp, entry.size) for entry in islice(index, DELAYED)]
    if not any(0 < size <= NOT_CODED_BYTES for _, size in first):
        return []
    return [slot for (before, _), (after, _) in pairwise(first) for slot in range(before + 1, after)]


def _is_b_vop(data: bytes) -> bool:
    at = data.find(VOP) + 4
    return 4 <= at < len(data) and data[at] >> 6 == B_VOP


def _like(packet: av.Packet, data: bytes, stream: Any) -> av.Packet:
    """Return a packet with new data and the metadata of another one."""
    new = av.Packet(len(data))  # with the padding that decoders need
    new.update(data)
    new.stream, new.time_base = stream, packet.time_base
    new.pts, new.dts, new.duration, new.is_keyframe = packet.pts, packet.dts, packet.duration, packet.is_keyframe
    return new


def _ordered(group: list[av.Packet], is_avi: bool, was_packed: bool) -> list[av.Packet]:
    """Set the presentation timestamps of a group of packets; see `unpack`."""
    if group and group[0].size and (is_avi or was_packed):
        stamps = [packet.dts if is_avi else packet.pts for packet in group]
        for packet, stamp in zip(group, stamps[-1:] + stamps[:-1], strict=True):
            packet.pts = stamp
    return group
