"""Filters of the rows of an index: path patterns and conditions on manifest columns."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.splits import count_synonyms, describe_unused, match_split
from vatt.errors import InputError
from vatt.retrieval.tables import StoreError

_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)")
SPLIT = "split"  # column whose values have synonyms
_BOOLEANS = ("true", "false")
SHOWN_ROWS, SHOWN_VALUES = 10_000, 12  # rows that examples of paths are taken from; values listed in a message


@dataclass(frozen=True)
class RelativePattern:
    """Pattern of paths relative to some directories, for users who must not learn the absolute paths.

    Args:
        text: Pattern, see `matches_pattern`.
        roots: Directories, or prefixes of URLs.
    """

    text: str
    roots: tuple[str, ...]


def matches_pattern(rows: pa.Table, column: str, pattern: str | RelativePattern) -> np.ndarray:
    """Return which rows match a pattern in a column.

    Args:
        rows: Rows of an index.
        column: Name of a column of strings.
        pattern: ``*`` matches any text, ``?`` any character.

    Returns:
        (N,) bool.
    """
    if isinstance(pattern, RelativePattern):
        glob = _escaped(pattern.text).replace("*", "%").replace("?", "_")
        likes = [f"{_escaped(root.rstrip('/'))}/{glob}" for root in pattern.roots]
    else:
        likes = [_escaped(pattern).replace("*", "%").replace("?", "_")]
    mask, values = np.zeros(rows.num_rows, bool), rows.column(column)
    if not all(map(str.isascii, likes)):  # names of files may be composed or decomposed
        likes, values = [normalize("NFC", like) for like in likes], pc.utf8_normalize(values, "NFC")
    for like in likes:
        mask |= pc.fill_null(pc.match_like(values, like), False).to_numpy()
    return mask


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def matches_condition(rows: pa.Table, condition: str) -> np.ndarray:
    """Return which rows satisfy a condition ``COLUMN=VALUE`` on a manifest column, such as ``x_shape=ring``.

    Decimal numbers are compared by value: ``x_year=2020`` matches 2020, 2020.0 and "2020.0". ``true`` and ``false``
    match in any case, as JSON, pandas and spreadsheets write them. Other texts, such as ``1e3`` and ``007``, are
    compared as texts. A list matches if one of its elements does. Of a split without rows, a synonym is used (see
    `vatt.datasets.splits.match_split`).

    Returns:
        (N,) bool.

    Raises:
        InputError: The condition is invalid, no row has the column, or several synonyms of a split have rows.
        StoreError: ``extra`` of a row is not a JSON object.
    """
    column, value = _condition(condition)
    extras, index = _extras(rows)
    columns = sorted({name for extra in extras for name in extra})
    if column not in columns:
        available = f"available columns: {', '.join(columns)}" if columns else "the index has no manifest columns"
        close = get_close_matches(column, columns, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no clip has a column {column!r}; {hint}{available}")
    is_match = _equal(extras, column, value)
    if column == SPLIT and not any(is_match) and (name := match_split(value, _split_names(extras))) is not None:
        is_match = _equal(extras, column, name)
    return np.append(is_match, False).astype(bool)[index]


def _equal(extras: list[dict[str, Any]], column: str, value: str) -> list[bool]:
    """Return whether the column of each of the values of ``extra`` has a value."""
    target, number = normalize("NFC", value), _number(value)
    return [
        any(target == normalize("NFC", _text(own)) or (number is not None and number == _number(own)) for own in values)
        for values in (_values(extra.get(column)) for extra in extras)
    ]


def describe_split(rows: pa.Table, present_rows: np.ndarray, where: str) -> str | None:
    """Describe which split a condition such as ``split=val`` uses, and the rows of its synonyms that it leaves out.

    Args:
        rows: Rows of an index.
        present_rows: (N,) bool; rows that were not removed.
        where: Condition (see `matches_condition`).

    Returns:
        A sentence, or None for a condition on another column, and if there is nothing to report.
    """
    column, value = _condition(where)
    if column != SPLIT:
        return None
    extras, index = _extras(rows)
    rows_of = np.bincount(index[present_rows & (index >= 0)], minlength=len(extras)).tolist()
    counts = Counter[str | None]()
    for number, extra in enumerate(extras):
        for name in map(_text, _values(extra.get(SPLIT))):
            counts[name] += rows_of[number]
    name, unused = match_split(value, counts), describe_unused(count_synonyms(value, counts))
    used = "" if name in (value, None) else f"split {name!r} is used as {value!r}"
    return "; ".join(filter(None, (used, unused and f"not used: {unused}"))) or None


def _split_names(extras: list[dict[str, Any]]) -> set[str | None]:
    return {_text(value) for extra in extras for value in _values(extra.get(SPLIT))}


def _condition(condition: str) -> tuple[str, str]:
    column, equals, value = condition.partition("=")
    if not equals or not column.strip():
        raise InputError(f"a condition must be COLUMN=VALUE, not {condition!r}")
    return column.strip(), _text(value)


def _extras(rows: pa.Table) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the distinct values of ``extra``, and (N,) the index of the value of each row, or -1."""
    encoded = rows.column("extra").combine_chunks().dictionary_encode()
    try:
        extras = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    except (ValueError, RecursionError) as error:
        raise StoreError(f"column 'extra': invalid JSON: {str(error)[:200]}") from error
    if not all(isinstance(extra, dict) for extra in extras):
        raise StoreError("column 'extra': a value is not a JSON object")
    return extras, pc.fill_null(encoded.indices, -1).to_numpy()


def describe_filters(
    rows: pa.Table,
    present_rows: np.ndarray,
    path: str | RelativePattern | None,
    by_path: np.ndarray,
    where: str | None,
    relocate: Callable[[str], str] = str,
) -> str | None:
    """Describe the filter that matches no row, with examples of existing values.

    Args:
        rows: Rows of an index.
        present_rows: (N,) bool; rows that were not removed.
        path, where: See `vatt.retrieval.index.Index.search`.
        by_path: (N,) bool; rows that match ``path``.
        relocate: Returns the current path of a file, which may have been moved.

    Returns:
        A sentence, or None if some row matches both filters.
    """
    by_column = np.ones(rows.num_rows, bool) if where is None else matches_condition(rows, where)
    if (by_path & by_column & present_rows).any():
        return None
    count, relative = int(present_rows.sum()), isinstance(path, RelativePattern)
    # A relative pattern is not repeated: messages are shown without directories, which it may contain.
    pattern = "the path pattern" if relative else f"the path pattern {path!r}"
    if not (by_path & present_rows).any():
        hint = "patterns are relative to the indexed directories; " if relative else ""
        return f"{pattern} matches none of {count:,} rows; {hint}{example_paths(rows, present_rows, relocate)}"
    if where is not None and not (by_column & present_rows).any():
        column, _ = _condition(where)
        values = sorted(
            {_text(value) for extra in _extras(rows)[0] for value in _values(extra.get(column))},
            key=lambda value: (_number(value) is None, _number(value) or 0, value),
        )
        more = f" and {len(values) - SHOWN_VALUES:,} more" if len(values) > SHOWN_VALUES else ""
        shown = ", ".join(value[:40] for value in values[:SHOWN_VALUES])
        return f"the condition {where!r} matches none of {count:,} rows; values of {column!r} are {shown}{more}"
    return f"none of {count:,} rows matches both {pattern} and the condition {where!r}"


def example_paths(rows: pa.Table, present_rows: np.ndarray, relocate: Callable[[str], str] = str) -> str:
    """Return a clause that names the first paths of an index; for the arguments see `describe_filters`."""
    paths = pc.unique(rows.column("path").filter(pa.array(present_rows)).slice(0, SHOWN_ROWS)).to_pylist()[:2]
    return f"paths are, for example, {' and '.join(map(relocate, paths))}"


def _values(content: Any) -> list[Any]:
    """Return the values of a column: several for a list, none for null."""
    return [value for value in (content if isinstance(content, list) else [content]) if value is not None]


def _text(value: Any) -> str:
    """Return a value as text: whole numbers without a decimal point, and booleans in lower case."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text.lower() if text.lower() in _BOOLEANS else text


def _number(value: Any) -> Decimal | None:
    """Return the value of a number or of a decimal number as text; None for others, such as ``007`` and ``1e3``."""
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    text = str(value).strip()
    return Decimal(text) if is_number or _NUMBER.fullmatch(text) else None
