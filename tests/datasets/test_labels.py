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


def test_integer_classes_are_sorted_as_numbers() -> None:
    clips = [clip(str(number)) for number in (10, 2, 0, 11, -1, 1)]
    assert Classes.of(clips).names == ["-1", "0", "1", "2", "10", "11"]
    floats = [clip(f"{number}.0") for number in (10, 2, 0)]
    assert Classes.of(floats).names == ["0.0", "2.0", "10.0"]
    assert Classes.of([*clips, clip("ten")]).names == ["-1", "0", "1", "10", "11", "2", "ten"]


def test_labels_are_compared_without_spaces_and_in_nfc() -> None:
    classes = Classes.of([clip(" caf\u00e9"), clip("cafe\u0301\t"), clip("dog")])
    assert classes.names == ["caf\u00e9", "dog"]
    classes.check([clip("cafe\u0301 ")])
    assert classes.target(clip("cafe\u0301 ")).tolist() == [1.0, 0.0]
    assert classes.number(" dog") == 1


def test_classes_that_differ_only_in_case_or_form_are_reported(tmp_path: Path) -> None:
    names = ["Dog", "dog", "ice cream", "ice  cream", "\uff21", "a", "cat"]
    with pytest.warns(
        UserWarning, match="'Dog', 'dog'; 'a', '\uff21'; 'ice  cream', 'ice cream'. If they are one class"
    ):
        classes = Classes.of([clip(name) for name in names])
    assert len(classes) == 7
    (tmp_path / "names.txt").write_text("Dog\ncat\ndog\n")
    with pytest.warns(UserWarning, match="almost the same name: 'Dog', 'dog'"):
        assert Classes.read(tmp_path / "names.txt").names == ["Dog", "cat", "dog"]


def test_invisible_characters_of_labels() -> None:
    assert Classes.of([clip("\ufeffdog"), clip("dog\u200b "), clip(" \u00addog")]).names == ["dog"]
    persian = ["\u0645\u06cc\u200c\u0631\u0648\u062f", "\u0645\u06cc\u0631\u0648\u062f"]
    assert len(Classes.of(map(clip, persian))) == 2
    with pytest.warns(UserWarning, match="almost the same name: 'dog', 'do"):
        assert len(Classes.of([clip("do\u00adg"), clip("dog")])) == 2


@pytest.mark.parametrize(
    ("classes", "label", "cause"),
    [
        (["0", "1", "2"], "1.0", "but '1' is: the labels are integers that were written as floats, as pandas does"),
        (["0.0", "1.0"], "1", "but '1.0' is: the classes are integers that were written as floats"),
        (
            ["dog", "cat"],
            "Dog",
            "but 'dog' is, which differs only in case, whitespace, invisible characters, Unicode normalization or the "
            "zeros of an integer. Use one spelling",
        ),
        (["1", "2"], "1.5", r"is none of the 2 classes \(the first"),
    ],
)
def test_labels_that_almost_are_classes_are_explained(classes: list[str], label: str, cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        Classes(classes).check([clip(label)])


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\x0b", "\x1c", "\x0c"])
def test_only_line_feeds_end_the_lines_of_a_class_list(tmp_path: Path, char: str) -> None:
    (tmp_path / "names.txt").write_bytes(f"\ufeffdog\r\nice{char}cream\ncafe\u0301\n".encode())
    assert Classes.read(tmp_path / "names.txt").names == ["dog", f"ice{char}cream", "caf\u00e9"]


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


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"dog\rcat\r", ["dog", "cat"]),
        ("d\u00f6g\r\ncat\r\n".encode("utf-16"), ["d\u00f6g", "cat"]),
        (b"\xfe\xff" + "d\u00f6g\ncat\n".encode("utf-16-be"), ["d\u00f6g", "cat"]),
    ],
)
def test_class_lists_of_other_programs(tmp_path: Path, content: bytes, names: list[str]) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    assert Classes.read(tmp_path / "names.txt").names == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\nd\0g\n", r"contains NUL characters \(line 2\): save the file as UTF-8"),
        ("cat\nd\u00f6g\n".encode("windows-1252"), r"not UTF-8 \(line 2\): save the file as UTF-8"),
        ("cat\rd\u00f6g\r".encode("mac-roman"), r"not UTF-8 \(line 2\): save the file as UTF-8"),
        ("d\u00f6g\n".encode("utf-16")[:-1], "not valid UTF-16: save the file as UTF-8"),
    ],
)
def test_class_lists_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Classes.read(tmp_path / "names.txt")


@pytest.mark.parametrize("labels", [("1", "1.0"), ("01", "1"), ("1.00", "1.0"), ("-0", "0")])
def test_integers_in_several_spellings_are_reported(labels: tuple[str, str]) -> None:
    with pytest.warns(UserWarning, match="almost the same name"):
        assert len(Classes.of([clip(labels[0]), clip(labels[1])])) == 2
