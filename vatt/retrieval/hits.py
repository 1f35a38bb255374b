"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.errors import InputError

GAP_S = 0.01
FIELDS = ("id", "path", "start_s", "end_s", "text")
ROWS = (*FIELDS, "extra")  # what an index keeps of a row


class Hit(NamedTuple):
    """One answer.

    Args:
        rank: from 1.
        score: cosine similarity in [-1, 1].
        id: of the clip.
        path: of the file.
        start_s, end_s: where in the file.
        text: the caption, for indexed texts.
    """

    rank: int
    score: float
    id: str
    path: str
    start_s: float
    end_s: float
    text: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


class Columns:
    """The fields of hits, of all rows of an index, quick to take a few from: next to a graph's search all else counts.

    Args:
        rows: a table with `FIELDS`.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._ids, self._paths = (_Words(rows.column(name)) for name in ("id", "path"))
        text = rows.column("text")
        self._texts = None if text.null_count == len(rows) else text
        self._start_s, self._end_s = (rows.column(name).to_numpy() for name in ("start_s", "end_s"))

    def take(self, places: np.ndarray) -> Iterator[tuple[str, str, float, float, str | None]]:
        """`FIELDS` of some rows, by their numbers."""
        numbers = places.tolist()
        spans = self._start_s[places].tolist(), self._end_s[places].tolist()
        texts = repeat(None) if self._texts is None else self._texts.take(pa.array(numbers, pa.int64())).to_pylist()
        return zip(self._ids.take(numbers), self._paths.take(numbers), *spans, texts, strict=False)

    def same_windows(self, other: Columns) -> bool:
        """Whether the rows are of the same windows, in the same order."""
        words = ((self._ids, other._ids), (self._paths, other._paths))
        return all(a.column.equals(b.column) for a, b in words) and np.array_equal(self._start_s, other._start_s)


class _Words:
    """A column of words without gaps, read where it lies."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column.cast(pa.large_string()).combine_chunks()
        if isinstance(self.column, pa.ChunkedArray):  # of no rows
            self.column = pa.array([], pa.large_string())
        _, offsets, words = self.column.buffers()
        self._offsets = np.frombuffer(offsets, np.int64) if len(self.column) else np.zeros(1, np.int64)
        self._words = memoryview(words or b"")

    def take(self, numbers: list[int]) -> list[str]:
        """Some of them, by their places."""
        offsets, words, first = self._offsets, self._words, self.column.offset
        return [str(words[offsets[first + i] : offsets[first + i + 1]], "utf-8") for i in numbers]


def matches(rows: pa.Table, column: str, pattern: str) -> np.ndarray:
    """(N,) bool: whether a column matches a pattern: ``*`` is anything, ``?`` any one character."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = pc.match_like(rows.column(column), escaped.replace("*", "%").replace("?", "_"))
    return pc.fill_null(found, False).to_numpy()


def hits_of(columns: Columns, scores: np.ndarray, places: np.ndarray, k: int, distinct: bool) -> list[Hit]:
    """The first k rows as hits, those that `vatt.retrieval.index.Index.search` calls not distinct left out.

    Args:
        columns: of all rows.
        scores, places: (C,) best first; places are numbers of rows, or -1 where there are no more.
    """
    most = np.count_nonzero(places >= 0)
    places = places[: most if distinct else min(k, most)]
    rows = zip(scores.tolist(), columns.take(places), strict=False)
    if not distinct:
        return [Hit(rank, score, *row) for rank, (score, row) in enumerate(rows, start=1)]
    hits: list[Hit] = []
    for score, row in rows:
        hit = Hit(len(hits) + 1, score, *row)
        if not any(_same_moment(hit, other) for other in hits):
            hits.append(hit)
            if len(hits) == k:
                break
    return hits


def merged(hits: Sequence[Hit], best: int | None = None) -> list[Hit]:
    """Windows of one clip that touch or overlap as one span, with the score of the best, best first.

    Args:
        hits: best first.
        best: only so many are joined; of those that follow, what touches a span is left out.
    """
    spans: list[Hit] = []
    for hit in sorted(hits[:best], key=lambda hit: (hit.path, hit.id, hit.start_s)):
        if spans and _touch(spans[-1], hit):
            last = spans[-1]
            spans[-1] = last._replace(score=max(last.score, hit.score), end_s=max(last.end_s, hit.end_s))
        else:
            spans.append(hit)
    spans.sort(key=lambda hit: (-hit.score, hit.path, hit.start_s))
    for hit in hits[len(hits) if best is None else best :]:
        if not any(_touch(span, hit) for span in spans):
            spans.append(hit)
    return [hit._replace(rank=rank) for rank, hit in enumerate(spans, start=1)]


def _touch(a: Hit, b: Hit) -> bool:
    gap_s = max(a.start_s, b.start_s) - min(a.end_s, b.end_s)
    return (a.path, a.id) == (b.path, b.id) and gap_s <= GAP_S


def chosen(rows: pa.Table, condition: str) -> np.ndarray:
    """(N,) bool: whether a column of the manifest, kept in ``extra``, has a value: ``x_shape=ring``.

    Of a list one element must be it.

    Raises:
        InputError: not a condition, or no row has the column.
    """
    column, equals, value = condition.partition("=")
    if not equals or not column.strip():
        raise InputError(f"a condition is COLUMN=VALUE, not {condition!r}")
    kinds = rows.column("extra").combine_chunks().dictionary_encode()
    known = [json.loads(text) for text in kinds.dictionary.to_pylist()]
    columns = sorted({name for extra in known for name in extra})
    if column.strip() not in columns:
        raise InputError(f"no clip has a column {column.strip()!r}; there are {', '.join(columns) or 'none'}")
    right = [_is(extra.get(column.strip()), value.strip()) for extra in known]
    return np.append(right, False).astype(bool)[pc.fill_null(kinds.indices, len(right)).to_numpy()]


def allowed_rows(rows: pa.Table, path: str | None, where: str | None) -> np.ndarray | None:
    """(N,) bool: what `matches` and `chosen` leave; None where nothing is asked."""
    masks = [] if path is None else [matches(rows, "path", path)]
    masks += [] if where is None else [chosen(rows, where)]
    return np.logical_and.reduce(masks) if masks else None


def _is(found: Any, value: str) -> bool:
    return value in map(str, found) if isinstance(found, list) else found is not None and str(found) == value


def _same_moment(a: Hit, b: Hit) -> bool:
    """Whether two hits in one clip share more than half of the shorter one."""
    shared = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return (a.id, a.path) == (b.id, b.path) and shared > min(a.end_s - a.start_s, b.end_s - b.start_s) / 2
