"""Which clips make which batch: a pure function of the seed and the number of clips drawn before.

Every draw of a training has a number, its slot, counted over all steps and processes. A slot leads to a dataset
(`Mix`), the slots of one dataset lead to its clips (`Shuffled`, `Balanced`). Nothing is remembered between draws, so
that a training can be resumed at any slot, by any number of processes with any number of workers. Where batches of
another size are drawn from then on, passes end elsewhere, and the pass that was begun goes on where it was.

Clips of a batch are each other's negatives in a contrastive loss. Where several clips are of one file, a clip that
shares most of its time with an earlier one of the same batch is replaced by a later draw of the same dataset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Generator
from torch.utils.data import Sampler

from vatt.datasets.identity import Segments, is_same_moment
from vatt.errors import InputError

Key = tuple[int, int, int]  # number of the dataset, index of the clip, number that makes this draw of it unique
BLOCK = 10_000  # slots after which a mix has its weights exactly
REPLACEMENTS = 20  # number of replacement draws if a segment is already in the batch
REPLACEMENT_OFFSET = 2**40  # offset of replacement draws, beyond the length of any training


def seeded(*numbers: int) -> Generator:
    """A generator that depends on all the numbers."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:  # splitmix64: neighbouring seeds give unrelated streams
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


class Order(Protocol):
    """The clips of one dataset, one after the other, without end.

    Attributes:
        used: draws of one pass, in which no clip comes twice; 1 where there are no passes.
    """

    used: int

    def __getitem__(self, draw: int) -> tuple[int, int]:
        """Index of the clip at a draw, and a number that no other draw of that clip has."""


class Permutation:
    """Random orders of ``count`` things, one for each of any numbers; the last one is kept."""

    def __init__(self, count: int, *seeds: int) -> None:
        self.count, self.seeds = count, seeds
        self._number, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, number: int, place: int) -> int:
        if number != self._number:
            self._order = torch.randperm(self.count, generator=seeded(*self.seeds, number))
            self._number = number
        return int(self._order[place])


class Shuffled:
    """Every clip once in each pass, in a fresh order.

    Args:
        num_clips: size of the dataset.
        seed: of the orders.
        whole: draws that make a batch; each pass leaves out as many clips, other ones each time, as fill no batch, so
            that no batch draws a clip twice (the replacement of an unreadable one may still be among them). 1 leaves
            out none, and where two passes meet a batch may draw a clip twice.
    """

    def __init__(self, num_clips: int, seed: int, whole: int = 1) -> None:
        if num_clips < whole:
            raise InputError(f"{num_clips} clips do not fill one batch of {whole}; lower data.batch_size")
        self.used = num_clips // whole * whole
        self._permutation = Permutation(num_clips, seed)

    def __getitem__(self, draw: int) -> tuple[int, int]:
        number, place = divmod(draw, self.used)
        return self._permutation(number, place), number


class Balanced:
    """Every class equally often, and every clip of a class as often as the others of it.

    In each round every class comes once, in a fresh order, with its next clip (as for AudioSet in Kong et al., "PANNs",
    2020, section III-B). A clip with several labels belongs to each of them.

    Args:
        labels: class names of each clip.
        seed: of the orders.

    Raises:
        InputError: a clip has no label.
    """

    def __init__(self, labels: Sequence[Sequence[str]], seed: int) -> None:
        members: dict[str, list[int]] = {}
        for index, names in enumerate(labels):
            for name in names:
                members.setdefault(name, []).append(index)
        without = sum(not names for names in labels)
        if without or not members:
            raise InputError(f"{without} of {len(labels)} clips have no label, by which they could be balanced")
        self.classes = sorted(members)
        self.used = 1
        self._members = [members[name] for name in self.classes]
        self._round = Permutation(len(self.classes), seed)
        self._orders = [Permutation(len(clips), seed, number) for number, clips in enumerate(self._members)]

    def __getitem__(self, draw: int) -> tuple[int, int]:
        number, place = divmod(draw, len(self.classes))
        chosen = self._round(number, place)
        clips = self._members[chosen]
        return clips[self._orders[chosen](*divmod(number, len(clips)))], draw


class Mix:
    """Which dataset each slot takes a clip from: in random order, with the weights met in every block of slots.

    Args:
        weights: of the datasets, of any sum.
        seed: of the order.

    Raises:
        InputError: a weight is not positive, or too small beside the others.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not all(weight > 0 for weight in weights):
            raise InputError(f"weights of datasets must be positive, not {list(weights)}")
        shares = torch.tensor(weights, dtype=torch.float64) / sum(weights) * BLOCK
        self.counts = shares.floor().to(torch.int64)
        rest = (shares - self.counts).argsort(descending=True, stable=True)[: BLOCK - int(self.counts.sum())]
        self.counts[rest] += 1
        if int(self.counts.min()) < 1:
            raise InputError(f"the smallest of the weights {list(weights)} is under a {BLOCK}th of their sum")
        self.seed, self._number = seed, -1

    def __getitem__(self, slot: int) -> tuple[int, int]:
        """Number of the dataset, and how many slots before this one took from it."""
        number, place = divmod(slot, BLOCK)
        if number != self._number:
            datasets = torch.repeat_interleave(self.counts)
            self._datasets = datasets[torch.randperm(BLOCK, generator=seeded(self.seed, number))]
            self._before = torch.empty(BLOCK, dtype=torch.int64)
            for dataset, count in enumerate(self.counts.tolist()):
                self._before[self._datasets == dataset] = torch.arange(count) + number * count
            self._number = number
        return int(self._datasets[place]), int(self._before[place])


class StepSampler(Sampler[list[Key]]):
    """Batches of keys, the same number for every process.

    Args:
        orders: of the datasets.
        batch_size: clips in a batch of one process.
        steps: batches of the whole training.
        mix: of the datasets; not needed for a single one.
        rank, world: which process of how many this is. All processes together draw the slots of a step.
        segments: Segments of the clips of each dataset, if a batch should not contain a segment of a file twice. If no
            other segment is found in `REPLACEMENTS` draws, for example in a dataset smaller than a batch, the repeated
            segment is kept.

    Attributes:
        step: number of the next batch; the ones before it have been trained on.
        slot: the first slot of that batch.
    """

    def __init__(
        self,
        orders: Sequence[Order],
        batch_size: int,
        steps: int,
        mix: Mix | None = None,
        rank: int = 0,
        world: int = 1,
        segments: Sequence[Segments] | None = None,
    ) -> None:
        self.orders, self.batch_size, self.steps, self.mix = orders, batch_size, steps, mix
        self.rank, self.world, self.segments = rank, world, segments
        self.step = self.slot = 0

    @property
    def whole(self) -> int:
        """Slots of one step."""
        return self.batch_size * self.world

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        slot = self.slot
        for _ in range(self.step, self.steps):
            if self.segments is None:
                yield [self.key(i) for i in range(slot + self.rank, slot + self.whole, self.world)]
            else:
                yield self._distinct(range(slot, slot + self.whole))[self.rank :: self.world]
            slot += self.whole

    def key(self, slot: int, replacement: int = 0) -> Key:
        """Return the key drawn for a slot, or its replacement with a number from 1 on."""
        dataset, draw = (0, slot) if self.mix is None else self.mix[slot]
        return dataset, *self.orders[dataset][draw + replacement * REPLACEMENT_OFFSET]

    def _distinct(self, slots: range) -> list[Key]:
        """Return the draws of the batch of all processes, in which no two clips are the same moment of a file."""
        spans_s: dict[int, list[tuple[float, float]]] = defaultdict(list)
        keys = []
        for slot in slots:
            chosen = self.key(slot)
            for replacement in range(REPLACEMENTS + 1):
                key = self.key(slot, replacement) if replacement else chosen
                segments, index = self.segments[key[0]], key[1]
                file, span_s = int(segments.file[index]), segments.span_s(index)
                if not any(is_same_moment(span_s, other) for other in spans_s[file]):
                    chosen = key
                    spans_s[file].append(span_s)
                    break
            keys.append(chosen)
        return keys

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, "slot": self.slot, "used": self.orders[0].used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step, self.slot = state["step"], state["slot"]
        if self.mix is None:  # the orders of a mix have no batches to fill
            number, place = divmod(self.slot, state["used"])
            place = -(-place // self.whole) * self.whole  # a batch lies in one pass, which has whole ones only
            self.slot = number * self.orders[0].used + min(place, self.orders[0].used)
