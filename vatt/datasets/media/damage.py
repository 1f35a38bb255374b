"""Damage that FFmpeg conceals and reports no error for: in the pictures of a video, in JPEG and in MP3."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from vatt.datasets.media.aspect import SQUARE, display_size, pixel_aspect
from vatt.datasets.media.demuxing import MediaInput
from vatt.datasets.media.source import read_bytes
from vatt.datasets.media.tracks import choose_tracks

if TYPE_CHECKING:
    from vatt.datasets.media.probe import Track

LOST_SHARE = 0.1  # so many pictures may be missing without damage: VP8 has packets that show nothing

HEAD = 4096  # bytes before the first packet of an MP3 file in which its frames may be counted
SCAN, END = 0xDA, b"\xff\xd9"  # markers of JPEG
# The first frame of an MP3 file may hold no sound, but counts the frames: Xing's tag behind the header and the side
# information, whose length depends on version and channels, or Fraunhofer's.
_COUNTED = re.compile(
    rb"\xff([\xe2-\xff])..(?:(?:..)?(?:.{9}|.{17}|.{32})(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})"
    rb"|.{32}VBRI.{10}(.{4}))",
    re.DOTALL,
)


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
        """Width and height of the upright pictures, in square pixels."""
        size = display_size(self.width, self.height, self.pixel_aspect)
        return size if self.rotation % 180 == 0 else size[::-1]


def decode_pictures(
    path: str, video: Track, spans: Sequence[tuple[float, float]], time_limit_s: float = math.inf
) -> Pictures:
    """Decode stretches of a video and look for damage, also for what FFmpeg conceals without an error.

    Args:
        path: see `vatt.datasets.media.source`.
        video: from `read_packets`.
        spans: begin and end in seconds from the beginning of the video on, ascending, the first at 0.
        time_limit_s: Time limit for opening, and for all reads after it, in seconds.

    Raises:
        MediaError: The file cannot be opened, or reading takes longer than the limit.
    """
    found = Pictures()
    mended = failed = lost = 0
    fields = False  # two packets may make one picture
    with MediaInput(path, time_limit_s) as media:
        stream, _ = choose_tracks(media)
        media.prepare(stream)
        for number, span in enumerate(spans):
            begin_s, end_s = (at_s + video.begin_s for at_s in span)
            if number:
                try:
                    media.seek(round(begin_s / stream.time_base), stream=stream)
                except (av.FFmpegError, OSError):
                    break  # a container that cannot seek: its beginning is all that is looked at
            times_s = []
            for at_s, frame in _decode(media, stream, begin_s, end_s, bool(video.keys_s)):
                if frame is None:
                    failed += 1
                else:
                    times_s.append(at_s)
                    mended += frame.is_corrupt
                    fields = fields or frame.interlaced_frame
                    found.width, found.height, found.rotation = frame.width, frame.height, round(frame.rotation) % 360
                    found.pixel_aspect = pixel_aspect(frame)
                if found.first_bad_s is None and (frame is None or frame.is_corrupt):
                    found.first_bad_s = max(0.0, at_s - video.begin_s)
            if times_s and video.timed:
                lost += max(0, video.count(max(begin_s, min(times_s)), end_s) - len(times_s))
            found.shown += len(times_s)
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


def counted_samples(path: str, first_at: int) -> int:
    """Samples that an MP3 file should have; 0 if it does not say.

    Args:
        path: see `vatt.datasets.media.source`.
        first_at: byte at which its first packet begins.

    Raises:
        OSError: the file cannot be read.
    """
    begin = max(0, first_at - HEAD)
    found = _COUNTED.search(read_bytes(path, begin, first_at - begin))
    if found is None:
        return 0
    is_version_1 = found[1][0] >> 3 & 3 == 3
    return int.from_bytes(found[2] or found[3], "big") * (1152 if is_version_1 else 576)


def _decode(
    media: MediaInput, stream: Any, begin_s: float, end_s: float, has_keys: bool
) -> Iterator[tuple[float, Any | None]]:
    """Pictures of a span with their times; None for a packet that gives none but an error."""
    base_s, ready = float(stream.time_base), not has_keys
    packets = media.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError, OSError):  # `read_packets` has reported what cannot be read
            return
        at_s = begin_s if packet.pts is None else packet.pts * base_s
        if not ready:  # pictures before the first key frame after a seek are whole only in the file
            if not packet.is_keyframe:
                continue
            ready, begin_s = True, max(begin_s, at_s)
        try:
            frames = media.decode(packet)
        except (av.FFmpegError, OSError, ValueError):
            if begin_s <= at_s < end_s:
                yield at_s, None
            continue
        for frame in frames:
            stamp = frame.pts if frame.pts is not None else frame.dts
            at_s = begin_s if stamp is None else stamp * base_s
            if at_s >= end_s:
                return
            if at_s >= begin_s:
                yield at_s, frame
