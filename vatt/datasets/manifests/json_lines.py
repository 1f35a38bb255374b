"""Rows of JSON Lines files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

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
from vatt.datasets.manifests.values import TOO_DEEP, has_surrogates, replace_surrogates, shorten, unique_keys
from vatt.datasets.rows import COLUMNS, BadCell
from vatt.media.sources.files import open_source

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
ARRAY_HINT = "the file seems to be one JSON array. Write one object per line; in pandas: to_json(…, lines=True)"


def read_json_lines(source: str, encoding: str, report: Report) -> Iterator[Block]:
    """Yield blocks of rows, one JSON object per line.

    Args:
        source: Path or URL.
        encoding: Name of the encoding.
        report: Report to which counts are added.

    Raises:
        ManifestError: A line is not an object, or has a key twice or an unknown key.
        UnicodeDecodeError: The encoding is another one.
    """
    decode = json.JSONDecoder(object_pairs_hook=unique_keys).decode
    numbers: list[int] = []
    rows: list[dict[str, Any]] = []
    with open_source(source, "rt", encoding=encoding, errors=error_handler(encoding)) as file:
        for number, line in enumerate(text_lines(file, source), start=1):
            if not line.strip():
                continue
            try:
                row = decode(line)
            except BadCell as bad:
                raise bad_line(source, number, bad.reason) from None
            except RecursionError:
                raise bad_line(source, number, TOO_DEEP) from None
            except ValueError as error:
                is_array = not rows and line.lstrip().startswith("[")
                hint = ARRAY_HINT if is_array else f"not JSON: {error}"
                raise bad_line(source, number, hint) from None
            if not isinstance(row, dict):
                hint = ARRAY_HINT if isinstance(row, list) else f"must be an object {{…}}, not {shorten(row)}"
                raise bad_line(source, number, hint)
            if (SURROGATE.search(line) or has_surrogates(line)) and not _is_unicode(row, number, report):
                continue
            numbers.append(number)
            rows.append(row)
            if len(rows) == BLOCK_ROWS:
                yield _block(source, numbers, rows)
                numbers, rows = [], []
        if rows:
            yield _block(source, numbers, rows)


def _is_unicode(row: dict[str, Any], number: int, report: Report) -> bool:
    """Replace lone surrogates in a row. Return False if one is in a path, so that the row is skipped."""
    for column in ("path", "audio_path"):
        if isinstance(path := row.get(column), str) and has_surrogates(path):
            report.skip(path, f"line {number}: ")
            return False
    clean = {}
    for column, value in row.items():
        try:
            clean |= replace_surrogates({column: value})
        except RecursionError:
            report.add(number, column, TOO_DEEP)
    if clean != row:
        report.count(REPLACED, number)
        row.clear()
        row.update(clean)
    return True


def _block(source: str, numbers: list[int], rows: list[dict[str, Any]]) -> Block:
    keys: dict[str, None] = {}
    for number, row in zip(numbers, rows, strict=True):
        if not row.keys() <= keys.keys() or "path" not in row:
            check_columns(list(row), source, f"line {number}")
            keys |= dict.fromkeys(row)
    own = [name for name in keys if name.startswith("x_")]
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS if name in keys}
    extras = [{name: row[name] for name in own if name in row} for row in rows] if own else []
    return Block(numbers, columns, extras)
