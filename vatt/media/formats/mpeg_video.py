"""MPEG-1 and MPEG-2 video in program streams: timestamps of several pictures in one packet of the stream.

Only the first picture that begins in a packet (PES) has timestamps. FFmpeg may give them to another one, after which
frames go back in time.
"""

from __future__ import annotations

from collections.abc import Iterator

import av

CODECS = ("mpeg1video", "mpeg2video")
PICTURE = b"\0\0\1\0"  # ISO/IEC 13818-2, section 6.2.3
B_PICTURE = 3
LONGEST = 2  # frames for which one is presented, with repeated fields
RESTART_S = 0.5  # timestamps that go back by more restart, as in concatenated files


def ascending(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Yield packets so that the frames of the video ascend in time.

    A frame that would be presented no later than the one before it is presented after it. A picture is presented after
    the B-pictures that follow it in the file.

    Args:
        packets: Packets of all streams, from the beginning of the file.
    """
    group: list[av.Packet] = []  # a picture, and the B-pictures that follow it
    last: int | None = None
    for packet in packets:
        if packet.stream.type != "video" or packet.stream.codec_context.name not in CODECS:
            yield packet
            continue
        if not _is_b_picture(packet):
            last = _ascend(group, last)
            yield from group
            group = []
        group.append(packet)
    _ascend(group, last)
    yield from group


def _ascend(group: list[av.Packet], last: int | None) -> int | None:
    """Correct the timestamps of a group after a frame at ``last``, and return that of its last frame.

    For a picture without a timestamp of its own (and so without a position), FFmpeg guesses that of the next one, which
    is wrong at a join, and where the clock wraps around.
    """
    is_open = group and _is_b_picture(group[0])  # the file begins with them
    for packet in group if is_open else group[1:] + group[:1]:
        if packet.pts is None:
            continue
        if last is not None and packet.duration:
            frames = (packet.pts - last) / packet.duration
            is_guess = packet is group[0] and len(group) > 1 and packet.pos is None
            is_back = frames <= 0 and (last - packet.pts) * packet.time_base < RESTART_S
            if is_back or (is_guess and not 1 <= frames <= LONGEST):
                packet.pts = last + packet.duration
        last = packet.pts
    return last


def _is_b_picture(packet: av.Packet) -> bool:
    data = bytes(packet)
    at = data.find(PICTURE) + 5
    return 5 <= at < len(data) and data[at] >> 3 & 7 == B_PICTURE
