"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
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
    """The fields of hits, of all rows of an index, read where they lie.

    Next to a graph's search all else counts, and after it nothing is in the processor's caches: what is short is quick.

    Args:
        rows: a table with `FIELDS`.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._ids, self._paths = (_words(rows.column(name)) for name in ("id", "path"))
        text = rows.column("text")
        self._texts = None if text.null_count == len(rows) else text
        self._spans = tuple(np.ascontiguousarray(rows.column(name).to_numpy()) for name in ("start_s", "end_s"))
        self._start_s, self._end_s = map(memoryview, self._spans)

    def hit(self, rank: int, score: float, number: int) -> Hit:
        """A row as an answer."""
        (_, at, ids), (_, there, paths), after = self._ids, self._paths, number + 1
        return Hit(
            rank,
            score,
            str(ids[at[number] : at[after]], "utf-8"),
            str(paths[there[number] : there[after]], "utf-8"),
            self._start_s[number],
            self._end_s[number],
            None if self._texts is None else self._texts[number].as_py(),
        )

    def same_windows(self, other: Columns) -> bool:
        """Whether the rows are of the same windows, in the same order."""
        words = ((self._ids, other._ids), (self._paths, other._paths))
        return all(a.column.equals(b.column) for a, b in words) and np.array_equal(self._spans[0], other._spans[0])


class _Words(NamedTuple):
    """A column of words without gaps: where each begins, and all of them."""

    column: pa.Array
    offsets: memoryview
    words: memoryview


def _words(column: pa.ChunkedArray) -> _Words:
    whole = pa.concat_arrays([pa.array([], pa.large_string()), *column.cast(pa.large_string()).chunks])
    _, offsets, words = whole.buffers()
    return _Words(
        whole, memoryview(np.frombuffer(offsets or bytes(8), np.int64)[whole.offset :]), memoryview(words or b"")
    )


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
    found = zip(scores.tolist(), places.tolist(), strict=True)
    if not distinct:
        hit, ranked = columns.hit, enumerate(islice(found, k), start=1)
        return [hit(rank, score, number) for rank, (score, number) in ranked if number >= 0]
    hits: list[Hit] = []
    for score, number in found:
        if number < 0 or len(hits) == k:
            break
        hit = columns.hit(len(hits) + 1, score, number)
        if not any(_same_moment(hit, other) for other in hits):
            hits.append(hit)
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
    if path is None and where is None:
        return None
    masks = [] if path is None else [matches(rows, "path", path)]
    masks += [] if where is None else [chosen(rows, where)]
    return np.logical_and.reduce(masks)


def _is(found: Any, value: str) -> bool:
    return value in map(str, found) if isinstance(found, list) else found is not None and str(found) == value


def _same_moment(a: Hit, b: Hit) -> bool:
    """Whether two hits in one clip share more than half of the shorter one."""
    shared = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return (a.id, a.path) == (b.id, b.path) and shared > min(a.end_s - a.start_s, b.end_s - b.start_s) / 2
