"""One continuous clock for files whose own timestamps restart, wrap around, jump or are estimated.

MPEG streams, Ogg, FLV, ASF and raw audio have no index that gives the time of every packet. FFmpeg estimates their
duration, and files that were concatenated or recorded with interruptions have timestamps that restart.
`compute_timeline` computes what to add to each of the timestamps that `vatt.media.timing.timestamps` collects.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

from vatt.media.timing.timestamps import BACK_S, Timestamps, TrackTimes

OVERLAP_S = 0.5  # that audio may overlap at a join of video
ALIGNED_S = 0.01  # readers do not move audio whose timestamp is off by less (`vatt.media.reader.GAP_S`)
NEARBY = 32  # packets before and after a join that may belong to the other side of it
MAX_TIMELINES = 4096  # size of the cache


@dataclass(frozen=True)
class Timeline:
    """What to add to the timestamps of a file so that they are those of one continuous clock.

    Args:
        shifts: By number of stream, (N,) int64 ticks to add to the timestamps of its N packets; empty where all
            timestamps are right.
        spans_s: By number of stream, its beginning and end on the continuous clock, in seconds.
        restarts_s: Times on the continuous clock at which the timestamps of the file restart.
        end_s: End of the last packet on the continuous clock, or of the last frame by the header; NaN if unknown.
    """

    shifts: dict[int, np.ndarray] = field(default_factory=dict)
    spans_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    restarts_s: tuple[float, ...] = ()
    end_s: float = math.nan


def compute_timeline(stamps: Sequence[Timestamps]) -> tuple[Timeline, dict[int, TrackTimes]]:
    """Compute one continuous clock for the tracks of a file.

    Where timestamps restart, the rest of the file is moved so that the video, or audio without video, continues. All
    tracks are moved equally, which keeps them synchronous.

    Args:
        stamps: Timestamps of all packets of the tracks that are read.

    Returns:
        The timeline, and the corrected timestamps by number of stream.
    """
    tracks = [track.arrays() for track in stamps if len(track)]
    jumps = sorted(
        (int(track.positions[i]), number, int(i)) for number, track in enumerate(tracks) for i in track.jumps()
    )
    restarts_s = tuple(_connect(join, tracks) for join in _joins(jumps, tracks))
    changed = any(track.shift.any() for track in tracks)
    by_index = {track.stamps.index: track for track in tracks}
    timeline = Timeline(
        {index: track.shift for index, track in by_index.items()} if changed else {},
        {index: (track.begin_s(), track.end_s()) for index, track in by_index.items()},
        restarts_s,
        max((track.end_s() for track in tracks), default=math.nan),
    )
    return timeline, by_index


def _joins(jumps: list[tuple[int, int, int]], tracks: list[TrackTimes]) -> list[dict[int, int]]:
    """Group the jumps of all tracks by join, in the order of the file: the first packet of each track after a join."""
    joins: list[tuple[int, dict[int, int]]] = []
    for position, number, i in jumps:
        if not joins or number in joins[-1][1]:
            joins.append((position, {}))
        joins[-1][1][number] = i
    result = []
    for position, join in joins:
        others = [number for number in range(len(tracks)) if number not in join]
        inside = [n for n in others if tracks[n].positions[0] < position <= tracks[n].positions[-1]]
        step_s = min(np.diff(tracks[n].order_s()[i - 1 : i + 1])[0] for n, i in join.items() if i)
        if inside and step_s >= 0:
            continue  # a pause of one track
        small = {n: i for n in inside if (i := _small_step_back(tracks[n], position)) is not None}
        if inside and not small and step_s > -BACK_S["audio"]:
            continue  # inexact timestamps of one track
        late = {n: 0 for n in others if tracks[n].positions[0] >= position}
        result.append(join | late | small)
    return result


def _small_step_back(track: TrackTimes, position: int) -> int | None:
    """Return the packet near a join at which the timestamps of a track go back too little to be a restart by itself.

    Packets of the tracks around a join may be in any order: of those nearby, the one that goes back the most counts.
    """
    at = int(np.searchsorted(track.positions, position))
    begin, end = max(1, at - NEARBY), min(len(track.positions), at + NEARBY)
    steps_s = np.diff(track.order_s()[begin - 1 : end])
    return begin + int(steps_s.argmin()) if len(steps_s) and steps_s.min() < -ALIGNED_S else None


def _connect(join: dict[int, int], tracks: list[TrackTimes]) -> float:
    """Move all packets from a join on, and return the time of the join."""
    ends = {n: tracks[n].end_s(i) for n, i in join.items() if i}
    nexts = {n: next(iter(tracks[n].jumps(i)), None) for n, i in join.items() if i}
    begins = {n: tracks[n].begin_s(join[n], end) for n, end in nexts.items()}
    by_kind = {tracks[n].stamps.kind: ends[n] - begins[n] for n in ends if not math.isnan(ends[n] - begins[n])}
    if not by_kind:
        return 0.0
    offset_s = by_kind.get("video", -math.inf)
    if by_kind.get("audio", -math.inf) > offset_s + OVERLAP_S:
        offset_s = by_kind["audio"]
    for number, i in join.items():
        track = tracks[number]
        own_s = by_kind.get(track.stamps.kind, offset_s)
        track_s = own_s if abs(own_s - offset_s) < ALIGNED_S else offset_s
        track.shift[i:] += round(track_s / track.stamps.base_s)
        track.restarts.add(i)
    return min(begins.values()) + offset_s


_timelines: OrderedDict[tuple[Any, ...], Timeline | None] = OrderedDict()


def cached_timeline(key: tuple[Any, ...], compute: Callable[[], Timeline | None]) -> Timeline | None:
    """Return the timeline of a file, which is computed once per process.

    Args:
        key: Path, state and streams of the file.
        compute: Computes the timeline; returns None if the timestamps of the file are right.
    """
    if key not in _timelines:
        _timelines[key] = compute()
        while len(_timelines) > MAX_TIMELINES:
            _timelines.popitem(last=False)
    return _timelines[key]


def shift_timestamps(packet: av.Packet, shifts: Any, counts: dict[int, int]) -> None:
    """Correct the timestamps of a packet by those of its track; ``counts`` holds how many packets came before it."""
    number = counts.get(packet.stream_index, 0)
    counts[packet.stream_index] = number + 1
    if number < len(shifts):
        ticks = int(shifts[number])
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks
