"""Datasets of clips: random windows for training, and fixed views for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Generator
from torch.utils.data import Dataset

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.loading.batches import Sample
from vatt.datasets.loading.sampling import Key, seeded
from vatt.datasets.transforms import Augment
from vatt.errors import VattError
from vatt.media.reader import Media
from vatt.media.types import MediaError
from vatt.structures import Clip, Event

NOTHING = "neither video nor audio, or less than half of each,"


class DataError(VattError, RuntimeError):
    """The data cannot be read at all; the message names the last file and why."""


@dataclass(frozen=True)
class Views:
    """What evaluation looks at of each clip (VATT, appendix A.2.5: 4 times 3 for video, 4 for audio).

    Args:
        temporal: windows, spread evenly from the beginning to the end; one is in the middle.
        spatial: squares along the longer side of the picture; one is in the middle.
    """

    temporal: int = 1
    spatial: int = 1

    def __post_init__(self) -> None:
        if self.temporal < 1 or self.spatial < 1:
            raise ValueError(f"a clip has at least one view, not {self.temporal} x {self.spatial}")

    def __len__(self) -> int:
        return self.temporal * self.spatial

    @staticmethod
    def spread(first: float, last: float, count: int) -> list[float]:
        """Evenly spaced from first to last; a single one lies in the middle."""
        return [first + (last - first) * (i / (count - 1) if count > 1 else 0.5) for i in range(count)]


class ClipDataset(Dataset[list[Sample]]):
    """Windows of the clips of a manifest. The same index and number of the draw always give the same sample.

    Training draws its windows at random, and replaces a clip that is unreadable, or damaged or empty in the window, by
    another one that the same key always leads to. Evaluation takes the same views of each clip and never replaces:
    what cannot be read comes back with nothing valid. Either way an `Event` tells what happened.

    Args:
        clips: rows of a manifest.
        reader: how they are read.
        augment: how training varies them; None is evaluation.
        windows: windows taken from each opened file, spread over the clip.
        seed: of all random draws.
        max_replacements: clips in a row that may be unreadable before `DataError` is raised.
        views: of each clip in evaluation, in which each gives as many samples.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        reader: ClipReader,
        augment: Augment | None = None,
        windows: int = 1,
        seed: int = 0,
        max_replacements: int = 20,
        views: Views = Views(),
    ) -> None:
        self.clips, self.reader, self.augment = clips, reader, augment
        self.windows, self.seed, self.max_replacements = windows, seed, max_replacements
        self.views = views

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> list[Sample]:
        return self.draw(index, 0)

    def draw(self, index: int, number: int) -> list[Sample]:
        """One draw of a clip; ``number`` makes it another one than the draws before."""
        if self.augment is None:
            return self._evaluation(self.clips[index])
        generator = seeded(self.seed, number, index)
        events: list[Event] = []
        for _ in range(self.max_replacements + 1):
            clip = self.clips[index]
            try:
                samples = self._training(clip, generator)
            except MediaError as error:
                events.append(Event(kind=error.kind, id=clip.id, path=error.path, reason=error.reason))
                index = int(torch.randint(len(self.clips), (), generator=generator))
            else:
                samples[0]["events"] = events + samples[0]["events"]
                return samples
        raise DataError(f"{len(events)} clips in a row cannot be read, the last: {events[-1]['path']}: "
                        f"{events[-1]['reason']}")  # fmt: skip

    def _training(self, clip: Clip, generator: Generator) -> list[Sample]:
        with ExitStack() as stack:
            files = self.reader.open(clip, stack)
            first_s, last_s, end_s = start_range(clip, files, self.reader.window_s, self.reader.modalities)
            # One draw in each of as many equal parts: the windows of a clip lie apart.
            draws = torch.rand(self.windows, generator=generator, dtype=torch.float64)
            places = (torch.arange(self.windows) + draws) / self.windows
            starts = [first_s + (last_s - first_s) * place for place in places.tolist()]
            samples = [self.reader.read(clip, files, start_s, end_s, self.augment, generator) for start_s in starts]
            bad = sum(file.bad_packets for file in set(files))
        if bad:
            raise MediaError(clip.path, f"{bad} damaged packets in the window")
        empty = [start_s for start_s, sample in zip(starts, samples, strict=True) if self.reader.is_empty(sample)]
        if empty:
            raise MediaError(clip.path, f"{NOTHING} from {empty[0]:.2f} s on")
        return samples

    def _evaluation(self, clip: Clip) -> list[Sample]:
        views, events = self.views, []
        try:
            with ExitStack() as stack:
                files = self.reader.open(clip, stack)
                first_s, last_s, end_s = start_range(clip, files, self.reader.window_s, self.reader.modalities)
                samples = [
                    self.reader.read(clip, files, start_s, end_s, crop_position=position)
                    for start_s in views.spread(first_s, last_s, views.temporal)
                    for position in views.spread(0.0, 1.0, views.spatial)
                ]
                bad = sum(file.bad_packets for file in set(files))
        except MediaError as error:
            samples = [self.reader.empty_sample(clip) for _ in range(len(views))]
            events = [Event(kind=error.kind, id=clip.id, path=error.path, reason=error.reason)]
        else:
            if bad:
                reason = f"{bad} damaged packets"
                events.append(Event(kind="damaged", id=clip.id, path=clip.path, reason=reason))
            if any(map(self.reader.is_empty, samples)):
                where = "in the middle" if views.temporal == 1 else "in a view"
                events.append(Event(kind="damaged", id=clip.id, path=clip.path, reason=f"{NOTHING} {where}"))
        samples[0]["events"] += events
        return samples


class MixedDataset(Dataset[list[Sample]]):
    """Several datasets as one, whose items are found by the keys of `vatt.datasets.loading.sampling.StepSampler`.

    Args:
        datasets: with samples of the same shapes.
    """

    def __init__(self, datasets: Sequence[ClipDataset]) -> None:
        self.datasets = datasets

    def __getitem__(self, key: Key) -> list[Sample]:
        dataset, index, number = key
        return self.datasets[dataset].draw(index, number)


def start_range(
    clip: Clip, files: Sequence[Media], duration_s: float, modalities: Sequence[str] = ("video", "audio")
) -> tuple[float, float, float]:
    """First and last second at which a window of ``duration_s`` can begin inside the clip, and the clip's end.

    Raises:
        MediaError: the clip begins after the end of what is read.
    """
    ends_s = max(file.info.end_s(modalities) for file in files)
    if files[0].info.is_picture and files[0] is files[1]:
        return 0.0, 0.0, duration_s
    if clip.start_s and clip.start_s >= ends_s:
        raise MediaError(clip.path, f"the clip begins at {clip.start_s:g} s, the file ends at {ends_s:g} s")
    end_s = ends_s if clip.end_s is None else min(clip.end_s, ends_s)
    return clip.start_s, max(clip.start_s, end_s - duration_s), end_s
