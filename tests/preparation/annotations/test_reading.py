from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vatt.errors import InputError
from vatt.preparation.annotations.reading import (
    find_split,
    pick,
    read_cells,
    read_json,
    read_lines,
    read_table,
    to_name,
    to_number,
    to_span,
    to_split,
)

Save = Callable[[str, str], Path]


def test_a_table_with_byte_order_mark_carriage_returns_and_blank_lines(save: Save) -> None:
    path = save("t.csv", '\ufeffid, name\r\n\r\n-a ,"x, y"\r\n"b","say ""no"""\r\n')
    assert list(read_table(path, ["id", "name"])) == [
        (f"{path}, line 3", {"id": "-a", "name": "x, y"}),
        (f"{path}, line 4", {"id": "b", "name": 'say "no"'}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no column 'id', only an empty file"),
        ("ID,name\n1,2\n", "line 1: there is no column 'id', only ID, name"),
        ("id,name\n1,2\n1,2,3\n", "line 3: 3 cells, but there are 2 columns"),
        ("id,name\n1\n", "line 2: 1 cells, but there are 2 columns"),
        ('id,name\n1,"two\n3,4\n', "line 3: not readable as CSV"),
        ('id,name\n1,"two" more\n3,4\n', "line 2: not readable as CSV"),
    ],
)
def test_a_table_that_is_none(save: Save, text: str, message: str) -> None:
    path = save("t.csv", text)
    with pytest.raises(InputError, match=message) as caught:
        list(read_table(path, ["id"]))
    assert str(path) in str(caught.value)


def test_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("id\ncafé\n".encode("latin-1"))
    for read in (lambda: list(read_cells(path)), lambda: list(read_lines(path)), lambda: read_json(path)):
        with pytest.raises(InputError, match="UTF-8"):
            read()


def test_lines_are_counted_as_an_editor_does(save: Save) -> None:
    path = save("t.txt", "\ufeffa b \r\n\r\n  c\n")
    assert list(read_lines(path)) == [(f"{path}, line 1", "a b"), (f"{path}, line 3", "c")]


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\x0b", "\x1c", "\x0c"])
def test_only_line_feeds_end_a_line(save: Save, char: str) -> None:
    path = save("t.txt", f"a{char}b\r\nc\n")
    assert list(read_lines(path)) == [(f"{path}, line 1", f"a{char}b"), (f"{path}, line 2", "c")]


def test_json_that_is_none(save: Save) -> None:
    assert read_json(save("t.json", '\ufeff{"a": 1}')) == {"a": 1}
    with pytest.raises(InputError, match=r"bad.json, line 2: not JSON"):
        read_json(save("bad.json", '{"a":\n oh}'))
    assert pick({"a": 1, "b": 2}, "here", "b", "a") == [2, 1]
    with pytest.raises(InputError, match="here: there is no 'c', only a"):
        pick({"a": 1}, "here", "a", "c")
    with pytest.raises(InputError, match="here: an object is wanted, not"):
        pick([1], "here", "a")


def test_names() -> None:
    assert to_name(" a b ", "here", "id") == "a b"
    with pytest.raises(InputError, match="here: there is no id"):
        to_name(" ", "here", "id")
    with pytest.raises(InputError, match="here, id: a text is wanted, not 'None'"):
        to_name(None, "here", "id")


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf", None, "1,5"])
def test_numbers_that_are_none(value: str | None) -> None:
    with pytest.raises(InputError, match=r"here: .* is not a number from 0 on"):
        to_number(value, "here")


def test_spans() -> None:
    assert to_span("1.5", "10", "here") == (1.5, 10.0)
    with pytest.raises(InputError, match="here: the end 3 s is not after the beginning 3 s"):
        to_span("3", "3.0", "here")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("balanced_train_segments.csv", "train"),
        ("eval_segments.csv", "test"),
        ("trainingSet.csv", "train"),
        ("validationSet.csv", "val"),
        ("something-something-v2-validation.json", "val"),
        ("kinetics-600_test.csv", "test"),
        ("validate.csv", "val"),
        ("k400_VAL.csv", "val"),
    ],
)
def test_the_split_in_a_name(name: str, split: str) -> None:
    assert find_split(Path("train") / name, None) == split
    assert find_split(Path(name), "dev") == "val"


@pytest.mark.parametrize("name", ["annotations_trainval.json", "clips.csv", "train_and_val.csv", "contest.csv"])
def test_a_name_without_a_split(name: str) -> None:
    with pytest.raises(InputError, match="give --split"):
        find_split(Path(name), None)
    assert to_split("Validation") == "val"
    assert to_split("holdout") == "holdout"
