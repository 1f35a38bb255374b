"""Selection of the packets to decode for the frames from a time on, or at given times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import av

from vatt.media.demuxing import LEAVES_OUT
from vatt.media.formats.headers import has_configuration

EARLY_S = 0.001  # Matroska rounds times to milliseconds: a frame this much later still counts as on time
FLAGS = 30  # packets whose flags are checked

AtS = Callable[[int], float]  # seconds of a timestamp


def from_key_before(packets: Iterator[av.Packet], start_s: float, at_s: AtS) -> Iterator[av.Packet]:
    """Yield packets of video, read from the beginning, from the last key frame before a time on.

    Args:
        packets: Packets of the track.
        start_s: Time in seconds.
        at_s: Seconds of a timestamp of the track.
    """
    held: list[av.Packet] = []
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            if at_s(packet.pts) > start_s + EARLY_S:
                held.append(packet)
                break
            held.clear()
        held.append(packet)
    yield from held
    yield from packets


def from_last_before(packets: Iterator[av.Packet], start_s: float, at_s: AtS) -> Iterator[av.Packet]:
    """Yield packets of audio, read from the beginning, from the last one before a time on.

    The last packet that configures the decoder is yielded in any case. See `from_key_before`.
    """
    headers: list[av.Packet] = []
    held: list[av.Packet] = []
    for packet in packets:
        is_later = packet.pts is None or at_s(packet.pts) > start_s
        if held and not is_later and has_configuration(held[0]):
            headers = held[:1]
        held = [*held, packet] if is_later else [packet]
        if is_later:
            break
    if held and has_configuration(held[0]):
        headers = []
    yield from chain(headers, held, packets)


def has_wrong_key_flags(packets: Iterator[av.Packet]) -> bool:
    """Return whether packets are wrongly flagged as key frames, judging by the first ones after a seek.

    Some programs flag all packets. FFmpeg corrects the flags of some codecs, but not the
    index by which it seeks.
    """
    flags = [packet.is_keyframe for packet in islice(packets, FLAGS) if packet.size]
    return len(flags) > 1 and (all(flags) or not flags[0])


def can_leave_out(decoder: Any) -> bool:
    """Return whether no frame refers to one that FFmpeg calls a non-reference, as layers of multi-layer HEVC may."""
    if decoder.name != "hevc":
        return decoder.name in LEAVES_OUT
    header = decoder.extradata or b""  # hvcC, ISO/IEC 14496-15, 8.3.3.1.2: numTemporalLayers in byte 21
    return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1


def leave_out(packets: Iterator[av.Packet], shown_s: Sequence[float], at_s: AtS, decoder: Any) -> Iterator[av.Packet]:
    """Yield the packets, with the decoder set to skip unused frames to which no other frame refers.

    Args:
        packets: Packets of the track.
        shown_s: Ascending times of the used frames, in seconds.
        at_s: Seconds of a timestamp of the track.
        decoder: Codec context of the track.
    """
    held: list[av.Packet] = []
    known = True
    for packet in packets:
        held.append(packet)
        known = known and (packet.size == 0 or (packet.pts is not None and packet.dts is not None))
        if not known or (packet.dts is not None and at_s(packet.dts) > shown_s[-1] + EARLY_S):
            break  # all later frames are presented later
    if not known:
        yield from chain(held, packets)
        return
    stamps = sorted({packet.pts for packet in held if packet.size and not packet.is_discard})
    times_s = [at_s(stamp) for stamp in stamps]
    used = {stamps[max(0, bisect_right(times_s, time_s + EARLY_S) - 1)] for time_s in shown_s} if stamps else set()
    try:
        for packet in chain(held, packets):
            decoder.skip_frame = "DEFAULT" if packet.pts in used else "NONREF"
            yield packet
    finally:
        decoder.skip_frame = "DEFAULT"
