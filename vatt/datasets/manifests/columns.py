"""Columns of a manifest as Arrow arrays: checked, normalized, and converted value by value only where necessary."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.manifests.decimals import record_separators
from vatt.datasets.manifests.paths import resolve
from vatt.datasets.manifests.reading import REPLACED, Block, Report, Values
from vatt.datasets.manifests.values import (
    FORMULA_ERRORS,
    MISSING,
    NONE,
    REPLACEMENT,
    TOO_DEEP,
    by_time,
    distinct,
    plain,
    to_seconds,
    to_text,
    to_timed,
)
from vatt.datasets.names import EDGES
from vatt.datasets.rows import BadCell, segment_id
from vatt.datasets.table import SCHEMA, STRING, STRINGS, Timed, pack
from vatt.media.sources.files import parent

ROWS = pa.schema([("number", pa.int64()), ("has_id", pa.bool_()), *SCHEMA])
EXCEL_TEXT = r'^="([^"]*)"$'  # formula that keeps Excel from reading 001 as a number
FORMULA = "a formula of the spreadsheet failed: correct the cell"


def to_rows(block: Block, report: Report) -> pa.RecordBatch:
    """Convert a block to columns with the schema `ROWS`.

    Rows without an id get that of their segment (`vatt.datasets.rows.segment_id`).

    Args:
        block: Rows as they are in the file.
        report: Report to which errors and counts are added.
    """
    return _Converter(block, report).convert()


class _Converter:
    """Conversion of one block.

    Args:
        block: Rows as they are in the file.
        report: Report to which errors and counts are added.
    """

    def __init__(self, block: Block, report: Report) -> None:
        self.block, self.report, self.numbers = block, report, block.numbers
        self.count = len(block.numbers)

    def convert(self) -> pa.RecordBatch:
        names = ("id", "path", "split", "audio_path")
        columns = {name: self.texts(name) for name in names}
        columns |= {name: self.seconds(name) for name in ("start_s", "end_s")}
        columns["start_s"] = pc.fill_null(columns["start_s"], 0.0)
        reported = {number for number, column, *_ in self.report.problems if column == "path"}
        for row in pc.indices_nonzero(columns["path"].is_null()).to_pylist():
            if self.numbers[row] not in reported:
                self.report.add(self.numbers[row], "path", "empty")
        order = pc.less_equal(columns["end_s"], columns["start_s"])
        start_s, end_s = columns["start_s"], columns["end_s"]
        self.check(order, "end_s", lambda row: f"{end_s[row].as_py():g} is not after start_s {start_s[row].as_py():g}")
        columns["has_id"] = columns["id"].is_valid()
        columns["id"] = self.ids(columns["id"], columns["path"], start_s, end_s)
        root = parent(self.report.source)
        columns |= {name: resolve(columns[name], root) for name in ("path", "audio_path")}
        columns["labels"] = self.labels()
        columns["texts"], columns["timed"] = self.captions()
        columns["extra"] = self.extras()
        columns["number"] = pa.array(self.numbers, pa.int64())
        return pa.record_batch([columns[field.name] for field in ROWS], schema=ROWS)

    def check(self, is_bad: pa.Array, column: str, reason: Callable[[int], str]) -> None:
        """Report the rows of a boolean mask as errors."""
        for row in pc.indices_nonzero(pc.fill_null(is_bad, False)).to_pylist():
            self.report.add(self.numbers[row], column, reason(row))

    def convert_values(self, column: str, values: Values, convert: Callable[[Any], Any]) -> list[Any]:
        """Convert a column value by value; values that cannot be converted are reported and become None."""
        results = []
        for row, value in enumerate(values.to_pylist() if isinstance(values, pa.Array) else values):
            try:
                results.append(convert(value))
            except BadCell as bad:
                self.report.add(self.numbers[row], column, bad.reason)
                results.append(None)
            except RecursionError:
                self.report.add(self.numbers[row], column, TOO_DEEP)
                results.append(None)
        return results

    def texts(self, column: str) -> pa.Array:
        """Return a column of texts: stripped, in NFC unless they are paths or ids, and null where they are empty."""
        values = self.block.columns.get(column)
        if values is None:
            return pa.nulls(self.count, STRING)
        array = pc.utf8_trim_whitespace(self.strings(column, values))
        self.check(pc.is_in(array, pa.array(sorted(FORMULA_ERRORS), STRING)), column, lambda row: FORMULA)
        if not self.report.has_types and pc.any(pc.starts_with(array, '="')).as_py():
            array = pc.replace_substring_regex(array, EXCEL_TEXT, r"\1")
        if not self.report.has_types and column != "path":
            is_missing = pc.is_in(array, pa.array(sorted(MISSING), STRING))
            if times := pc.sum(is_missing).as_py():
                row = pc.index(is_missing, True).as_py()
                example = f"column {column!r}: {array[row].as_py()!r}"
                self.report.count("cells are read as missing values", self.numbers[row], example, times)
                array = pc.if_else(is_missing, None, array)
        if column not in ("id", "path", "audio_path") and not pc.all(pc.string_is_ascii(array)).as_py():
            array = pc.utf8_trim(pc.utf8_normalize(array, form="NFC"), characters=EDGES)
        return pc.if_else(pc.equal(array, ""), None, array)

    def strings(self, column: str, values: Values) -> pa.Array:
        """Convert values of any type to strings."""
        if isinstance(values, pa.Array):
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            kind = values.type
            if pa.types.is_null(kind):
                return pa.nulls(len(values), STRING)
            tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_binary)
            try:
                if any(test(kind) for test in tests):
                    return values.cast(STRING)
            except pa.ArrowException:  # bytes that are not UTF-8
                pass
        else:
            try:
                return pa.array(values, STRING)
            except (pa.ArrowException, TypeError):  # numbers, lists
                pass
        return pa.array(self.convert_values(column, values, lambda value: to_text(value, column)), STRING)

    def seconds(self, column: str) -> pa.Array:
        """Return a column of seconds."""
        values = self.block.columns.get(column)
        if values is None:
            return pa.nulls(self.count, pa.float64())
        array = None
        try:
            if isinstance(values, list):
                array = None if any(isinstance(value, bool) for value in values) else pa.array(values, pa.float64())
            elif pa.types.is_large_string(values.type):
                trimmed = pc.utf8_trim_whitespace(values)
                if self.report.decimal_comma:
                    record_separators(trimmed, column, self.numbers, self.report)
                array = pc.if_else(pc.equal(trimmed, ""), None, trimmed).cast(pa.float64())
            elif any(test(values.type) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)):
                array = values.cast(pa.float64())
        except (pa.ArrowException, UnicodeError, TypeError, OverflowError):
            array = None
        if array is not None:
            array = pc.if_else(pc.is_nan(array), None, array)
            if pc.all(pc.and_(pc.is_finite(array), pc.greater_equal(array, 0)), skip_nulls=True).as_py() is not False:
                return array
        comma = self.report.decimal_comma
        return pa.array(
            self.convert_values(column, values, lambda value: to_seconds(value, column, comma)), pa.float64()
        )

    def timed(self, column: str, key: str) -> list[Timed] | None:
        """Return a column of lists of texts; None if all are empty."""
        values = self.block.columns.get(column)
        if values is None or (isinstance(values, pa.Array) and values.null_count == len(values)):
            return None
        lists = self.convert_values(column, values, lambda value: to_timed(value, column, key))
        lists = [NONE if part is None else part for part in lists]
        if not self.report.has_types:  # JSON in a cell
            for number, (texts, _, _) in zip(self.numbers, lists, strict=True):
                if any(REPLACEMENT in text for text in texts):
                    self.report.count(REPLACED, number)
        return lists

    def ids(self, ids: pa.Array, paths: pa.Array, start_s: pa.Array, end_s: pa.Array) -> pa.Array:
        """Return the ids of rows; without one, the path as it is in the manifest, and the segment."""
        ids = pc.coalesce(ids, pc.if_else(pc.or_(pc.not_equal(start_s, 0), end_s.is_valid()), None, paths))
        has_none = pc.and_(ids.is_null(), paths.is_valid())
        parts = (part.filter(has_none).to_pylist() for part in (paths, start_s, end_s))
        return pc.replace_with_mask(
            ids, has_none, pa.array([segment_id(*row) for row in zip(*parts, strict=True)], STRING)
        )

    def labels(self) -> pa.Array:
        """Return the column of labels: ``label`` and those of ``labels``, without repetitions."""
        first, several = self.texts("label"), self.timed("labels", "label")
        if several is None:
            return singletons(first)
        lists = [
            list(dict.fromkeys([*([label] if label else []), *more[0]])) or None
            for label, more in zip(first.to_pylist(), several, strict=True)
        ]
        return pa.array(lists, STRINGS)

    def captions(self) -> tuple[pa.Array, pa.Array]:
        """Return the columns of texts without times, and of packed texts and words."""
        first, several, words = self.texts("text"), self.timed("texts", "text"), self.timed("words", "word")
        if several is None and words is None:
            return singletons(first), pa.nulls(self.count, pa.large_binary())
        untimed, timed = [], []
        empty = [NONE] * self.count
        for text, part, spoken in zip(first.to_pylist(), several or empty, words or empty, strict=True):
            texts = distinct(([text], [None], [None]), part) if text else part
            has_times = bool(spoken[0]) or any(start_s is not None for start_s in texts[1])
            untimed.append(texts[0] if texts[0] and not has_times else None)
            timed.append(pack(texts, by_time(spoken)) if has_times else None)
        return pa.array(untimed, STRINGS), pa.array(timed, pa.large_binary())

    def extras(self) -> pa.Array:
        """Return the column of JSON objects with the columns ``x_…``."""
        if not self.block.extras:
            return pa.nulls(self.count, STRING)
        encode = json.JSONEncoder(ensure_ascii=False).encode
        results = []
        for number, extra in zip(self.numbers, self.block.extras, strict=True):
            values = {}
            for name, value in extra.items():
                try:
                    values[normalize("NFC", name)] = plain(value, name)
                except BadCell as bad:
                    self.report.add(number, name, bad.reason)
                except RecursionError:
                    self.report.add(number, name, TOO_DEEP)
            results.append(encode(values) if values else None)
        return pa.array(results, STRING)


def singletons(values: pa.Array) -> pa.Array:
    """Return (N,) lists of one text each, null where the text is null."""
    is_null = values.is_null()
    offsets = pa.array([0], pa.int64())
    if len(values):
        lengths = pc.cumulative_sum(pc.cast(pc.invert(is_null), pa.int64()))
        offsets = pa.concat_arrays([offsets, lengths])
    return pa.LargeListArray.from_arrays(offsets, values.drop_null(), mask=is_null)
