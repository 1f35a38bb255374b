"""Every window of every clip, one after the other: how files are read to be embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from torch.utils.data import IterableDataset, get_worker_info

from vatt.datasets.batches import Sample
from vatt.datasets.clips import ClipReader, Views, start_range
from vatt.datasets.media.facts import MediaError
from vatt.errors import InputError
from vatt.structures import Clip, Event


def window_starts(first_s: float, last_s: float, hop_s: float) -> list[float]:
    """Starts of windows every ``hop_s`` from the first to the last, the last one always among them."""
    count = int((last_s - first_s) / hop_s + 1e-6)
    starts = [first_s + i * hop_s for i in range(count + 1)]
    if last_s - starts[-1] > 1e-3:
        starts.append(last_s)
    return starts


class WindowStream(IterableDataset[list[Sample]]):
    """Every window of every clip, one after the other, for embedding. The workers of a loader share the clips.

    Samples have the keys ``path``, ``start_s`` and ``end_s`` as well. A file that cannot be read, or only in part,
    gives one sample with nothing valid and an `Event`.

    Args:
        clips: rows of a manifest.
        reader: how they are read.
        hop_s: distance of the windows in seconds.
        count: windows of each clip, spread evenly from its beginning to its end whatever its length, in place of those
            at a distance.
    """

    def __init__(self, clips: Sequence[Clip], reader: ClipReader, hop_s: float, count: int | None = None) -> None:
        if not hop_s > 0:
            raise InputError(f"the distance of windows must be positive, not {hop_s} s")
        if count is not None and count < 1:
            raise InputError(f"a clip has at least one window, not {count}")
        self.clips, self.reader, self.hop_s, self.count = clips, reader, hop_s, count

    def __iter__(self) -> Iterator[list[Sample]]:
        worker = get_worker_info()
        for clip in self.clips if worker is None else self.clips[worker.id :: worker.num_workers]:
            try:
                for sample in self._windows(clip):
                    yield [sample]
            except MediaError as error:
                sample = self.reader.nothing(clip) | {
                    "path": clip.path,
                    "start_s": clip.start_s,
                    "end_s": clip.start_s,
                }
                sample["events"].append(Event(kind="unreadable", id=clip.id, path=error.path, reason=error.reason))
                yield [sample]

    def _windows(self, clip: Clip) -> Iterator[Sample]:
        duration_s = self.reader.span_s
        with ExitStack() as stack:
            files = self.reader.open(clip, stack)
            first_s, last_s, clip_ends_s = start_range(clip, files, duration_s, self.reader.modalities)
            whole = True
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
                if whole and self.reader.is_empty(sample):
                    whole = False
                    reason = f"neither picture nor sound in the window at {start_s:.2f} s, of {clip_ends_s:.2f} s"
                    sample["events"].append(Event(kind="damaged", id=clip.id, path=clip.path, reason=reason))
                end_s = min(start_s + duration_s, max(clip_ends_s, start_s))
                yield sample | {"path": clip.path, "start_s": start_s, "end_s": end_s}
