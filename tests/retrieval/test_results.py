from __future__ import annotations

from pathlib import Path

from vatt.retrieval.results import Result, merged


def hit(id: str, start_s: float, end_s: float, score: float) -> Result:
    return Result(0, score, id, f"{id}.mp4", start_s, end_s)


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
        Result(0, score, name, "a.mp4", start_s, start_s + 1.0)
        for score, name, start_s in (
            (0.9, "x", 0.0),
            (0.9, "y", 0.0),
            (0.8, "y", 1.0),
            (0.8, "x", 1.0),
            (0.7, "z", 5.0),
        )
    ]
    other = Result(0, 0.6, "w", "a.mp4", 4.8, 5.7)  # another clip, which mostly overlaps with that of z
    after = Result(0, 0.5, "v", "a.mp4", 6.0, 7.0)  # follows the clip of z
    result = [(hit.id, hit.start_s, hit.end_s, hit.score) for hit in merged([*windows, other, after])]
    assert result == [("x", 0.0, 2.0, 0.9), ("z", 5.0, 6.0, 0.7), ("v", 6.0, 7.0, 0.5)]
    few = [(hit.id, hit.start_s) for hit in merged([*windows, other, after], best=1)]
    assert few == [("x", 0.0), ("z", 5.0), ("v", 6.0)]


def test_windows_of_a_file_with_several_paths_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, link = (f"{tmp_path}/{name}/a.mp4" for name in ("real", "link"))
    windows = [
        Result(0, score, path, path, start_s, start_s + 1.0)
        for score, path, start_s in ((0.9, link, 0.0), (0.9, real, 0.0), (0.8, real, 1.0), (0.7, link, 1.0))
    ]
    assert [(hit.path, hit.start_s, hit.end_s) for hit in merged(windows)] == [(link, 0.0, 2.0)]
