"""One row of a manifest to a `Clip` and back: which columns there are and what may stand in them."""

from __future__ import annotations

import json
import os
from collections import Counter
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from vatt.datasets.media import source
from vatt.structures import Clip, TimedText

COLUMNS = {
    "path": "media file, absolute or relative to the manifest's folder; a URL; a clip in a shard: FILE.tar#OFFSET+SIZE",
    "id": "unique name; without it the path and the span, if there is one",
    "start_s": "beginning of the clip in seconds; 0 without it",
    "end_s": "end of the clip in seconds; the end of the file without it",
    "text": "one caption",
    "texts": 'several captions: ["…", …] or with times [{"text": "…", "start": 1.2, "end": 3.4}, …]',
    "words": 'single words with times: [{"word": "…", "start": 0.9, "end": 1.1}, …]',
    "label": "one class name",
    "labels": 'several class names: ["…", …]',
    "split": "train, val, test, …",
    "audio_path": "a separate file with the sound",
}


class BadCell(Exception):
    """A value that cannot be used: its column and why."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


class BadColumn(BadCell):
    """A column that is wrong in every row."""


class MissingFile(BadCell):
    """A path that leads nowhere."""


class RowIds:
    """Ids for rows without one: the path, with the span if the row has one, and numbered where that comes again."""

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()

    def __call__(self, path: str, start_s: float, end_s: float | None) -> str:
        name = path
        if start_s or end_s is not None:
            name = f"{path}@{start_s:.10g}-{'end' if end_s is None else f'{end_s:.10g}'}"
        self.used[name] += 1
        return name if self.used[name] == 1 else f"{name}#{self.used[name]}"


def check_columns(row: dict[str, Any]) -> None:
    """Raise `BadColumn` for a column that is unknown, or for `path` if it is missing."""
    for column in map(str, row):
        if column in COLUMNS or column.startswith("x_"):
            continue
        close = get_close_matches(column, COLUMNS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "name columns of your own x_…"
        raise BadColumn(column, f"unknown; {hint} Known columns: {', '.join(COLUMNS)}")
    if "path" not in row:
        raise BadColumn("path", f"missing; found only {', '.join(map(str, row))}")


def to_clip(row: dict[str, Any], root: str | Path, ids: RowIds) -> Clip:
    """A row as a clip, paths resolved against ``root``, a folder or a URL; raises `BadCell`."""
    path = _text(row, "path")
    if path is None:
        raise BadCell("path", "empty")
    start_s = _seconds(row, "start_s") or 0.0
    end_s = _seconds(row, "end_s")
    if end_s is not None and end_s <= start_s:
        raise BadCell("end_s", f"{end_s:g} is not after start_s {start_s:g}")
    text, label, audio_path = _text(row, "text"), _text(row, "label"), _text(row, "audio_path")
    return Clip(
        id=_text(row, "id") or ids(path, start_s, end_s),
        path=source.join(root, path),
        start_s=start_s,
        end_s=end_s,
        texts=((TimedText(text),) if text else ()) + _timed(row, "texts", "text"),
        words=_timed(row, "words", "word"),
        labels=tuple(dict.fromkeys([*([label] if label else []), *(t.text for t in _timed(row, "labels", "label"))])),
        split=_text(row, "split"),
        audio_path=source.join(root, audio_path) if audio_path else None,
        extra={k: v for k, v in row.items() if str(k).startswith("x_")},
    )


def check_files(clip: Clip) -> None:
    """Raise `MissingFile` unless the clip's files are there."""
    for column, path in (("path", clip.path), ("audio_path", clip.audio_path)):
        if path is not None and not source.exists(path):
            raise MissingFile(column, f"no file at {path}")


def _text(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if isinstance(value, (list, dict)):
        raise BadCell(column, f"one text is wanted, not {value!r}")
    if value is None or value != value:  # NaN is how pandas writes an empty cell
        return None
    return str(value).strip() or None


def _seconds(row: dict[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "" or value != value:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise BadCell(column, f"{value!r} is not a number of seconds") from None
    if not isfinite(seconds) or seconds < 0:
        raise BadCell(column, f"{value!r} is not a time from 0 on")
    return seconds


def _timed(row: dict[str, Any], column: str, key: str) -> tuple[TimedText, ...]:
    """A list of texts, each alone or as {key, start, end}."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value):
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise BadCell(column, f"a JSON list is wanted, not {value[:40]!r}") from None
    if not isinstance(value, (list, tuple)):
        raise BadCell(column, f"a list is wanted, not {value!r}")
    texts = []
    for item in value:
        if isinstance(item, str):
            texts.append(TimedText(item))
            continue
        if not isinstance(item, dict) or not isinstance(item.get(key), str):
            raise BadCell(column, f"each item is a text or {{{key!r}: …, 'start': …, 'end': …}}, not {item!r}")
        start_s, end_s = _seconds(item, "start"), _seconds(item, "end")
        if (start_s is None) != (end_s is None) or (start_s is not None and end_s < start_s):
            raise BadCell(column, f"start and end of {item[key]!r} do not fit: {start_s}, {end_s}")
        texts.append(TimedText(item[key], start_s, end_s))
    return tuple(t for t in texts if t.text.strip())


def to_row(clip: Clip, root: Path) -> dict[str, Any]:
    """A clip as a row without empty columns, paths relative to ``root`` where they lie below it."""

    below = os.path.abspath(root)

    def place(path: str | None) -> str | None:
        if path is None or source.is_url(path):
            return path
        full = Path(os.path.abspath(path))  # links stay as they are
        return full.relative_to(below).as_posix() if full.is_relative_to(below) else str(full)

    def items(texts: tuple[TimedText, ...], key: str) -> list[Any]:
        return [
            t.text if t.start_s is None and key == "text" else {key: t.text, "start": t.start_s, "end": t.end_s}
            for t in texts
        ]

    row = {
        "id": clip.id,
        "path": place(clip.path),
        "start_s": clip.start_s or None,
        "end_s": clip.end_s,
        "texts": items(clip.texts, "text"),
        "words": items(clip.words, "word"),
        "labels": list(clip.labels),
        "split": clip.split,
        "audio_path": place(clip.audio_path),
        **clip.extra,
    }
    return {k: v for k, v in row.items() if v not in (None, [])}
