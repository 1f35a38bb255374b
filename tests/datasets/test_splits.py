from __future__ import annotations

from collections import Counter

import pytest

from vatt.datasets.splits import SplitRows, count_synonyms, describe_missing, describe_unused, find_rows, match_split
from vatt.errors import InputError


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "Val", "VALIDATION", "development", "eval"])
def test_names_of_the_validation_split(name: str) -> None:
    assert match_split("val", ["train", name, "test", None]) == name
    assert match_split("Validation", ["train", name]) == (name if name.casefold() != "eval" else "eval")


@pytest.mark.parametrize(
    ("split", "names", "match"),
    [
        ("val", ["val", "Val", "dev"], "val"),
        ("val", ["Val", "dev"], "Val"),
        ("train", ["Training", "test"], "Training"),
        ("test", ["train", "testing"], "testing"),
        ("test", ["train", "val", "eval"], "eval"),
        ("val", ["train", "val", "eval"], "val"),
        ("test", ["train", "eval"], None),
        ("val", ["train", "test", "extra", None], None),
        ("fold1", ["Fold1"], "Fold1"),
        ("vall", ["val"], None),
    ],
)
def test_exact_names_are_preferred_to_case_and_case_to_synonyms(
    split: str, names: list[str | None], match: str | None
) -> None:
    assert match_split(split, names) == match


def test_an_ambiguous_split_is_an_error() -> None:
    with pytest.raises(InputError, match="split 'val' is ambiguous: column 'split' holds 'dev' and 'validation'"):
        match_split("val", ["train", "validation", "dev"])


def test_unused_rows_are_counted() -> None:
    splits = ["train", "validation", None, "other", "train", None]
    result = find_rows(splits, {"training": "train", "validation": "val", "test": "validation"})
    rows = {"training": [0, 4], "validation": [1], "test": [1]}
    names = {"training": "train", "validation": "validation", "test": "validation"}
    assert result == SplitRows(rows, names, Counter({None: 2, "other": 1}))
    assert describe_unused(result.unused) == "1 row of split 'other', 2 rows without a split"
    assert describe_unused({}) == ""


@pytest.mark.parametrize(
    ("split", "counts", "unused"),
    [
        ("val", {"val": 1, "validation": 2, "dev": 3, "train": 4, None: 5}, {"validation": 2, "dev": 3}),
        ("val", {"val": 1, "Val": 2, "eval": 3, "Test": 4}, {"Val": 2}),
        ("val", {"Val": 1, "dev": 2}, {"dev": 2}),
        ("validation", {"val": 1, "validation": 2}, {"val": 1}),
        ("val", {"eval": 1, "train": 2}, {}),
        ("test", {"test": 1, "eval": 2, "val": 3, "testing": 4}, {"testing": 4, "eval": 2}),
        ("test", {"test": 1, "eval": 2}, {}),
        ("fold1", {"fold1": 1, "Fold1": 2, "fold2": 3}, {"Fold1": 2}),
        ("train", {"val": 1}, {}),
    ],
)
def test_rows_of_unused_synonyms_are_counted(
    split: str, counts: dict[str | None, int], unused: dict[str | None, int]
) -> None:
    assert count_synonyms(split, counts) == unused


def test_splits_of_a_manifest_are_described() -> None:
    message = "no row has split 'test' or 'dev'; column 'split' holds train, val"
    assert describe_missing(["test", "dev", "test"], ["val", None, "train", "val"]) == message
    assert describe_missing(["test"], [None, None]) == "no row has a split"
