"""Timestamps of the packets of a track as FFmpeg gives them, and their correction within the track."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import av
import numpy as np

from vatt.media.formats.headers import frame_length

# Formats of raw audio: FFmpeg computes timestamps from the parameters of the first packet.
RAW = ("aac", "ac3", "amr", "amrnb", "amrwb", "dts", "dtshd", "eac3", "loas", "mlp", "mp3", "truehd")
RAW_VIDEO = ("h264", "hevc", "mpegvideo")  # formats of raw video without timestamps: FFmpeg guesses those it gives
UNANCHORED = ("mpegts", "mpeg")  # formats whose timestamps begin anywhere
UNINDEXED = (
    *RAW,
    *RAW_VIDEO,
    *UNANCHORED,
    "asf",
    "asf_o",
    "flv",
    "ogg",
)  # formats without an index of times, whose packets may all have to be read on opening
# Timestamps of a track that go back by more restart. Outside MPEG streams, decoding times may not be in order.
BACK_S = {"audio": 0.1, "video": 0.5}
MPEG_BACK_S = {"audio": 0.1, "video": 0.02}  # MPEG streams store decoding times, which do not go back
FORWARD_S = 60.0  # a jump of MPEG streams by more is a restart, not a pause
UNKNOWN = np.iinfo(np.int64).min
SKIP_SAMPLES = struct.Struct("<II")  # FFmpeg's side data
NEW_LINK = ("strings_metadata", "new_extradata")  # side data of the first packet of each stream of a chained Ogg file
DELAYED = ("h264", "hevc", "mpeg1video", "mpeg2video")  # codecs for which FFmpeg guesses wrong timestamps in ASF
MAX_DELAY = 16  # frames by which H.264 and H.265 reorder at most


def begins_link(packet: av.Packet) -> bool:
    """Return whether a packet may be the first of a stream of a chained Ogg file."""
    return any(map(packet.has_sidedata, NEW_LINK))


def has_guesses(stream: Any) -> bool:
    """Return whether a stream is video in ASF that may have B-frames: FFmpeg guesses its presentation timestamps.

    ASF has decoding timestamps only. Those of the packet after which a frame leaves the decoder are right for it. Also
    without B-frames, the guesses differ after a seek.

    Args:
        stream: PyAV stream.
    """
    is_asf = stream.container.format.name == "asf"
    return is_asf and stream.codec_context.name in DELAYED and bool(stream.average_rate)


class _Delay:
    """How many packets are decoded before the first frame is presented.

    Args:
        stream: PyAV stream of video.
    """

    def __init__(self, stream: Any) -> None:
        self.packets, self._step, self._is_known = 0, 1 / (stream.average_rate * stream.time_base), False
        self._decoder = av.CodecContext.create(stream.codec_context.name, "r")
        self._decoder.extradata, self._decoder.thread_count = stream.codec_context.extradata, 1
        self._decoder.options = {"max_pixels": str(stream.codec_context.width * stream.codec_context.height)}

    def add(self, packet: av.Packet) -> None:
        """Add the next packet."""
        if self._is_known or self.packets >= MAX_DELAY:
            return
        try:
            self._is_known = bool(self._decoder.decode(packet))
        except (av.FFmpegError, ValueError):
            self._is_known = True
        self.packets += not self._is_known

    @property
    def ticks(self) -> int:
        """The delay in units of the time base of the stream."""
        return round(self.packets * self._step)


class Timestamps:
    """The timestamps of the packets of a track, in the order of the file.

    Args:
        stream: PyAV stream.

    Attributes:
        index: Number of the stream.
        kind: "video" or "audio".
        base_s: Duration of a tick in seconds.
        container: FFmpeg's name of the format.
    """

    def __init__(self, stream: Any) -> None:
        self.index, self.kind, self.base_s = stream.index, stream.type, float(stream.time_base)
        self.container = stream.container.format.name
        self._codec = stream.codec_context.codec.canonical_name
        self._delay = _Delay(stream) if self.kind == "video" and has_guesses(stream) else None
        self._pts, self._dts, self._ticks = array("q"), array("q"), array("q")
        self._ticks_per_byte = 0.0
        self._positions = array("q")
        self._skips, self._trims = array("q"), array("q")  # samples to drop at the beginning and the end of a packet
        self._lengths_s, self._rates = array("d"), set[int]()  # as the headers of audio frames give them
        self._links: list[int] = []  # first packets of the second and later streams of a chained Ogg file
        self._rate = stream.codec_context.sample_rate if self.kind == "audio" else 0

    def add(self, packet: av.Packet) -> None:
        """Add the next packet."""
        self._pts.append(UNKNOWN if packet.pts is None else packet.pts)
        if self._delay is not None:
            self._delay.add(packet)
        self._dts.append(UNKNOWN if packet.dts is None else packet.dts)
        ticks = packet.duration or 0
        if self._codec.startswith("pcm_"):  # a last packet that is smaller has the duration of the others
            self._ticks_per_byte = self._ticks_per_byte or ticks / packet.size
            ticks = round(packet.size * self._ticks_per_byte)
        self._ticks.append(ticks)
        self._positions.append(-1 if packet.pos is None else packet.pos)
        length_s, skip, trim = 0.0, 0, 0
        if self.kind == "audio":
            rate, samples = frame_length(self._codec, packet)
            if rate:
                self._rates.add(rate)
                length_s = (samples or packet.duration or 0) / rate
            elif self._codec == "aac_latm" and packet.size and len(self) > 1:
                length_s = self._lengths_s[-1]  # most frames have no configuration of their own
            for side_data in () if self.container in UNANCHORED else packet.iter_sidedata():
                if side_data.data_type == "skip_samples":
                    skip, trim = SKIP_SAMPLES.unpack_from(side_data)
                elif side_data.data_type in NEW_LINK and len(self) > 1 and self._links[-1:] != [len(self) - 1]:
                    self._links.append(len(self) - 1)
        self._lengths_s.append(length_s)
        self._skips.append(skip)
        self._trims.append(trim)

    def __len__(self) -> int:
        return len(self._pts)

    @property
    def last_position(self) -> int:
        """Byte at which the last packet begins; -1 if that is unknown."""
        return max(self._positions, default=-1)

    def arrays(self) -> TrackTimes:
        """Return the timestamps as arrays, corrected where the sample rate changes."""
        pts, dts, ticks, positions, skips, trims = (
            np.array(values, np.int64)
            for values in (self._pts, self._dts, self._ticks, self._positions, self._skips, self._trims)
        )
        if self.container in RAW_VIDEO:
            pts = dts = np.cumsum(ticks) - ticks
        if self._delay is not None:
            pts = np.where(dts == UNKNOWN, UNKNOWN, dts + self._delay.ticks)
        shift = np.zeros(len(pts), np.int64)
        # FFmpeg gives no duration to the first packets of audio that begins where it did not inspect the file.
        is_incomplete = self.container in UNANCHORED and bool(self._rates) and not ticks.all()
        has_rates = len(self._rates) > 1 and self.container in (*UNANCHORED, "ogg")
        if self.container in RAW or has_rates or is_incomplete:
            shift, ticks = self._sum_lengths(pts, positions, ticks, is_estimated=self.container not in UNANCHORED)
        elif self.container == "ogg":
            _shift_links(shift, pts, ticks, skips, self._links)
        has_trims = self._rate and self.container != "ogg"  # durations of Ogg include them
        trims_s = trims / self._rate if has_trims else np.zeros(len(pts))
        return TrackTimes(self, pts, dts, ticks, _forward_filled(positions), trims_s, shift)

    def _sum_lengths(
        self, pts: np.ndarray, positions: np.ndarray, ticks: np.ndarray, is_estimated: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return corrections of the timestamps, and durations, that follow from the headers of audio frames.

        FFmpeg computes all timestamps (``is_estimated``), or those of packets without a position, from the first sample
        rate and from durations that are rounded.
        """
        lengths = np.frombuffer(self._lengths_s) / self.base_s
        lengths = np.where(lengths > 0, lengths, ticks)
        new, next_tick = np.zeros(len(pts)), float(pts[0]) if len(pts) and pts[0] != UNKNOWN else 0.0
        for i in range(len(pts)):
            own = not is_estimated and positions[i] >= 0 and pts[i] != UNKNOWN
            new[i] = pts[i] if own else next_tick
            next_tick = new[i] + lengths[i]
        return np.where(pts == UNKNOWN, 0, np.round(new).astype(np.int64) - pts), np.round(lengths).astype(np.int64)


@dataclass
class TrackTimes:
    """Timestamps of a track as arrays.

    Args:
        stamps: Timestamps that they are computed from.
        pts, dts: (N,) int64, presentation and decoding in ticks; `UNKNOWN` where they are not known.
        ticks: (N,) int64 durations.
        positions: (N,) int64 positions in the file, in bytes.
        trims_s: (N,) seconds dropped at the end of each packet.
        shift: (N,) int64 ticks to add to the timestamps.
        restarts: First packets after each restart of the timestamps.
    """

    stamps: Timestamps
    pts: np.ndarray
    dts: np.ndarray
    ticks: np.ndarray
    positions: np.ndarray
    trims_s: np.ndarray
    shift: np.ndarray
    restarts: set[int] = field(default_factory=set)

    def times_s(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the start and end of the presentation of each packet; NaN where unknown."""
        begins_s = np.where(self.pts == UNKNOWN, np.nan, (self.pts + self.shift) * self.stamps.base_s)
        return begins_s, begins_s + self.ticks * self.stamps.base_s - self.trims_s

    def order_s(self) -> np.ndarray:
        """Return the times that ascend from packet to packet: decoding times of video, presentation times of audio.

        Matroska has no decoding times. At a join, FFmpeg computes one that continues the part before, and is later than
        the presentation of the packet.
        """
        is_decoding = self.stamps.kind == "video" and (self.dts != UNKNOWN).any()
        ticks = self.dts if is_decoding else self.pts
        if is_decoding:
            ticks = np.where((self.pts != UNKNOWN) & (self.pts < self.dts), self.pts, self.dts)
        return _forward_filled(np.where(ticks == UNKNOWN, UNKNOWN, ticks + self.shift), UNKNOWN) * self.stamps.base_s

    def jumps(self, first: int = 0) -> np.ndarray:
        """Return the packets from ``first`` on at which the timestamps restart or jump."""
        back_s, forward_s = BACK_S[self.stamps.kind], math.inf
        if self.stamps.container in UNANCHORED:
            back_s, forward_s = MPEG_BACK_S[self.stamps.kind], FORWARD_S
        steps_s = np.diff(self.order_s()[first:])
        return np.flatnonzero((steps_s < -back_s) | (steps_s > forward_s)) + first + 1

    def begin_s(self, first: int = 0, last: int | None = None) -> float:
        """Return the start of the presentation of a range of packets; NaN if unknown."""
        begins_s = self.times_s()[0][first:last]
        return float(np.nanmin(begins_s)) if not np.isnan(begins_s).all() else math.nan

    def end_s(self, last: int | None = None) -> float:
        """Return the end of the presentation of the packets before ``last``; NaN if unknown.

        A last packet without a duration gets the median duration of the others.
        """
        begins_s, ends_s = (values[:last][~np.isnan(values[:last])] for values in self.times_s())
        if not len(begins_s):
            return math.nan
        is_last = begins_s.argmax()
        if len(begins_s) > 1 and ends_s[is_last] <= begins_s[is_last]:
            ends_s[is_last] += np.median(np.diff(np.sort(begins_s)))
        return float(ends_s.max())


def _shift_links(shift: np.ndarray, pts: np.ndarray, ticks: np.ndarray, skips: np.ndarray, links: list[int]) -> None:
    """Shift each stream of a chained Ogg file to the end of the one before.

    FFmpeg gives the packets of the first page of a stream timestamps that continue those of the stream before.

    Args:
        shift: (N,) ticks to add to the timestamps; written.
        pts, ticks: (N,) timestamps and durations.
        skips: (N,) samples dropped at the beginning of each packet.
        links: First packets of the second and later streams.
    """
    for first, last in pairwise([*links, len(pts)]):
        own = np.array(pts[first:last])
        back = np.flatnonzero(np.diff(own) < 0)
        if len(back):
            page = int(back[0]) + 1
            own[:page] = own[page] - np.cumsum(ticks[first : first + page][::-1])[::-1]
        end = pts[first - 1] + shift[first - 1] + ticks[first - 1]
        begin = max(0, own[0] + skips[first])  # a first packet of Vorbis, before 0, gives no samples
        shift[first:last] = own - pts[first:last] + end - begin


def _forward_filled(values: np.ndarray, gap: int = -1) -> np.ndarray:
    """Return the values with each gap replaced by the value before it, or by the first value."""
    known = np.flatnonzero(values != gap)
    if not len(known):
        return np.zeros_like(values)
    return values[known[np.maximum(np.searchsorted(known, np.arange(len(values)), side="right") - 1, 0)]]
