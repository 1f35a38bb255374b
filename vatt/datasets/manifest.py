"""Manifests: which clips there are, where, and what is known about them.

A manifest is a CSV, JSONL or Parquet file with one row a clip, or a folder of media files. The columns are in
`COLUMNS`; only ``path`` is needed. A list or a record in a CSV cell is written as JSON. Columns of your own begin
with ``x_`` and are carried along.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

from vatt.errors import VattError
from vatt.structures import Clip, TimedText

COLUMNS = {
    "path": "media file, absolute or relative to the manifest's folder",
    "id": "unique name; without it the path (and the span, where a path comes twice)",
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
MEDIA_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv "
    ".wav .flac .mp3 .m4a .aac .ogg .opus .wma".split()
)
SHOWN = 5  # problems that one error message lists in full


class ManifestError(VattError, ValueError):
    """A manifest that cannot be used; the message names the row and the column."""


def read_manifest(source: str | Path, *, split: str | None = None, check_files: bool = True) -> list[Clip]:
    """Read a manifest file, or take a folder of media files as one.

    Args:
        source: ``.csv``, ``.jsonl`` or ``.parquet`` file, a folder (searched recursively, sorted by path), or a
            single media file.
        split: keep only the rows of this split.
        check_files: look whether every ``path`` and ``audio_path`` exists.

    Returns:
        Clips in the order of the file, with paths resolved against the manifest's folder.

    Raises:
        ManifestError: nothing there, no rows, unknown or missing columns, a bad value, a missing file, or an id
            that comes twice.
    """
    source = Path(source)
    if source.is_dir():
        clips = _from_folder(source)
    elif not source.exists():
        raise ManifestError(f"there is no manifest and no folder at {source}")
    elif source.suffix.lower() in MEDIA_SUFFIXES:
        clips = [Clip(id=source.name, path=str(source))]
    else:
        try:
            clips = _from_rows(source, _read_rows(source), check_files)
        except ManifestError:
            raise
        except (ValueError, csv.Error) as error:  # not UTF-8, a NUL byte, not Parquet, …
            raise ManifestError(f"{source}: not a readable {source.suffix} file: {error}") from error
    if split is None:
        return clips
    chosen = [clip for clip in clips if clip.split == split]
    if not chosen:
        there = sorted({clip.split or "(none)" for clip in clips})
        raise ManifestError(f"{source}: no row has split {split!r}; column 'split' holds {', '.join(there)}")
    return chosen


def hold_out(clips: Sequence[Clip], fraction: float) -> tuple[list[Clip], list[Clip]]:
    """Part clips in two by a hash of their ids: stable when rows are added, removed or reordered.

    Args:
        clips: any clips.
        fraction: share of the second part, in [0, 1].

    Returns:
        The larger part and the part held out.
    """
    kept: list[Clip] = []
    held: list[Clip] = []
    for clip in clips:
        place = int.from_bytes(sha256(clip.id.encode()).digest()[:8], "big") / 2**64
        (held if place < fraction else kept).append(clip)
    return kept, held


def other_files(folder: str | Path) -> dict[str, int]:
    """Files of a folder that are not taken for media, counted by suffix."""
    counts: dict[str, int] = {}
    for path in Path(folder).rglob("*"):
        if path.is_file() and path.suffix.lower() not in MEDIA_SUFFIXES:
            counts[path.suffix.lower() or path.name] = counts.get(path.suffix.lower() or path.name, 0) + 1
    return counts


def write_manifest(clips: Iterable[Clip], path: str | Path) -> None:
    """Write clips as JSONL, with paths relative to the manifest where they lie below its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for clip in clips:
            file.write(json.dumps(_to_row(clip, path.parent), ensure_ascii=False) + "\n")


def _from_folder(folder: Path) -> list[Clip]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in MEDIA_SUFFIXES)
    if not paths:
        found = ", ".join(f"{n} {suffix}" for suffix, n in sorted(other_files(folder).items())) or "nothing"
        raise ManifestError(f"folder {folder} holds no media file (found {found})")
    return [Clip(id=p.relative_to(folder).as_posix(), path=str(p)) for p in paths]


def _read_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with the number a person sees: the line of a text file, counted from 1, or the row of a table."""
    suffix = source.suffix.lower()
    if suffix == ".csv":
        csv.field_size_limit(2**24)  # a cell may hold the timed words of an hour
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise ManifestError(f"{source}: the file is empty; the first line must name the columns")
            for row in reader:
                if None in row:
                    raise ManifestError(
                        f"{source} line {reader.line_num}: {len(row[None])} cells more than the header has "
                        "columns; put quotes around cells with commas"
                    )
                yield reader.line_num, row
    elif suffix in (".jsonl", ".ndjson"):
        with source.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ManifestError(f"{source} line {number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ManifestError(f"{source} line {number}: an object {{…}} is wanted, not {line.strip()[:40]}")
                yield number, row
    elif suffix in (".parquet", ".pq"):
        import pyarrow.parquet as pq

        yield from enumerate(pq.read_table(source).to_pylist(), start=1)
    else:
        raise ManifestError(f"{source}: a manifest ends in .csv, .jsonl or .parquet, or is a folder of media")


def _from_rows(source: Path, rows: Iterator[tuple[int, dict[str, Any]]], check_files: bool) -> list[Clip]:
    clips: list[Clip] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    missing = 0
    spans = _SpanIds()
    for number, row in rows:
        try:
            _check_columns(row)
            clip = _to_clip(row, source.parent, spans)
            if clip.id in seen:
                raise _BadCell("id", f"{clip.id!r} stands in row {seen[clip.id]} too")
            seen[clip.id] = number
            if check_files:
                _check_files(clip)
        except _BadColumn as bad:  # every row of the file would say the same
            raise ManifestError(f"{source} row {number}, column {bad.column!r}: {bad.reason}") from None
        except _BadCell as bad:
            missing += isinstance(bad, _MissingFile)
            problems.append(f"row {number}, column {bad.column!r}: {bad.reason}")
        else:
            clips.append(clip)
    if problems:
        more = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        counted = f" ({missing} missing files)" if missing else ""
        shown = "\n  ".join(problems[:SHOWN])
        raise ManifestError(f"{source}: {len(problems)} bad rows{counted}\n  {shown}{more}")
    if not clips:
        raise ManifestError(f"{source}: the manifest has no rows")
    return clips


class _BadCell(Exception):
    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column, self.reason = column, reason


class _BadColumn(_BadCell):
    pass


class _MissingFile(_BadCell):
    pass


class _SpanIds:
    """Ids for rows without one: the path, and the span when a path comes again."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __call__(self, path: str, start_s: float, end_s: float | None) -> str:
        name = path
        if name in self.used:
            name = f"{path}@{start_s:g}-{'end' if end_s is None else f'{end_s:g}'}"
        self.used.add(name)
        return name


def _check_columns(row: dict[str, Any]) -> None:
    for column in map(str, row):
        if column in COLUMNS or column.startswith("x_"):
            continue
        close = get_close_matches(column, COLUMNS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "name columns of your own x_…"
        raise _BadColumn(column, f"unknown; {hint} Known columns: {', '.join(COLUMNS)}")
    if "path" not in row:
        raise _BadColumn("path", f"missing; found only {', '.join(map(str, row))}")


def _to_clip(row: dict[str, Any], root: Path, spans: _SpanIds) -> Clip:
    path = _text(row, "path")
    if path is None:
        raise _BadCell("path", "empty")
    start_s = _seconds(row, "start_s") or 0.0
    end_s = _seconds(row, "end_s")
    if end_s is not None and end_s <= start_s:
        raise _BadCell("end_s", f"{end_s:g} is not after start_s {start_s:g}")
    text, label, audio_path = _text(row, "text"), _text(row, "label"), _text(row, "audio_path")
    return Clip(
        id=_text(row, "id") or spans(path, start_s, end_s),
        path=str(root / path),
        start_s=start_s,
        end_s=end_s,
        texts=((TimedText(text),) if text else ()) + _timed(row, "texts", "text"),
        words=_timed(row, "words", "word"),
        labels=((label,) if label else ()) + tuple(t.text for t in _timed(row, "labels", "label")),
        split=_text(row, "split"),
        audio_path=str(root / audio_path) if audio_path else None,
        extra={k: v for k, v in row.items() if str(k).startswith("x_")},
    )


def _check_files(clip: Clip) -> None:
    for column, path in (("path", clip.path), ("audio_path", clip.audio_path)):
        if path is not None and not Path(path).is_file():
            raise _MissingFile(column, f"no file at {path}")


def _text(row: dict[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, (list, dict)):
        if value is not None:
            raise _BadCell(column, f"one text is wanted, not {value!r}")
        return None
    return str(value).strip() or None


def _seconds(row: dict[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise _BadCell(column, f"{value!r} is not a number of seconds") from None
    if not isfinite(seconds) or seconds < 0:
        raise _BadCell(column, f"{value!r} is not a time from 0 on")
    return seconds


def _timed(row: dict[str, Any], column: str, key: str) -> tuple[TimedText, ...]:
    """A list of texts, each alone or as {key, start, end}."""
    value = row.get(column)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise _BadCell(column, f"a JSON list is wanted, not {value[:40]!r}") from None
    if not isinstance(value, (list, tuple)):
        raise _BadCell(column, f"a list is wanted, not {value!r}")
    texts = []
    for item in value:
        if isinstance(item, str):
            texts.append(TimedText(item))
            continue
        if not isinstance(item, dict) or not isinstance(item.get(key), str):
            raise _BadCell(column, f"each item is a text or {{{key!r}: …, 'start': …, 'end': …}}, not {item!r}")
        start_s, end_s = _seconds(item, "start"), _seconds(item, "end")
        if (start_s is None) != (end_s is None) or (start_s is not None and end_s < start_s):
            raise _BadCell(column, f"start and end of {item[key]!r} do not fit: {start_s}, {end_s}")
        texts.append(TimedText(item[key], start_s, end_s))
    return tuple(t for t in texts if t.text.strip())


def _to_row(clip: Clip, root: Path) -> dict[str, Any]:
    def place(path: str | None) -> str | None:
        if path is None:
            return None
        full = Path(path).resolve()
        return full.relative_to(root.resolve()).as_posix() if full.is_relative_to(root.resolve()) else str(full)

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
