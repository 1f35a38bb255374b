"""Reading annotation files: every problem is an `InputError` that names the file and the line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from vatt import io
from vatt.datasets.splits import EVALUATION, SYNONYMS
from vatt.errors import InputError

SPLITS = {name: split for split, names in SYNONYMS.items() for name in names} | dict.fromkeys(EVALUATION, "test")
KINDS = {str: "a text", list: "a list", dict: "an object"}
_SPLIT_IN_NAME = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?=set|[^a-z]|$)")

T = TypeVar("T")


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without a byte order mark.

    Raises:
        InputError: another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Place ("file, line 3") and text of each line that is not blank, without space around it."""
    for number, line in enumerate(io.read_lines(path), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def read_cells(path: Path, **dialect: Any) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each line of a CSV file, blank ones left out.

    Raises:
        InputError: not UTF-8, or quotes that do not close.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True, **dialect)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield f"{path}, line {reader.line_num}", [cell.strip() for cell in cells]
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}, line {reader.line_num}: not readable as CSV in UTF-8: {error}") from error


def read_table(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and row of each line of a CSV file whose first line names the columns.

    Raises:
        InputError: a needed column is missing, or a line has more or fewer cells than the first.
    """
    lines = read_cells(path)
    place, header = next(lines, (f"{path}, line 1", []))
    for column in needed:
        if column not in header:
            raise InputError(f"{place}: there is no column {column!r}, only {', '.join(header) or 'an empty file'}")
    for place, cells in lines:
        if len(cells) != len(header):
            raise InputError(f"{place}: {len(cells)} cells, but there are {len(header)} columns")
        yield place, dict(zip(header, cells, strict=True))


def read_json(path: Path) -> Any:
    """Raises `InputError` for a file that is not JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error


def of_kind(value: Any, kind: type[T], place: str) -> T:
    """A value of a JSON file itself; raises `InputError` unless it is a text, a list or an object as wanted."""
    if not isinstance(value, kind):
        raise InputError(f"{place}: {KINDS[kind]} is wanted, not {str(value)[:40]!r}")
    return value


def pick(record: Any, place: str, *keys: str) -> list[Any]:
    """The values of keys of a JSON object; raises `InputError` where it is none, or misses one."""
    for key in keys:
        if key not in of_kind(record, dict, place):
            raise InputError(f"{place}: there is no {key!r}, only {', '.join(map(str, record))[:80] or 'nothing'}")
    return [record[key] for key in keys]


def to_name(value: Any, place: str, key: str) -> str:
    """A text that says something, such as the id of a video; raises `InputError` for an empty one or another type."""
    name = of_kind(value, str, f"{place}, {key}").strip()
    if not name:
        raise InputError(f"{place}: there is no {key}")
    return name


def to_number(value: Any, place: str) -> float:
    """A finite number from 0 on, of seconds or of anything else; raises `InputError` for another."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not isfinite(number) or number < 0:
        raise InputError(f"{place}: {value!r} is not a number from 0 on")
    return number


def to_span(start: Any, end: Any, place: str) -> tuple[float, float]:
    """Beginning and end in seconds; raises `InputError` unless the end comes after the beginning."""
    start_s, end_s = to_number(start, place), to_number(end, place)
    if end_s <= start_s:
        raise InputError(f"{place}: the end {end_s:g} s is not after the beginning {start_s:g} s")
    return start_s, end_s


def to_split(name: str) -> str:
    """The common name of a split: "validate" is "val"; a name that is not known stays."""
    return SPLITS.get(name.lower(), name)


def find_split(path: Path, given: str | None) -> str:
    """The split that was given, or the one in the name of an annotation file; raises `InputError` without either."""
    if given:
        return to_split(given)
    named = {SPLITS[word] for word in _SPLIT_IN_NAME.findall(path.stem.lower())}
    if len(named) != 1:
        raise InputError(f"{path}: its name does not say which split it is; give --split")
    return named.pop()
