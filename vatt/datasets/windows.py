"""Every window of every clip, one after the other: how files are read to be embedded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import Views, start_range
from vatt.datasets.loading.batches import Sample, collate
from vatt.datasets.loading.crashes import CrashTolerantLoader, begin_reading
from vatt.datasets.loading.workers import leave_interrupts_to_main
from vatt.errors import InputError
from vatt.media.reader import Media
from vatt.media.types import MediaError
from vatt.structures import Batch, Clip, Event

STILL_S = 60.0  # so long after its last packet no file is looked at, until its next one


def window_starts(
    first_s: float, last_s: float, hop_s: float, next_s: Callable[[float], float] = lambda start_s: start_s
) -> Iterator[float]:
    """Starts of windows every ``hop_s`` from the first to the last, the last one always among them.

    ``next_s`` may leave some out: from what second on, at or after a start, there is something to be seen.
    """
    number, count = 0, int((last_s - first_s) / hop_s + 1e-6)
    while number <= count:
        start_s = first_s + number * hop_s
        if (later_s := next_s(start_s)) <= start_s:
            yield start_s
            number += 1
        else:
            number = max(number + 1, math.ceil((min(later_s, last_s + 2 * hop_s) - first_s) / hop_s))
    if last_s - (first_s + count * hop_s) > 1e-3 and next_s(last_s) <= last_s:
        yield last_s


class _Stillness:
    """Finds out where a file has nothing for long: gaps of days, or an end long before the header's.

    Where nothing moved and no sound was heard for `STILL_S`, the times of all packets are read, once.

    Args:
        files: of one clip.
        window_s: length of its windows.
        time_limit_s: Time limit of a read, see `begin_reading`.
    """

    def __init__(self, files: Sequence[Media], window_s: float, time_limit_s: float) -> None:
        self._files, self._window_s, self._time_limit_s = dict.fromkeys(files), window_s, time_limit_s
        self._since_s: float | None = None
        self._times_s: np.ndarray | None = None
        self._asked = False
        self.left_out: list[tuple[float, float]] = []  # from, to

    def look(self, sample: Sample, start_s: float) -> None:
        """Take note of the next window."""
        if sample.get("audio_valid", False) or (sample.get("video_valid", False) and _moves(sample["video"])):
            self._since_s = None
            return
        self._since_s = start_s if self._since_s is None else self._since_s
        if not self._asked and start_s - self._since_s > STILL_S:
            self._asked = True
            times_s = []
            for file in self._files:
                begin_reading(file.path, self._time_limit_s)
                times_s.append(file.packet_times_s())
            if all(each is not None for each in times_s):
                self._times_s = np.sort(np.concatenate(times_s))

    def next_s(self, start_s: float) -> float:
        """See `window_starts`."""
        if self._times_s is None:
            return start_s
        place = np.searchsorted(self._times_s, start_s - STILL_S)
        at_s = float(self._times_s[place]) if place < len(self._times_s) else math.inf
        if at_s < start_s + self._window_s:
            return start_s
        self.left_out.append((start_s, at_s))
        return at_s - self._window_s + 1e-3


def _moves(video: Tensor) -> bool:
    return bool((video[1:] != video[:-1]).any())


@dataclass(frozen=True)
class Windows:
    """Every window of a clip, one after the other, for embedding.

    Samples have the keys ``path``, ``start_s`` and ``end_s`` as well. A file that cannot be read gives one sample with
    nothing valid and an `Event`; windows with nothing in them, between others, give one.

    Args:
        reader: how clips are read.
        hop_s: distance of the windows in seconds.
        count: windows of each clip, spread evenly from its beginning to its end whatever its length, in place of those
            at a distance.

    Raises:
        InputError: a distance or a number below which there is nothing.
    """

    reader: ClipReader
    hop_s: float
    count: int | None = None

    def __post_init__(self) -> None:
        if not self.hop_s > 0:
            raise InputError(f"the distance of windows must be positive, not {self.hop_s} s")
        if self.count is not None and self.count < 1:
            raise InputError(f"a clip has at least one window, not {self.count}")

    def of(self, clip: Clip) -> Iterator[Sample]:
        """The samples of a clip."""
        try:
            yield from self._read(clip)
        except MediaError as error:
            sample = self.reader.empty_sample(clip) | {
                "path": clip.path,
                "start_s": clip.start_s,
                "end_s": clip.start_s,
            }
            sample["events"].append(Event(kind=error.kind, id=clip.id, path=error.path, reason=error.reason))
            yield sample

    def _read(self, clip: Clip) -> Iterator[Sample]:
        duration_s = self.reader.window_s
        with ExitStack() as stack:
            files = self.reader.open(clip, stack)
            first_s, last_s, clip_ends_s = start_range(clip, files, duration_s, self.reader.modalities)
            still, empty_s, seen, said = _Stillness(files, duration_s, self.reader.time_limit_s), None, False, False
            reported_kinds: set[str] = set()  # kinds of events about levels, which are reported once per clip
            undecodable = files[0].info.undecodable if files[0] is files[1] and len(self.reader.modalities) == 2 else ""
            starts: Iterable[float] = window_starts(first_s, last_s, self.hop_s, still.next_s)
            if self.count is not None:
                starts = Views.spread(first_s, last_s, self.count)
            for start_s in starts:
                before = sum(file.bad_packets for file in set(files))
                sample = self.reader.read(clip, files, start_s, clip_ends_s)
                sample["events"] = [event for event in sample["events"] if event["kind"] not in reported_kinds]
                if undecodable:
                    sample["events"].append(Event(kind="damaged", id=clip.id, path=clip.path, reason=undecodable))
                    undecodable = ""
                reported_kinds |= {event["kind"] for event in sample["events"]} & {"clipped", "cancelled"}
                bad = sum(file.bad_packets for file in set(files)) - before
                if bad:
                    reason = f"{bad} damaged packets were skipped from {start_s:.2f} s on"
                    sample["events"].append(Event(kind="damaged", id=clip.id, path=clip.path, reason=reason))
                if not self.reader.is_empty(sample):
                    seen = True
                elif empty_s is None:
                    empty_s = start_s
                if seen and empty_s is not None and not said:  # a clip in which all are empty is for the caller to name
                    said = True
                    what = "neither video nor audio" if len(self.reader.modalities) == 2 else "nothing"
                    reason = f"{what} in the window at {empty_s:.2f} s, of {clip_ends_s:.2f} s"
                    sample["events"].append(Event(kind="damaged", id=clip.id, path=clip.path, reason=reason))
                for from_s, to_s in still.left_out:
                    reason = f"nothing new from {from_s:.2f} s to {to_s:.2f} s: no windows of that"
                    sample["events"].append(Event(kind="skipped", id=clip.id, path=clip.path, reason=reason))
                still.left_out.clear()
                still.look(sample, start_s)
                end_s = min(start_s + duration_s, max(clip_ends_s, start_s))
                begin_reading("")  # the caller may take longer than the time limit
                yield sample | {"path": clip.path, "start_s": start_s, "end_s": end_s}


class Part(TypedDict):
    """What is read of one shard at a time.

    Keys:
        shard: Number of the shard.
        batch: Windows of its clips; None if there are none left.
        ends: Whether this worker has no more windows of the shard.
        worker: Number of the worker.
        next: Where the worker continues.
    """

    shard: int
    batch: Batch | None
    ends: bool
    worker: int
    next: Position


class Position(NamedTuple):
    """The first window that a worker has not delivered.

    Args:
        shard: Index into the shards to read.
        clip: Index into the clips of the shard that the worker reads.
        window: Number of the window of that clip.
    """

    shard: int = 0
    clip: int = 0
    window: int = 0


class ShardedWindows(IterableDataset[Part]):
    """The windows of clips, shard by shard, in batches that do not reach from one shard into the next.

    So a shard's batches, and with them its vectors to the last bit, do not depend on which other shards are read. The
    workers of a loader share the clips of every shard; each says when it has no more of it.

    Args:
        clips: rows of a manifest.
        windows: how they are read; by a reader of no modality, nothing is.
        shards: the numbers of those that are wanted.
        size: clips of a shard.
        batch_size: windows at a time.

    Attributes:
        positions: Where each worker begins.
    """

    def __init__(
        self, clips: Sequence[Clip], windows: Windows, shards: Sequence[int], size: int, batch_size: int
    ) -> None:
        if batch_size < 1 or size < 1:
            raise InputError(f"a batch and a shard hold at least one, not {batch_size} and {size}")
        self.clips, self.windows, self.shards = clips, windows, shards
        self.size, self.batch_size = size, batch_size
        self.positions: dict[int, Position] = {}

    def clips_of(self, shard: int) -> Sequence[Clip]:
        """The clips of a shard."""
        return self.clips[shard * self.size : (shard + 1) * self.size]

    def __iter__(self) -> Iterator[Part]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        begin = self.positions.get(worker, Position())
        for number in range(begin.shard, len(self.shards)):
            samples: list[list[Sample]] = []
            first = begin if number == begin.shard else Position(number)
            shard = self.shards[number]
            for sample, following in self._samples(shard, first, worker, workers):
                samples.append([sample])
                if len(samples) == self.batch_size:
                    yield Part(shard=shard, batch=collate(samples), ends=False, worker=worker, next=following)
                    samples = []
            batch = collate(samples) if samples else None
            yield Part(shard=shard, batch=batch, ends=True, worker=worker, next=Position(number + 1))

    def _samples(self, shard: int, first: Position, worker: int, workers: int) -> Iterator[tuple[Sample, Position]]:
        """Yield the windows of a shard from a position on, each with the position after it."""
        if not self.windows.reader.modalities:
            return
        clips = self.clips_of(shard)[worker::workers]
        for index in range(first.clip, len(clips)):
            for number, sample in enumerate(self.windows.of(clips[index])):
                has_crashed = any(event["kind"] == "crashed" for event in sample["events"])
                if index > first.clip or number >= first.window or has_crashed:
                    following = Position(first.shard, index, number + 1)
                    yield sample, Position(first.shard, index + 1) if has_crashed else following


class WindowLoader(CrashTolerantLoader):
    """A loader of `ShardedWindows`.

    Args:
        dataset: Windows; its `positions` are updated.
        num_workers: Number of processes that read.
    """

    dataset: ShardedWindows

    def __init__(self, dataset: ShardedWindows, num_workers: int) -> None:
        super().__init__(dataset, {}, leave_interrupts_to_main, batch_size=None, num_workers=num_workers)

    def delivered(self, part: Part) -> None:
        self.dataset.positions[part["worker"]] = part["next"]
