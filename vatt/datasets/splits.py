"""Splits of manifests: the rows for training, validation and testing, by common names of splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vatt.errors import InputError

SYNONYMS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev", "development"),
    "test": ("test", "testing"),
}
EVALUATION = ("eval", "evaluation")  # the validation split, or the test split if there is another validation split


def match_split(split: str, names: Collection[str | None]) -> str | None:
    """Return the name of a split in a manifest.

    The exact name is preferred, then one that differs in case, then a synonym such as ``validation`` for ``val``.
    ``eval`` is the validation split, or the test split of a manifest with another validation split.

    Args:
        split: Requested split.
        names: Names in the manifest. None stands for rows without a split.

    Returns:
        One of the names, or None if no name matches.

    Raises:
        InputError: Several names match.

    Example:
        >>> match_split("val", ["train", "Validation", "test"])
        'Validation'
    """
    if split in names:
        return split
    for matching in _matching_names(split, names):
        if len(matching) > 1:
            raise InputError(f"split {split!r} is ambiguous: column 'split' holds {' and '.join(map(repr, matching))}")
        if matching:
            return matching[0]
    return None


def count_synonyms(split: str, counts: Mapping[str | None, int]) -> dict[str | None, int]:
    """Return the number of rows of each split that has a meaning of a requested split but is not used for it.

    Args:
        split: Requested split.
        counts: Number of rows by split.

    Raises:
        InputError: The requested split is ambiguous.

    Example:
        >>> count_synonyms("val", {"train": 5, "val": 2, "dev": 3})
        {'dev': 3}
    """
    match = match_split(split, counts)
    same_name, synonyms, evaluation = _matching_names(split, counts)
    if _key(split) in SYNONYMS["val"] and same_name + synonyms:
        evaluation = []  # the test split
    return {name: counts[name] for name in dict.fromkeys(same_name + synonyms + evaluation) if name != match}


def _matching_names(split: str, names: Iterable[str | None]) -> tuple[list[str], list[str], list[str]]:
    """Return the names that differ from a split in case only, its synonyms, and names of ``eval`` for it."""
    keys = {name: _key(name) for name in sorted(name for name in names if name is not None)}
    synonyms = next((group for group in SYNONYMS.values() if _key(split) in group), ())
    has_val = any(key in SYNONYMS["val"] for key in keys.values())
    evaluation = EVALUATION if "val" in synonyms or ("test" in synonyms and has_val) else ()
    same_name, same_meaning, also = (
        [name for name, key in keys.items() if key in group] for group in ((_key(split),), synonyms, evaluation)
    )
    return same_name, same_meaning, also


def _key(name: str) -> str:
    return name.strip().casefold()


@dataclass(frozen=True)
class SplitRows:
    """Rows of a manifest by use.

    Attributes:
        rows: Numbers of the rows of each use.
        names: Name in the manifest of the split of each use; a use without rows is left out.
        unused: Number of rows by split that has no use; None for rows without a split.
    """

    rows: dict[str, list[int]]
    names: dict[str, str]
    unused: Counter[str | None]


def find_rows(splits: Sequence[str | None], requested: Mapping[str, str]) -> SplitRows:
    """Find the rows of several splits.

    Args:
        splits: Split of each row.
        requested: Split by use, such as ``{"training": "train"}``. Two uses may have the same split.

    Raises:
        InputError: A split is ambiguous.
    """
    counts = Counter(splits)
    matched = {use: match_split(split, counts) for use, split in requested.items()}
    names = {use: name for use, name in matched.items() if name is not None}
    rows: dict[str, list[int]] = {use: [] for use in requested}
    for number, split in enumerate(splits):
        for use, name in names.items():
            if name == split:
                rows[use].append(number)
    unused = Counter({name: count for name, count in counts.items() if name not in names.values()})
    return SplitRows(rows, names, unused)


def describe_unused(unused: Mapping[str | None, int]) -> str:
    """Return the numbers of unused rows as a clause such as ``2 rows of split 'test', 4 rows without a split``."""
    return ", ".join(
        f"{count} row{'s' * (count > 1)} {'without a split' if name is None else f'of split {name!r}'}"
        for name, count in sorted(unused.items(), key=lambda item: (item[0] is None, item[0]))
        if count
    )


def describe_missing(requested: Iterable[str], splits: Iterable[str | None]) -> str:
    """Return a clause such as ``no row has split 'test'; column 'split' holds train, val``.

    Args:
        requested: Requested splits, none of which has rows.
        splits: Splits of rows; None for rows without a split.
    """
    names = sorted({name for name in splits if name is not None})
    if not names:
        return "no row has a split"
    missing = " or ".join(map(repr, dict.fromkeys(requested)))
    return f"no row has split {missing}; column 'split' holds {', '.join(names)}"
