"""Damage that FFmpeg conceals and reports no error for: in the pictures of a video, in JPEG and in MP3."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

from vatt.media.container import Container
from vatt.media.formats.aspect import SQUARE, display_size, pixel_aspect
from vatt.media.tracks.packets import Track

LOST_SHARE = 0.1  # so many pictures may be missing without damage: VP8 has packets that show nothing

SCAN, END = 0xDA, b"\xff\xd9"  # markers of JPEG


@dataclass
class Pictures:
    """What came of decoding stretches of a video.

    Args:
        shown: pictures that came out.
        tried: these, and those that should have.
        bad: pictures that FFmpeg had to mend, and those that did not come out.
        first_bad_s: when the first of these is shown, counted from the beginning of the video.
        width, height: as they are stored, in pixels.
        rotation: degrees counter-clockwise to turn them upright: 0, 90, 180 or 270.
        pixel_aspect: Width of a stored pixel divided by its height.
    """

    shown: int = 0
    tried: int = 0
    bad: int = 0
    first_bad_s: float | None = None
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixel_aspect: Fraction = SQUARE

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the upright frames, in square pixels."""
        size = display_size(self.width, self.height, self.pixel_aspect)
        return size if self.rotation % 180 == 0 else size[::-1]


def decode_pictures(
    path: str, video: Track, spans: Sequence[tuple[float, float]], time_limit_s: float = math.inf
) -> Pictures:
    """Decode stretches of a video and look for damage, also for what FFmpeg conceals without an error.

    Args:
        path: see `vatt.media.sources.files`.
        video: from `read_packets`.
        spans: begin and end in seconds from the beginning of the video on, ascending, the first at 0.
        time_limit_s: Time limit for opening, and for all reads after it, in seconds.

    Raises:
        MediaError: The file cannot be opened, or reading takes longer than the limit.
    """
    found = Pictures()
    mended = failed = lost = 0
    fields = False  # two packets may make one picture
    media = _Decoder(path, time_limit_s)
    try:
        media._begin_call(time_limit_s)
        base_s = video.begin_s - media._clock.origin_s  # on the clock of the container
        for number, span in enumerate(spans):
            begin_s, end_s = (at_s + base_s for at_s in span)
            times_s = []
            for at_s, frame in media.decoded(begin_s, end_s, is_first=number == 0, has_keys=bool(video.keys_s)):
                if frame is None:
                    failed += 1
                else:
                    times_s.append(at_s)
                    mended += frame.is_corrupt
                    fields = fields or frame.interlaced_frame
                    found.width, found.height, found.rotation = frame.width, frame.height, round(frame.rotation) % 360
                    found.pixel_aspect = pixel_aspect(frame)
                if found.first_bad_s is None and (frame is None or frame.is_corrupt):
                    found.first_bad_s = max(0.0, at_s - base_s)
            if times_s and video.timed:
                first_s, last_s = (at_s + media._clock.origin_s for at_s in (max(begin_s, min(times_s)), end_s))
                lost += max(0, video.count(first_s, last_s) - len(times_s))
            found.shown += len(times_s)
    finally:
        media.close()
    if fields or lost <= max(1, LOST_SHARE * found.shown):
        lost = 0
    missing = max(failed, lost)
    found.tried, found.bad = found.shown + missing, mended + missing
    return found


def jpeg_is_whole(data: bytes) -> bool:
    """Whether a JPEG picture has its end marker, which may be followed by anything."""
    at = 2
    while len(data) > at + 4 and data[at] == 0xFF and data[at + 1] != SCAN:  # a thumbnail in here has an end of its own
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(END, at) > 0


class _Decoder(Container):
    """A container that also reports packets that cannot be decoded."""

    def decoded(
        self, begin_s: float, end_s: float, is_first: bool, has_keys: bool
    ) -> Iterator[tuple[float, Any | None]]:
        """Yield the frames of a segment with their times; None for a packet that cannot be decoded."""
        self._go_to("video", None if is_first else begin_s)
        ready = self._fresh or not has_keys
        packets = self._video_packets(begin_s)
        for packet in packets:
            at_s = begin_s if packet.pts is None else self._at_s(packet.pts)
            try:
                frames = self._input.decode(packet)
            except (av.FFmpegError, OSError, ValueError):
                if ready and begin_s <= at_s < end_s:
                    yield at_s, None
                continue
            for frame in frames:
                stamp = frame.pts if frame.pts is not None else frame.dts
                at_s = begin_s if stamp is None else self._at_s(stamp)
                if at_s >= end_s:
                    return
                if not ready and frame.key_frame:  # earlier ones refer to frames that were not decoded
                    ready, begin_s = True, max(begin_s, at_s)
                if ready and at_s >= begin_s:
                    yield at_s, frame
