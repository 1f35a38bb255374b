"""Filters of search results by path pattern and by manifest column."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from vatt.errors import InputError
from vatt.retrieval.filters import describe_filters, describe_split, matches_condition, matches_pattern


@pytest.mark.parametrize(
    ("value", "matched"),
    [
        ("2020", [0, 1, 2, 3, 8]),
        ("2020.0", [0, 1, 2, 3, 8]),
        ("7", [6, 9]),
        ("007", [5]),
        ("true", [19]),
        ("caf\u00e9", [7]),
        ("2.5", [4]),
        ("2.50", [4]),
        ("2.5e0", []),
        ("1000", [12]),
        ("1e3", [13]),
        ("1e-05", [14]),
        ("0.00001", [14]),
        ("-3", [15]),
        ("10000000000000001", [16]),
    ],
)
def test_conditions_compare_numbers_as_numbers(value: str, matched: list[int]) -> None:
    values = [2020, 2020.0, "2020", "2020.0", 2.5, "007", 7, " cafe\u0301", [1999.0, 2020.0], "7.", None, "NaN"]
    values[9] = "7"
    values += ["1000", "1e3", 1e-05, "-3.0", "10000000000000001", "10000000000000000.0", 10**400, True]
    rows = pa.table({"extra": [json.dumps({"x_year": value}) for value in values] + [None]})
    assert np.flatnonzero(matches_condition(rows, f"x_year={value}")).tolist() == matched


@pytest.mark.parametrize(
    ("value", "matched"),
    [
        ("true", [0, 1, 2]),
        ("True", [0, 1, 2]),
        ("FALSE", [3]),
        (".5", [4, 5, 6]),
        ("0.50", [4, 5, 6]),
        ("-.5", [7]),
        ("7.", [8]),
        (".", [9]),
    ],
)
def test_conditions_match_booleans_and_numbers_in_every_spelling(value: str, matched: list[int]) -> None:
    values = [True, "TRUE", "True", False, 0.5, ".5", "0.5", "-0.5", 7, "."]
    rows = pa.table({"extra": [json.dumps({"x_b": value}) for value in values]})
    assert np.flatnonzero(matches_condition(rows, f"x_b={value}")).tolist() == matched


def test_similar_columns_of_a_condition_are_named() -> None:
    rows = pa.table({"extra": [json.dumps({"labels": ["dog"], "x_b": 1})]})
    with pytest.raises(InputError, match=r"no clip has a column 'label'; did you mean 'labels'\? available columns"):
        matches_condition(rows, "label=dog")


def test_values_of_a_condition_are_shown_as_numbers() -> None:
    rows = pa.table({"extra": [json.dumps({"x_year": year}) for year in (10.0, 9.0, 2.5, "old")]})
    everything = np.ones(4, bool)
    reason = describe_filters(rows, everything, None, everything, "x_year=11")
    assert reason == "the condition 'x_year=11' matches none of 4 rows; values of 'x_year' are 2.5, 9, 10, old"


def test_patterns_match_composed_and_decomposed_names() -> None:
    rows = pa.table({"path": ["/caf\u00e9.mp4", "/cafe\u0301.mp4", "/cafe.mp4", None]})
    for pattern in ("*caf\u00e9*", "*cafe\u0301*"):
        assert matches_pattern(rows, "path", pattern).tolist() == [True, True, False, False]


def test_patterns_support_only_stars_and_question_marks() -> None:
    rows = pa.table({"path": ["a/b_1.mp4", "a/bx1.mp4", "a/b%.mp4", "b.mp4", None]})
    result = {
        pattern: matches_pattern(rows, "path", pattern).tolist()
        for pattern in ("a/*", "a/b_1.mp4", "a/b?1*", "*%*", "b")
    }
    assert result == {
        "a/*": [True, True, True, False, False],
        "a/b_1.mp4": [True, False, False, False, False],
        "a/b?1*": [True, True, False, False, False],
        "*%*": [False, False, True, False, False],
        "b": [False] * 5,
    }


@pytest.mark.parametrize(
    ("splits", "value", "matched", "notice"),
    [
        (
            ["val", "validation", "dev", "train"],
            "val",
            [0],
            "not used: 1 row of split 'dev', 1 row of split 'validation'",
        ),
        (["Validation", "train", None], "val", [0], "split 'Validation' is used as 'val'"),
        (["Val", "dev"], "val", [0], "split 'Val' is used as 'val'; not used: 1 row of split 'dev'"),
        (["Training", "Test"], "train", [0], "split 'Training' is used as 'train'"),
        (["val", "train"], "val", [0], None),
        (["train", "val"], "fold1", [], None),
        (["1", "2"], "1.0", [0], None),
    ],
)
def test_conditions_match_splits_like_manifests(
    splits: list[str | None], value: str, matched: list[int], notice: str | None
) -> None:
    rows = pa.table({"extra": [json.dumps({"split": split}) for split in splits] + [None]})
    assert np.flatnonzero(matches_condition(rows, f"split={value}")).tolist() == matched
    assert describe_split(rows, np.ones(len(rows), bool), f"split={value}") == notice
    assert describe_split(rows, np.ones(len(rows), bool), "x_b=val") is None
    removed = describe_split(rows, np.zeros(len(rows), bool), f"split={value}")
    assert removed is None or "not used" not in removed


def test_ambiguous_splits_of_a_condition_are_an_error() -> None:
    rows = pa.table({"extra": [json.dumps({"split": split}) for split in ("dev", "valid")]})
    with pytest.raises(InputError, match="split 'val' is ambiguous: column 'split' holds 'dev' and 'valid'"):
        matches_condition(rows, "split=val")
