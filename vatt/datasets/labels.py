"""Class names of clips as targets of a classifier."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vatt.datasets.names import clean, fold
from vatt.errors import InputError
from vatt.io import read_lines
from vatt.structures import Clip

SHOWN = 5  # groups of similar names in one warning
_INTEGER = re.compile(r"([+-]?[0-9]{1,400})(\.0*)?")  # with a decimal point, as pandas writes it beside missing values


class Classes:
    """The classes that are told apart, in the order of a classifier's logits.

    Names are compared without surrounding whitespace and invisible characters, and in Unicode form NFC.

    Args:
        names: one for each class.
        multi_label: a clip may have several classes, or none of them; otherwise it has exactly one.

    Raises:
        InputError: no name, or a name that comes twice.
    """

    def __init__(self, names: Sequence[str], multi_label: bool = False) -> None:
        self.names, self.multi_label = [clean(name) for name in names], multi_label
        self._index = {name: number for number, name in enumerate(self.names)}
        if len(self._index) < len(self.names) or not self.names:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"classes come twice: {', '.join(twice)}" if twice else "there are no classes")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, clips: Iterable[Clip], multi_label: bool = False) -> Classes:
        """The labels of clips, sorted: as numbers if all are integers. Warns like `read`."""
        names = {clean(label) for clip in clips for label in clip.labels}
        numbers = {name: int(match[1]) for name in names if (match := _INTEGER.fullmatch(name))}
        ordered = sorted(names, key=(lambda name: (numbers[name], name)) if len(numbers) == len(names) else None)
        classes = cls(ordered, multi_label)
        classes._warn_similar()
        return classes

    @classmethod
    def read(cls, path: str | Path, multi_label: bool = False) -> Classes:
        """Read class names from a text file with one name per line (see `vatt.io.read_lines`). Blank lines are skipped.

        Warns about names that differ only in case, whitespace, invisible characters, Unicode normalization or the zeros
        of integers (1, 01, 1.0).

        Raises:
            FileNotFoundError: there is no such file.
            InputError: see `vatt.io.read_lines` and the constructor.
        """
        names = [line for line in read_lines(path) if line.strip()]
        try:
            classes = cls(names, multi_label)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        classes._warn_similar()
        return classes

    def _warn_similar(self) -> None:
        similar = defaultdict[str, list[str]](list)
        for name in self.names:
            similar[_folded(name)].append(name)
        groups = [", ".join(map(repr, names)) for names in similar.values() if len(names) > 1]
        if groups:
            more = f", and {len(groups) - SHOWN} more groups" if len(groups) > SHOWN else ""
            warnings.warn(
                f"different classes with almost the same name: {'; '.join(groups[:SHOWN])}{more}. If they are one "
                "class, give their rows the same label",
                stacklevel=3,
            )

    def number(self, label: str) -> int:
        """Return the number of the class with a label.

        Raises:
            KeyError: No class has this name.
        """
        return self._index[clean(label)]

    def check(self, clips: Iterable[Clip]) -> None:
        """See that every clip has a target.

        Raises:
            InputError: clips without a label, with a label that is no class, or with several where one is wanted.
        """
        problems: dict[str, list[str]] = {}
        for clip in clips:
            unknown = [label for label in clip.labels if clean(label) not in self._index]
            if unknown:
                problems.setdefault(self._describe_unknown(unknown[0]), []).append(clip.id)
            elif not self.multi_label and len(clip.labels) != 1:
                reason = f"{len(clip.labels)} labels where one is wanted (several are for multi_label)"
                problems.setdefault(reason, []).append(clip.id)
        if problems:
            reason, ids = max(problems.items(), key=lambda found: len(found[1]))
            count = sum(map(len, problems.values()))
            raise InputError(
                f"{count} clips cannot be classified; {len(ids)} of them: {reason} (the first: {ids[0]!r})"
            )

    def _describe_unknown(self, label: str) -> str:
        """Describe a label that is no class, and why if a class has almost the same name."""
        reason = f"label {label!r} is none of the {len(self)} classes"
        as_integer, as_float = _INTEGER.fullmatch(clean(label)), f"{clean(label)}.0"
        similar = next((name for name in self.names if _folded(name) == _folded(label)), None)
        if as_integer and as_integer[1] in self._index:
            return (
                f"{reason}, but {as_integer[1]!r} is: the labels are integers that were written as floats, as pandas "
                "does in columns with missing values. Write them as integers"
            )
        if as_float in self._index:
            return (
                f"{reason}, but {as_float!r} is: the classes are integers that were written as floats. Write them as "
                "integers in the list of classes"
            )
        if similar is not None:
            differences = "case, whitespace, invisible characters, Unicode normalization or the zeros of an integer"
            return f"{reason}, but {similar!r} is, which differs only in {differences}. Use one spelling"
        return reason

    def target(self, clip: Clip) -> Tensor:
        """(C,) float: 1 for each class of the clip."""
        target = torch.zeros(len(self))
        target[[self.number(label) for label in clip.labels]] = 1.0
        return target


def _folded(name: str) -> str:
    """Return a key that names with almost the same spelling share, such as "1", "1.0" and "01"."""
    if number := _INTEGER.fullmatch(name.strip()):
        return str(int(number[1]))
    return fold(name)
