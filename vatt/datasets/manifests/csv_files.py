"""Rows of CSV and TSV files, as spreadsheets, pandas and people write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.manifests.quoting import QuoteCheck
from vatt.datasets.manifests.reading import (
    BLOCK_ROWS,
    REPLACED,
    Block,
    Report,
    bad_line,
    check_columns,
    error_handler,
    text_lines,
)
from vatt.datasets.manifests.values import has_surrogates, replace_surrogates
from vatt.errors import ManifestError
from vatt.media.sources.files import open_source

SEPARATORS = ",;\t|"
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel reads and writes it
UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")  # of pandas; spreadsheets leave the name empty
MAX_CELL = 2**24  # a cell may hold the timed words of an hour


def read_csv(source: str, encoding: str, report: Report) -> Iterator[Block]:
    """Yield blocks of rows.

    The separator is a comma, semicolon, tab or vertical bar: the one that separates ``path`` from most other names in
    the header, or that a first line ``sep=;`` declares.

    Args:
        source: Path or URL.
        encoding: Name of the encoding.
        report: Report to which counts are added.

    Raises:
        ManifestError: The file is not valid; the message names the line.
        UnicodeDecodeError: The encoding is another one.
    """
    csv.field_size_limit(MAX_CELL)
    report.has_types = False
    with open_source(source, "rt", newline="", encoding=encoding, errors=error_handler(encoding)) as file:
        lines = _valid_lines(text_lines(file, source), report)
        header_line, first = 1, next(lines, "")
        while first and not first.strip():
            header_line, first = header_line + 1, next(lines, "")
        separator = SEPARATOR_LINE.fullmatch(first)
        if separator:
            header_line, first = header_line + 1, next(lines, "")
        delimiter = separator[1] if separator else _separator(first)
        report.decimal_comma = delimiter != ","
        records = _records(chain([first], lines), delimiter, source, header_line - 1)
        _, _, names = next(records, (0, "", []))
        names = [name.strip() for name in names]
        if not any(names):
            raise ManifestError(f"{source}: the file is empty; the first line must name the columns")
        header = _Header(names, source, header_line)
        yield from _blocks(header, QuoteCheck(source, names, header.width, delimiter, first), records, report)


def _valid_lines(lines: Iterator[str], report: Report) -> Iterator[str]:
    """Yield lines with U+FFFD in place of lone surrogates."""
    for number, line in enumerate(lines, start=1):
        if has_surrogates(line):
            report.count(REPLACED, number)
            line = replace_surrogates(line)
        yield line


def _separator(header: str) -> str:
    def names(separator: str) -> list[str]:
        try:
            cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            cells = []
        return [cell.strip() for cell in cells]

    return max(SEPARATORS, key=lambda separator: ("path" in names(separator), len(names(separator))))


def _records(lines: Iterator[str], delimiter: str, source: str, before: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the first line of each row, its text if it has several lines (else ""), and its cells."""
    text: list[str] = []

    def recorded() -> Iterator[str]:
        for line in lines:
            text.append(line)
            yield line

    start = 1 + before
    try:
        for row in csv.reader(recorded(), delimiter=delimiter, strict=True, skipinitialspace=True):
            yield start, "".join(text) if len(text) > 1 else "", row
            start += len(text)
            text.clear()
    except csv.Error as error:
        if "limit" in str(error):
            raise bad_line(source, start, f"a cell has more than {MAX_CELL:,} characters; close its quote") from None
        raise bad_line(
            source,
            start,
            f"a quote is not closed, or text follows a closing quote ({error}). Put quotes around the whole cell, and "
            'write a quote inside it as ""',
        ) from None


class _Header:
    """Names of the columns and checks of the cells below them."""

    def __init__(self, names: list[str], source: str, line: int) -> None:
        self.names, self.source = names, source
        self.named = [i for i, name in enumerate(names) if not UNNAMED.fullmatch(name)]
        self.unnamed = [i for i, name in enumerate(names) if UNNAMED.fullmatch(name)]
        self.width = max(self.named, default=-1) + 1
        check_columns([names[i] for i in self.named], source, f"line {line}")
        self.first = self.named[0]

    def fit(self, number: int, row: list[str]) -> list[str]:
        """Return a row with as many cells as the header. Trailing empty cells of unnamed columns may be missing."""
        count = len(self.names)
        if len(row) < self.width or any(map(str.strip, row[count:])):
            more = "Write a separator for each empty cell"
            if len(row) > count:
                more = "Put quotes around cells that contain the separator"
            if len(row) == count + 1 and row[0].strip().isdecimal():
                more += (
                    ". If the first cell is the name of the row, as write.table of R writes it, pass row.names=FALSE"
                )
            raise bad_line(self.source, number, f"{len(row)} cells, but the header names {count} columns. {more}")
        return row[:count] + [""] * (count - len(row))

    def check_unnamed(self, column: int, cells: pa.Array, numbers: list[int], report: Report) -> None:
        """Check a column without a name: it must be empty, or an index that pandas wrote."""
        cells = pc.utf8_trim_whitespace(cells)
        filled = pc.not_equal(cells, "")
        if not pc.any(filled).as_py():
            return
        name = self.names[column]
        is_index = pc.match_substring_regex(cells, r"^\d*$")
        if (column == 0 or name) and pc.all(is_index).as_py():
            count = pc.sum(filled).as_py()
            label = repr(name) if name else "without a name"
            report.count(f"values of column {label} are ignored as the row index of pandas", numbers[0], times=count)
            return
        row = pc.index(pc.and_(filled, pc.invert(is_index)) if column == 0 or name else filled, True).as_py()
        raise bad_line(
            self.source,
            numbers[row],
            f"column {column + 1} has no name, but the value {cells[row].as_py()!r}. Name the column (names of "
            "your own begin with x_) or remove it",
        )


def _blocks(
    header: _Header, quotes: QuoteCheck, records: Iterator[tuple[int, str, list[str]]], report: Report
) -> Iterator[Block]:
    numbers: list[int] = []
    rows: list[list[str]] = []
    for number, text, row in records:
        if not any(row) or not any(map(str.strip, row)):
            continue  # spreadsheets write empty rows
        if len(row) != len(header.names):
            row = header.fit(number, row)
        if row[header.first] == header.names[header.first] and [*map(str.strip, row)] == header.names:
            raise bad_line(header.source, number, "the header again, as in files that were joined: remove the line")
        if text:
            quotes.check(number, text, row, report)
        numbers.append(number)
        rows.append(row)
        if len(rows) == BLOCK_ROWS:
            yield _block(header, numbers, rows, report)
            numbers, rows = [], []
    if rows:
        yield _block(header, numbers, rows, report)


def _block(header: _Header, numbers: list[int], rows: list[list[str]], report: Report) -> Block:
    cells = [pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)]
    for column in header.unnamed:
        header.check_unnamed(column, cells[column], numbers, report)
    names = {header.names[i]: cells[i] for i in header.named}
    own = [name for name in names if name.startswith("x_")]
    columns = {name: values for name, values in names.items() if name not in own}
    extras = [dict(zip(own, row, strict=True)) for row in zip(*(names[name].to_pylist() for name in own), strict=True)]
    return Block(numbers, columns, extras)
