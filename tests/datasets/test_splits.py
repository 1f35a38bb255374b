from __future__ import annotations

from collections import Counter

import pytest

from vatt.datasets.splits import SplitRows, describe_unused, find_rows, match_split
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
