"""Columns of manifests, default ids of clips, and conversion of clips to rows."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from vatt.media.sources import files as source
from vatt.structures import Clip, TimedText

COLUMNS = {
    "path": "media file, absolute or relative to the manifest's folder; a URL; a clip in a shard: FILE.tar#OFFSET+SIZE",
    "id": "name of the clip; without it the path and the segment, if there is one",
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


def segment_id(path: str, start_s: float, end_s: float | None) -> str:
    """Return the default id of a clip: its path, with the segment if it has one.

    Args:
        path: Path as the manifest spells it.
        start_s: Start in seconds, rounded to milliseconds in the id.
        end_s: End in seconds; None is the end of the file.

    Example:
        >>> segment_id("a.mp4", 1.5, 3.0), segment_id("a.mp4", 0.0, None)
        ('a.mp4@1.5-3', 'a.mp4')
    """
    start = _seconds(start_s)
    if start == "0" and end_s is None:
        return path
    return f"{path}@{start}-{'end' if end_s is None else _seconds(end_s)}"


def _seconds(time_s: float) -> str:
    """Return a time rounded like `vatt.datasets.identity.whole_ms`, which is slower for single numbers."""
    return f"{round(time_s * 1000) / 1000:.3f}".rstrip("0").rstrip(".")


class RowIds:
    """Default ids of clips (`segment_id`); repeated ids get a number."""

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()

    def __call__(self, path: str, start_s: float, end_s: float | None) -> str:
        return self.numbered(segment_id(path, start_s, end_s))

    def numbered(self, name: str) -> str:
        """Return an id, with a number if it occurred before."""
        self.used[name] += 1
        return name if self.used[name] == 1 else f"{name}#{self.used[name]}"


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
