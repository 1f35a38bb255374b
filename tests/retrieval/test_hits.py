from __future__ import annotations

import pyarrow as pa

from vatt.retrieval.hits import Hit, matches, merged


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


def test_patterns_are_of_stars_and_question_marks_only() -> None:
    rows = pa.table({"path": ["a/b_1.mp4", "a/bx1.mp4", "a/b%.mp4", "b.mp4", None]})
    found = {pattern: matches(rows, "path", pattern).tolist() for pattern in ("a/*", "a/b_1.mp4", "a/b?1*", "*%*", "b")}
    assert found == {
        "a/*": [True, True, True, False, False],
        "a/b_1.mp4": [True, False, False, False, False],
        "a/b?1*": [True, True, False, False, False],
        "*%*": [False, False, True, False, False],
        "b": [False] * 5,
    }
