from __future__ import annotations

from pathlib import Path

import pytest

from vatt.datasets.labels import Classes
from vatt.errors import InputError
from vatt.structures import Clip


def clip(*labels: str) -> Clip:
    return Clip(id="-".join(labels) or "none", path="x.mp4", labels=labels)


def test_targets_follow_the_order_of_the_names() -> None:
    classes = Classes(["sea, waves", "dog", "rain"], multi_label=True)
    assert classes.target(clip("rain", "sea, waves")).tolist() == [1.0, 0.0, 1.0]
    assert classes.target(clip()).tolist() == [0.0, 0.0, 0.0]
    assert len(classes) == 3


def test_classes_of_clips_are_sorted() -> None:
    assert Classes.of([clip("b"), clip("a", "c"), clip("b")]).names == ["a", "b", "c"]


def test_classes_of_a_file_keep_its_order(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffzebra\n  dog, barking \n\n", encoding="utf-8")
    assert Classes.read(tmp_path / "names.txt").names == ["zebra", "dog, barking"]
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match=r"twice\.txt: classes come twice: a"):
        Classes.read(tmp_path / "twice.txt")


@pytest.mark.parametrize(
    ("clips", "multi_label", "message"),
    [
        ([clip("a"), clip("x")], False, "1 clips cannot be classified.*'x' is none of the 2 classes.*'x'"),
        ([clip("a"), clip(), clip()], False, "2 clips.*0 labels where one is wanted.*'none'"),
        ([clip("a", "b")], False, "2 labels where one is wanted"),
        ([clip("a", "y")], True, "'y' is none of the 2 classes"),
    ],
)
def test_clips_without_a_target_are_named(clips: list[Clip], multi_label: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classes(["a", "b"], multi_label).check(clips)
    Classes(["a", "b"], multi_label=True).check([clip("a", "b"), clip()])
