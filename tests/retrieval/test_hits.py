from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vatt.retrieval.hits import Hit, chosen, describe_filters, matches, merged


def hit(id: str, start_s: float, end_s: float, score: float) -> Hit:
    return Hit(0, score, id, f"{id}.mp4", start_s, end_s)


def test_windows_that_touch_or_overlap_are_one_span() -> None:
    windows = [
        hit("a", 6.4, 9.6, 0.9), hit("a", 0.0, 3.2, 0.5), hit("b", 3.2, 6.4, 0.7), hit("a", 3.2, 6.4, 0.4),
        hit("a", 12.8, 16.0, 0.8), hit("b", 4.0, 5.0, 0.2),
    ]  # fmt: skip
    expected = [hit("a", 0.0, 9.6, 0.9), hit("a", 12.8, 16.0, 0.8), hit("b", 3.2, 6.4, 0.7)]
    assert merged(windows) == [span._replace(rank=i) for i, span in enumerate(expected, start=1)]
    assert merged(windows[::-1]) == merged(windows)
    assert merged([]) == []
    ranked = sorted(windows, key=lambda window: -window.score)  # a at 6.4, 12.8, b at 3.2, a at 0.0, 3.2, b at 4.0
    few = merged(ranked, best=2)
    assert [(span.id, span.start_s, span.rank) for span in few] == [
        ("a", 6.4, 1),
        ("a", 12.8, 2),
        ("b", 3.2, 3),
        ("a", 0.0, 4),
    ]


def test_windows_of_equal_clips_are_listed_once() -> None:
    """Rows of one file and segment with ids of their own, and clips of one file that overlap."""
    windows = [
        Hit(0, score, name, "a.mp4", start_s, start_s + 1.0)
        for score, name, start_s in (
            (0.9, "x", 0.0),
            (0.9, "y", 0.0),
            (0.8, "y", 1.0),
            (0.8, "x", 1.0),
            (0.7, "z", 5.0),
        )
    ]
    other = Hit(0, 0.6, "w", "a.mp4", 4.8, 5.7)  # another clip, which mostly overlaps with that of z
    after = Hit(0, 0.5, "v", "a.mp4", 6.0, 7.0)  # follows the clip of z
    result = [(hit.id, hit.start_s, hit.end_s, hit.score) for hit in merged([*windows, other, after])]
    assert result == [("x", 0.0, 2.0, 0.9), ("z", 5.0, 6.0, 0.7), ("v", 6.0, 7.0, 0.5)]
    few = [(hit.id, hit.start_s) for hit in merged([*windows, other, after], best=1)]
    assert few == [("x", 0.0), ("z", 5.0), ("v", 6.0)]


def test_windows_of_a_file_with_several_paths_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, link = (f"{tmp_path}/{name}/a.mp4" for name in ("real", "link"))
    windows = [
        Hit(0, score, path, path, start_s, start_s + 1.0)
        for score, path, start_s in ((0.9, link, 0.0), (0.9, real, 0.0), (0.8, real, 1.0), (0.7, link, 1.0))
    ]
    assert [(hit.path, hit.start_s, hit.end_s) for hit in merged(windows)] == [(link, 0.0, 2.0)]


@pytest.mark.parametrize(
    ("value", "matched"),
    [
        ("2020", [0, 1, 2, 3, 8]),
        ("2020.0", [0, 1, 2, 3, 8]),
        ("7", [6, 9]),
        ("007", [5]),
        ("true", []),
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
    assert np.flatnonzero(chosen(rows, f"x_year={value}")).tolist() == matched


def test_values_of_a_condition_are_shown_as_numbers() -> None:
    rows = pa.table({"extra": [json.dumps({"x_year": year}) for year in (10.0, 9.0, 2.5, "old")]})
    everything = np.ones(4, bool)
    reason = describe_filters(rows, everything, None, everything, "x_year=11")
    assert reason == "the condition 'x_year=11' matches none of 4 rows; values of 'x_year' are 2.5, 9, 10, old"


def test_patterns_match_composed_and_decomposed_names() -> None:
    rows = pa.table({"path": ["/caf\u00e9.mp4", "/cafe\u0301.mp4", "/cafe.mp4", None]})
    for pattern in ("*caf\u00e9*", "*cafe\u0301*"):
        assert matches(rows, "path", pattern).tolist() == [True, True, False, False]


def test_patterns_are_of_stars_and_question_marks_only() -> None:
    rows = pa.table({"path": ["a/b_1.mp4", "a/bx1.mp4", "a/b%.mp4", "b.mp4", None]})
    result = {
        pattern: matches(rows, "path", pattern).tolist() for pattern in ("a/*", "a/b_1.mp4", "a/b?1*", "*%*", "b")
    }
    assert result == {
        "a/*": [True, True, True, False, False],
        "a/b_1.mp4": [True, False, False, False, False],
        "a/b?1*": [True, True, False, False, False],
        "*%*": [False, False, True, False, False],
        "b": [False] * 5,
    }
