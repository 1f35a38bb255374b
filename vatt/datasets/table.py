"""Clips by the million in a few blocks of memory, which every process of a run shares."""

from __future__ import annotations

import pickle
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from vatt.structures import Clip, TimedText

LEVEL = 1  # of zlib: 100 timed texts take 2.4 KB in place of 24 KB as Python objects
CPU = torch.device("cpu")  # whatever the default device is, such as "meta" while models are built
Packed = tuple[list[str], list[float | None], list[float | None]]


class ClipTable(Sequence[Clip]):
    """Clips as a sequence that is made anew at every access, from bytes.

    A million `Clip` objects with timed texts take tens of GB, which every worker process would copy by and by, as it
    counts references. The bytes here are tensors: forked workers share them, and so do spawned ones.

    Args:
        clips: any clips; an iterator is not kept.
    """

    def __init__(self, clips: Iterable[Clip] = ()) -> None:
        heads, tails, ends = bytearray(), bytearray(), array("q", [0, 0])
        for clip in clips:
            heads += pickle.dumps(_head(clip), 5)
            if clip.texts or clip.words:
                tails += zlib.compress(pickle.dumps((_pack(clip.texts), _pack(clip.words)), 5), LEVEL)
            ends.extend((len(heads), len(tails)))
        self._heads, self._tails = _tensor(heads), _tensor(tails)
        self._ends = torch.frombuffer(ends, dtype=torch.int64).clone().view(-1, 2)
        self._rows = torch.arange(len(self._ends) - 1, device=CPU)
        self._prefix = ""

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipTable: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipTable:
        """One clip, or a table of several."""
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        row = int(self._rows[index])
        clip = self._without_texts(row)
        tail = self._part(self._tails, row, 1)
        if not tail:
            return clip
        texts, words = pickle.loads(zlib.decompress(tail))
        return replace(clip, texts=_unpack(texts), words=_unpack(words))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClipTable({len(self)} clips)"

    def heads(self) -> Iterator[Clip]:
        """The clips without their texts and words, which is many times faster."""
        return map(self._without_texts, self._rows.tolist())

    def take(self, indices: Iterable[int]) -> ClipTable:
        """Some of the clips, in the given order, without copying any."""
        return self._like(self._rows[torch.tensor([*indices], dtype=torch.int64, device=CPU)])

    def named(self, prefix: str) -> ClipTable:
        """The same clips with ids that begin with ``prefix``."""
        table = self._like(self._rows)
        table._prefix = prefix + self._prefix
        return table

    @property
    def num_bytes(self) -> int:
        """Memory that the table takes, together with the tables that it was taken from."""
        return sum(t.numel() * t.element_size() for t in (self._heads, self._tails, self._ends, self._rows))

    def _like(self, rows: Tensor) -> ClipTable:
        table = object.__new__(ClipTable)
        table.__dict__.update(self.__dict__, _rows=rows)
        return table

    def _part(self, block: Tensor, row: int, column: int) -> bytes:
        begin, end = self._ends[row : row + 2, column].tolist()
        return block[begin:end].numpy().tobytes()

    def _without_texts(self, row: int) -> Clip:
        clip_id, *rest = pickle.loads(self._part(self._heads, row, 0))
        path, start_s, end_s, labels, split, audio_path, extra = rest
        return Clip(self._prefix + clip_id, path, start_s, end_s, (), (), labels, split, audio_path, extra)


def _head(clip: Clip) -> tuple[Any, ...]:
    return clip.id, clip.path, clip.start_s, clip.end_s, clip.labels, clip.split, clip.audio_path, dict(clip.extra)


def _pack(texts: Sequence[TimedText]) -> Packed:
    return [t.text for t in texts], [t.start_s for t in texts], [t.end_s for t in texts]


def _unpack(packed: Packed) -> tuple[TimedText, ...]:
    return tuple(map(TimedText, *packed))


def _tensor(block: bytearray) -> Tensor:
    if not block:
        return torch.empty(0, dtype=torch.uint8, device=CPU)
    return torch.frombuffer(block, dtype=torch.uint8)
