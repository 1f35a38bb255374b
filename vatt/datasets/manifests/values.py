"""Conversion of single values of a manifest, for columns that Arrow cannot convert as a whole."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from unicodedata import normalize

from vatt.datasets import names
from vatt.datasets.rows import BadCell
from vatt.datasets.table import Timed

NONE: Timed = ([], [], [])
REPLACEMENT = "\ufffd"
# What pandas.read_csv reads as missing values, and so what pandas, Excel and R write for them; \N is NULL of MySQL,
# PostgreSQL and Hive.
MISSING = frozenset(
    r"\N|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)
FORMULA_ERRORS = frozenset(
    "#REF!|#VALUE!|#NAME?|#DIV/0!|#NULL!|#NUM!|#SPILL!|#CALC!|#BUSY!|#FIELD!|#GETTING_DATA".split("|")
)
TOO_DEEP = "lists or objects are nested too deeply: flatten them"
TIME_KEYS = (("start", "end"), ("start_s", "end_s"), ("timestamp",))  # of timed texts
IGNORED_KEYS = frozenset(("probability", "score", "confidence", "conf", "speaker"))  # of Whisper, WhisperX and others
MAX_DEPTH = 64  # of nested lists and objects
DECIMAL_COMMA = re.compile(r"\d+,\d+", re.ASCII)
MAYBE_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}", re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)
_SURROGATES = re.compile("[\ud800-\udfff]")


def has_surrogates(text: str) -> bool:
    """Return whether a string holds half of a surrogate pair, which UTF-8 cannot encode."""
    return not text.isascii() and _SURROGATES.search(text) is not None


def replace_surrogates(value: Any) -> Any:
    """Return a JSON value with U+FFFD in place of lone surrogates."""
    if isinstance(value, str):
        return _SURROGATES.sub(REPLACEMENT, value)
    if isinstance(value, list):
        return [replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return value


def clean(text: str) -> str:
    """Return a text as `vatt.datasets.names.clean` does, with U+FFFD in place of lone surrogates."""
    return names.clean(_SURROGATES.sub(REPLACEMENT, text))


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN (also pandas' NaT) or an empty string."""
    return value is None or value == "" or (not isinstance(value, (list, dict)) and value != value)


def to_text(value: Any, column: str) -> str | None:
    """Convert a value to a text without surrounding white space. A float that is an integer becomes one: 10.0 is "10".

    Pandas stores integers as floats where a value of the column is missing.

    Args:
        value: Value of any type.
        column: Name of its column, for errors.

    Raises:
        BadCell: The value is a list, an object or bytes.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        return value.strip() or None
    value = plain(value, column)
    if isinstance(value, (list, dict)):
        raise BadCell(column, f"must be one text, not {shorten(value)}")
    return str(value)


def to_seconds(value: Any, column: str, decimal_comma: bool = False) -> float | None:
    """Convert a number, a string or a duration to seconds.

    Args:
        value: Value of any type.
        column: Name of its column, for errors.
        decimal_comma: Read ``"1,5"`` as 1.5.

    Raises:
        BadCell: The value is not a finite number of at least 0.
    """
    if isinstance(value, str):
        value = value.strip()
        value = None if value in MISSING else value
    if is_missing(value):
        return None
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
        if not decimal_comma:
            if MAYBE_THOUSANDS.fullmatch(value):
                raise BadCell(
                    column, f"the comma of {value!r} may separate decimals or thousands: write a decimal point"
                )
            raise BadCell(column, f"{value!r} has a decimal comma: write {value.replace(',', '.')}")
        value = value.replace(",", ".")
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        if isinstance(value, bool) or (isinstance(value, str) and not NUMBER.fullmatch(value)):
            raise TypeError
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadCell(column, f"{shorten(value)} is not a number of seconds") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise BadCell(column, f"{shorten(value)} is not a time of at least 0 seconds")
    return seconds


def to_timed(value: Any, column: str, key: str) -> Timed:
    """Convert a list of texts, or of objects ``{key: text, "start": seconds, "end": seconds}``, or its JSON.

    ``start_s`` and ``end_s`` are read as well, and ``"timestamp": [start, end]`` of Whisper in Transformers, where
    words have the key "text".

    Args:
        value: List, or string with JSON.
        column: Name of its column, for errors.
        key: Key of the text: "text", "word" or "label".

    Returns:
        Texts, starts and ends in the order of the list, without empty texts.

    Raises:
        BadCell: Another type, an unknown key, or an end before its start.
    """
    if isinstance(value, str):
        value = value.strip()
        value = None if value in MISSING else value
    if is_missing(value):
        return NONE
    if isinstance(value, str):
        try:
            value = json.loads(value, object_pairs_hook=unique_keys)
        except BadCell as bad:
            raise BadCell(column, bad.reason) from None
        except (ValueError, RecursionError):
            raise BadCell(column, f"must be a JSON list, not {shorten(value)}") from None
    if not isinstance(value, (list, tuple)):
        raise BadCell(column, f"must be a list, not {shorten(value)}")
    fast = _plain_objects(value, key)
    if fast is not None:
        return fast
    items = [_timed_item(item, column, key) for item in value if not is_missing(item)]
    items = [item for item in items if item[0]]
    return tuple(map(list, zip(*items, strict=True))) if items else NONE  # type: ignore[return-value]


def _plain_objects(items: list[Any], key: str) -> Timed | None:
    """Convert objects whose values are all of the right types, as a whole; None if they are not."""
    try:
        texts = [item[key].strip() for item in items]
        starts, ends = [item["start"] for item in items], [item["end"] for item in items]
        are_valid = all(0 <= start <= end < math.inf for start, end in zip(starts, ends, strict=True)) and all(texts)
    except (TypeError, KeyError, AttributeError, IndexError):
        return None
    if not items or not are_valid or not {*map(type, starts), *map(type, ends)} <= {int, float}:
        return None
    if key == "label" or {*map(len, items)} != {3}:  # other keys
        return None
    if not all(map(str.isascii, texts)):
        texts = list(map(clean, texts))
        if not all(texts):
            return None
    return texts, list(map(float, starts)), list(map(float, ends))


def _timed_item(item: Any, column: str, key: str) -> tuple[str | None, float | None, float | None]:
    """Convert one item of a list to its text, start and end."""
    start_s = end_s = None
    text = item
    if isinstance(item, dict):
        item = {name: value for name, value in item.items() if name not in IGNORED_KEYS and not is_missing(value)}
        text_key = "text" if key == "word" and key not in item else key
        if text_key not in item:
            raise BadCell(column, f"an item must have a text {key!r}: {shorten(item)}")
        text = item.pop(text_key)
        start_s, end_s = _times(item, text, column)
        if key == "label" and start_s is not None:
            raise BadCell(column, f"{shorten(text)} has times, which labels cannot have: write a row for each segment")
    elif not isinstance(item, str) and (key != "label" or isinstance(item, (list, tuple))):
        form = f"{{{key!r}: …, 'start': …, 'end': …}}"
        raise BadCell(column, f"an item must be a text or {form}, not {shorten(item)}")
    text = to_text(text, column)
    return (clean(text) if text else None), start_s, end_s


def _times(item: dict[str, Any], text: Any, column: str) -> tuple[float | None, float | None]:
    """Return the start and end of an item.

    Args:
        item: Values by key, without the text and without missing values.
        text: Text of the item, for messages.
        column: Name of the column, for messages.

    Raises:
        BadCell: There are other keys, or the times are not valid.
    """
    keys = next((pair for pair in TIME_KEYS if any(name in item for name in pair)), TIME_KEYS[0])
    if unknown := next((name for name in item if name not in keys), None):
        raise BadCell(column, f"{shorten(text)} has the unknown key {unknown!r}: remove it (times: 'start', 'end')")
    values = [item.get(name) for name in keys]
    if keys == ("timestamp",):
        if not isinstance(item["timestamp"], (list, tuple)) or len(item["timestamp"]) != 2:
            raise BadCell(column, f"{shorten(text)} has a 'timestamp' that is not [start, end]")
        values = [*item["timestamp"]]
    start_s, end_s = (to_seconds(value, column) for value in values)
    if (start_s is None) != (end_s is None) or (start_s is not None and end_s is not None and end_s < start_s):
        raise BadCell(column, f"{shorten(text)} has start {start_s} and end {end_s}: give both, in order")
    return start_s, end_s


def by_time(words: Timed) -> Timed:
    """Sort words by their start. Words are left in their order if any of them has no time."""
    texts, starts, ends = words
    if None in starts or all(a <= b for a, b in pairwise(starts)):
        return words
    order = sorted(range(len(texts)), key=lambda i: (starts[i], ends[i]))
    return [texts[i] for i in order], [starts[i] for i in order], [ends[i] for i in order]


def distinct(*parts: Timed) -> Timed:
    """Join lists of texts without repetitions."""
    items = dict.fromkeys(item for part in parts for item in zip(*part, strict=True))
    return tuple(map(list, zip(*items, strict=True))) if items else NONE  # type: ignore[return-value]


def plain(value: Any, column: str, depth: int = 0) -> Any:
    """Convert a value to one that JSON can hold: strings in NFC, floats that are integers as integers, NaN as None.

    Dates and times become ISO 8601 strings, durations seconds, and decimals numbers.

    Raises:
        BadCell: Bytes, an unknown type, or more than `MAX_DEPTH` nested lists and objects.
    """
    if depth > MAX_DEPTH:
        raise BadCell(column, TOO_DEEP)
    if isinstance(value, str):
        return normalize("NFC", value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (float, Decimal)):
        if value != value:
            return None
        return int(value) if math.isfinite(value) and value == int(value) and abs(value) < 2**53 else float(value)
    if isinstance(value, dict):
        return {plain(str(key), column): plain(item, column, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, column, depth + 1) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat() if value == value else None
    if isinstance(value, timedelta):
        return plain(value.total_seconds(), column)
    if hasattr(value, "tolist"):  # scalars and arrays of NumPy
        return plain(value.tolist(), column, depth)
    raise BadCell(column, f"{type(value).__name__} cannot be used: convert the column to text or numbers")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make the object of JSON pairs.

    Raises:
        BadCell: A key occurs twice.
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadCell(twice, f"the key {twice!r} occurs twice in one object")
    return record


def shorten(value: Any) -> str:
    """Return the representation of a value, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
