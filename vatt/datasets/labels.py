"""Class names of clips as targets of a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vatt.errors import InputError
from vatt.structures import Clip


class Classes:
    """The classes that are told apart, in the order of a classifier's logits.

    Args:
        names: one for each class.
        multi_label: a clip may have several classes, or none of them; otherwise it has exactly one.

    Raises:
        InputError: no name, or a name that comes twice.
    """

    def __init__(self, names: Sequence[str], multi_label: bool = False) -> None:
        self.names, self.multi_label = list(names), multi_label
        self._index = {name: number for number, name in enumerate(self.names)}
        if len(self._index) < len(self.names) or not self.names:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"classes come twice: {', '.join(twice)}" if twice else "there are no classes")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, clips: Iterable[Clip], multi_label: bool = False) -> Classes:
        """The labels of clips, sorted."""
        return cls(sorted({label for clip in clips for label in clip.labels}), multi_label)

    @classmethod
    def read(cls, path: str | Path, multi_label: bool = False) -> Classes:
        """A text file with one name a line, in order.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is not UTF-8, or as for the constructor.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
            return cls([line.strip() for line in lines if line.strip()], multi_label)
        except (UnicodeDecodeError, InputError) as error:
            raise InputError(f"{path}: {error}") from error

    def check(self, clips: Iterable[Clip]) -> None:
        """See that every clip has a target.

        Raises:
            InputError: clips without a label, with a label that is no class, or with several where one is wanted.
        """
        problems: dict[str, list[str]] = {}
        for clip in clips:
            unknown = [label for label in clip.labels if label not in self._index]
            if unknown:
                problems.setdefault(f"label {unknown[0]!r} is none of the {len(self)} classes", []).append(clip.id)
            elif not self.multi_label and len(clip.labels) != 1:
                reason = f"{len(clip.labels)} labels where one is wanted (several are for multi_label)"
                problems.setdefault(reason, []).append(clip.id)
        if problems:
            reason, ids = max(problems.items(), key=lambda found: len(found[1]))
            count = sum(map(len, problems.values()))
            raise InputError(
                f"{count} clips cannot be classified; {len(ids)} of them: {reason} (the first: {ids[0]!r})"
            )

    def target(self, clip: Clip) -> Tensor:
        """(C,) float: 1 for each class of the clip."""
        target = torch.zeros(len(self))
        target[[self._index[label] for label in clip.labels]] = 1.0
        return target
