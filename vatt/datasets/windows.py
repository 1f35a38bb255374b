"""Every window of every clip, one after the other: how files are read to be embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypedDict

from torch.utils.data import IterableDataset, get_worker_info

from vatt.datasets.batches import Sample, collate
from vatt.datasets.clips import ClipReader, Views, start_range
from vatt.datasets.media.facts import MediaError
from vatt.errors import InputError
from vatt.structures import Batch, Clip, Event


def window_starts(first_s: float, last_s: float, hop_s: float) -> list[float]:
    """Starts of windows every ``hop_s`` from the first to the last, the last one always among them."""
    count = int((last_s - first_s) / hop_s + 1e-6)
    starts = [first_s + i * hop_s for i in range(count + 1)]
    if last_s - starts[-1] > 1e-3:
        starts.append(last_s)
    return starts


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
            sample = self.reader.nothing(clip) | {"path": clip.path, "start_s": clip.start_s, "end_s": clip.start_s}
            sample["events"].append(Event(kind="unreadable", id=clip.id, path=error.path, reason=error.reason))
            yield sample

    def _read(self, clip: Clip) -> Iterator[Sample]:
        duration_s = self.reader.span_s
        with ExitStack() as stack:
            files = self.reader.open(clip, stack)
            first_s, last_s, clip_ends_s = start_range(clip, files, duration_s, self.reader.modalities)
            empty_s, seen, said = None, False, False
            starts = window_starts(first_s, last_s, self.hop_s)
            if self.count is not None:
                starts = Views.spread(first_s, last_s, self.count)
            for start_s in starts:
                before = sum(file.bad_packets for file in set(files))
                sample = self.reader.read(clip, files, start_s, clip_ends_s)
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
                    what = "neither picture nor sound" if len(self.reader.modalities) == 2 else "nothing"
                    reason = f"{what} in the window at {empty_s:.2f} s, of {clip_ends_s:.2f} s"
                    sample["events"].append(Event(kind="damaged", id=clip.id, path=clip.path, reason=reason))
                end_s = min(start_s + duration_s, max(clip_ends_s, start_s))
                yield sample | {"path": clip.path, "start_s": start_s, "end_s": end_s}


class Part(TypedDict):
    """What is read of one shard at a time.

    Keys:
        shard: its number.
        batch: windows of its clips; None if there are none left.
        ends: this worker has no more of the shard.
    """

    shard: int
    batch: Batch | None
    ends: bool


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
    """

    def __init__(
        self, clips: Sequence[Clip], windows: Windows, shards: Sequence[int], size: int, batch_size: int
    ) -> None:
        if batch_size < 1 or size < 1:
            raise InputError(f"a batch and a shard hold at least one, not {batch_size} and {size}")
        self.clips, self.windows, self.shards = clips, windows, shards
        self.size, self.batch_size = size, batch_size

    def clips_of(self, shard: int) -> Sequence[Clip]:
        """The clips of a shard."""
        return self.clips[shard * self.size : (shard + 1) * self.size]

    def __iter__(self) -> Iterator[Part]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for shard in self.shards:
            samples: list[list[Sample]] = []
            for clip in self.clips_of(shard)[first::step] if self.windows.reader.modalities else ():
                for sample in self.windows.of(clip):
                    samples.append([sample])
                    if len(samples) == self.batch_size:
                        yield Part(shard=shard, batch=collate(samples), ends=False)
                        samples = []
            yield Part(shard=shard, batch=collate(samples) if samples else None, ends=True)
