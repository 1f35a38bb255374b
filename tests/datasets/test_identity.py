from __future__ import annotations

import math
from pathlib import Path

import pytest

from vatt.datasets.identity import Segments, count_distinct, count_shared, file_identity, is_same_moment, read_segments
from vatt.structures import Clip


def clip(path: str, start_s: float = 0.0, end_s: float | None = None, **extra: str) -> Clip:
    return Clip(id=f"{path}{start_s}", path=path, start_s=start_s, end_s=end_s, extra=extra)


def test_a_file_has_one_identity_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    names = ("real/a.mp4", "link/a.mp4", "./real/sub/../a.mp4", f"{tmp_path}//real/a.mp4")
    assert {file_identity(name) for name in names} == {str(tmp_path / "real" / "a.mp4")}
    names = (f"file://{tmp_path}/link/a.mp4", f"local://{tmp_path}/real/a.mp4", f"{tmp_path}/real/a.mp4")
    assert {file_identity(name) for name in names} == {str(tmp_path / "real" / "a.mp4")}
    assert file_identity(f"file://{tmp_path}/link/a%20b.tar#0+9") == f"{tmp_path}/real/a%20b.tar#0+9"
    assert file_identity("s3://bucket/x/../a.mp4") == "s3://bucket/x/../a.mp4"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((0, 10), (0, 10), True),
        ((0, math.inf), (0, math.inf), True),
        ((0, math.inf), (5, 8), True),
        ((0, 10), (5, 15), False),
        ((0, 10), (4, 14), True),
        ((0, 10), (10, 20), False),
        ((0, 100), (99, 101), False),
    ],
)
def test_moments_are_the_same_if_they_share_most_of_the_shorter_one(
    a: tuple[float, float], b: tuple[float, float], same: bool
) -> None:
    assert is_same_moment(a, b) is is_same_moment(b, a) is same


def test_clips_of_files_in_two_splits_are_counted() -> None:
    train = [clip("a", 0, 5), clip("b"), clip("piece1", x_source="long.mp4")]
    test = [clip("a", 5, 9), clip("./b", 2, 3), clip("piece2", x_source="long.mp4"), clip("c"), clip("a", 4, 6)]
    tables = read_segments([train, test])
    assert count_shared(tables[1], tables[0]) == (4, 2)
    assert count_shared(tables[0], read_segments([train, []])[1]) == (0, 0)


def test_distinct_moments_are_counted() -> None:
    sliding = [clip("a", start_s, start_s + 4.0) for start_s in range(10)]  # every other one
    assert count_distinct(Segments.concat(read_segments([[clip("b"), clip("c")], [*sliding, clip("b")]]))) == 2 + 5
