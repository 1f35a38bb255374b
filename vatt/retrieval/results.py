"""Search results: rows of an index as files and segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vatt.datasets.identity import file_identities, is_same_moment

GAP_S = 0.01
FIELDS = ("id", "path", "start_s", "end_s", "text")
ROWS = (*FIELDS, "clip_start_s", "clip_end_s", "extra")  # columns of a row that an index stores


class Result(NamedTuple):
    """A search result.

    Args:
        rank: Rank, from 1.
        score: Cosine similarity in [-1, 1].
        id: Id of the clip.
        path: Current path of the file (see `vatt.retrieval.store`).
        start_s, end_s: Segment of the file in seconds.
        text: Caption, for indexed texts.
        missing: Whether there is no file at ``path``.
    """

    rank: int
    score: float
    id: str
    path: str
    start_s: float
    end_s: float
    text: str | None = None
    missing: bool = False

    @property
    def has_span(self) -> bool:
        """Whether the segment is known: captions without times have the segment from 0 to 0."""
        return self.end_s > self.start_s

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


class Columns:
    """The fields of results, of all rows of an index, read where they lie.

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

    def result(self, rank: int, score: float, number: int) -> Result:
        """Return a row as a result."""
        (_, at, ids), (_, there, paths), after = self._ids, self._paths, number + 1
        return Result(
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


def to_results(
    columns: Columns,
    scores: np.ndarray,
    row_indices: np.ndarray,
    k: int,
    distinct: bool,
    relocate: Callable[[str], str] = str,
) -> list[Result]:
    """Return the first k rows as results.

    If ``distinct``, repeated results are skipped (see `vatt.retrieval.index.Index.search`). Results are compared by
    file and segment, since several ids may refer to one file.

    Args:
        columns: Columns of all rows.
        scores: (C,) scores in descending order.
        row_indices: (C,) row numbers, or -1 where there are no more.
        k: Number of results.
        distinct: Whether to skip repeated results.
        relocate: Returns the current path of a file, which may have been moved.
    """
    candidates = zip(scores.tolist(), row_indices.tolist(), strict=True)
    if not distinct:
        result, ranked = columns.result, enumerate(islice(candidates, k), start=1)
        return [result(rank, score, number) for rank, (score, number) in ranked if number >= 0]
    results, identity = list[Result](), file_identities(relocate)
    for score, number in candidates:
        if number < 0 or len(results) == k:
            break
        result = columns.result(len(results) + 1, score, number)
        if not any(_is_repeated(result, other, identity) for other in results):
            results.append(result)
    return results


def merged(results: Sequence[Result], best: int | None = None) -> list[Result]:
    """Merge windows of one clip that touch or overlap into one span with the score of the best window, best first.

    Clips of one file with a window in common are merged. Of clips of one file that overlap by more than half, only the
    best one is returned.

    Args:
        results: Results, best first.
        best: Number of results that are merged. Later results that touch a span are skipped.
    """
    results, spans = _unified(results), list[Result]()
    for result in sorted(results[:best], key=lambda result: (result.path, result.id, result.start_s)):
        if spans and _touch(spans[-1], result):
            last = spans[-1]
            spans[-1] = last._replace(score=max(last.score, result.score), end_s=max(last.end_s, result.end_s))
        else:
            spans.append(result)
    ranked = sorted(spans, key=lambda result: (-result.score, result.path, result.start_s))
    spans = []
    for result in ranked:
        if not any(_is_repeated(result, span) for span in spans):
            spans.append(result)
    for result in results[len(results) if best is None else best :]:
        if not any(_touch(span, result) or _is_repeated(result, span) for span in spans):
            spans.append(result)
    return [result._replace(rank=rank) for rank, result in enumerate(spans, start=1)]


def _unified(results: Sequence[Result]) -> list[Result]:
    """Return the first result of each window of a file, with one id for all clips that have a window in common.

    All results of a file have the path of the first one.
    """
    identity, paths = file_identities(), dict[str, str]()
    results = [result._replace(path=paths.setdefault(identity(result.path), result.path)) for result in results]
    first: dict[tuple[str, float, float], Result] = {}
    other_ids: dict[tuple[str, str], str] = {}

    def clip_id(result: Result) -> str:
        name = result.id
        while (result.path, name) in other_ids:
            name = other_ids[result.path, name]
        return name

    for result in results:
        same = first.setdefault((result.path, result.start_s, result.end_s), result)
        if clip_id(same) != clip_id(result):
            other_ids[result.path, clip_id(result)] = clip_id(same)
    return [result._replace(id=clip_id(result)) for result in first.values()]


def _touch(a: Result, b: Result) -> bool:
    gap_s = max(a.start_s, b.start_s) - min(a.end_s, b.end_s)
    return (a.path, a.id) == (b.path, b.id) and gap_s <= GAP_S


def _is_repeated(result: Result, other: Result, identity: Callable[[str], str] = str) -> bool:
    """Return whether two results are the same moment of one file, or the same caption of it.

    Args:
        result, other: Results.
        identity: Returns equal strings for paths of one file (see `vatt.datasets.identity.file_identity`).
    """
    if identity(result.path) != identity(other.path) or result.text != other.text:
        return False
    spans_s = (result.start_s, result.end_s), (other.start_s, other.end_s)
    return spans_s[0] == spans_s[1] or is_same_moment(*spans_s)
