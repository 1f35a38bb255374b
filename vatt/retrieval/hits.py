"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vatt.datasets.identity import file_identities, is_same_moment

GAP_S = 0.01
FIELDS = ("id", "path", "start_s", "end_s", "text")
ROWS = (*FIELDS, "clip_start_s", "clip_end_s", "extra")  # what an index keeps of a row


class Hit(NamedTuple):
    """One answer.

    Args:
        rank: from 1.
        score: cosine similarity in [-1, 1].
        id: of the clip.
        path: Present path of the file (see `vatt.retrieval.store`).
        start_s, end_s: where in the file.
        text: the caption, for indexed texts.
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


def hits_of(
    columns: Columns,
    scores: np.ndarray,
    places: np.ndarray,
    k: int,
    distinct: bool,
    present: Callable[[str], str] = str,
) -> list[Hit]:
    """The first k rows as hits, those that `vatt.retrieval.index.Index.search` calls not distinct left out.

    Hits are compared by file and segment, not by id: several rows of a manifest may be of one file.

    Args:
        columns: of all rows.
        scores, places: (C,) best first; places are numbers of rows, or -1 where there are no more.
        present: Returns the present path of a file.
    """
    candidates = zip(scores.tolist(), places.tolist(), strict=True)
    if not distinct:
        hit, ranked = columns.hit, enumerate(islice(candidates, k), start=1)
        return [hit(rank, score, number) for rank, (score, number) in ranked if number >= 0]
    hits, identity = list[Hit](), file_identities(present)
    for score, number in candidates:
        if number < 0 or len(hits) == k:
            break
        hit = columns.hit(len(hits) + 1, score, number)
        if not any(_is_repeated(hit, other, identity) for other in hits):
            hits.append(hit)
    return hits


def merged(hits: Sequence[Hit], best: int | None = None) -> list[Hit]:
    """Windows of one clip that touch or overlap as one span, with the score of the best, best first.

    Clips of one file with a window in common are merged. Of other clips of a file that mostly overlap, the best one is
    kept.

    Args:
        hits: best first.
        best: only so many are joined; of those that follow, what touches a span is left out.
    """
    hits, spans = _unified(hits), list[Hit]()
    for hit in sorted(hits[:best], key=lambda hit: (hit.path, hit.id, hit.start_s)):
        if spans and _touch(spans[-1], hit):
            last = spans[-1]
            spans[-1] = last._replace(score=max(last.score, hit.score), end_s=max(last.end_s, hit.end_s))
        else:
            spans.append(hit)
    ranked = sorted(spans, key=lambda hit: (-hit.score, hit.path, hit.start_s))
    spans = []
    for hit in ranked:
        if not any(_is_repeated(hit, span) for span in spans):
            spans.append(hit)
    for hit in hits[len(hits) if best is None else best :]:
        if not any(_touch(span, hit) or _is_repeated(hit, span) for span in spans):
            spans.append(hit)
    return [hit._replace(rank=rank) for rank, hit in enumerate(spans, start=1)]


def _unified(hits: Sequence[Hit]) -> list[Hit]:
    """Return the first hit of each window of a file, with one id for all clips that have a window in common.

    All hits of a file have the path of the first one.
    """
    identity, paths = file_identities(), dict[str, str]()
    hits = [hit._replace(path=paths.setdefault(identity(hit.path), hit.path)) for hit in hits]
    first: dict[tuple[str, float, float], Hit] = {}
    other_ids: dict[tuple[str, str], str] = {}

    def clip_id(hit: Hit) -> str:
        name = hit.id
        while (hit.path, name) in other_ids:
            name = other_ids[hit.path, name]
        return name

    for hit in hits:
        same = first.setdefault((hit.path, hit.start_s, hit.end_s), hit)
        if clip_id(same) != clip_id(hit):
            other_ids[hit.path, clip_id(hit)] = clip_id(same)
    return [hit._replace(id=clip_id(hit)) for hit in first.values()]


def _touch(a: Hit, b: Hit) -> bool:
    gap_s = max(a.start_s, b.start_s) - min(a.end_s, b.end_s)
    return (a.path, a.id) == (b.path, b.id) and gap_s <= GAP_S


def _is_repeated(hit: Hit, other: Hit, identity: Callable[[str], str] = str) -> bool:
    """Return whether two hits are the same moment of one file, or the same caption of it.

    Args:
        hit, other: Hits.
        identity: Returns equal strings for paths of one file (see `vatt.datasets.identity.file_identity`).
    """
    if identity(hit.path) != identity(other.path) or hit.text != other.text:
        return False
    spans_s = (hit.start_s, hit.end_s), (other.start_s, other.end_s)
    return spans_s[0] == spans_s[1] or is_same_moment(*spans_s)
