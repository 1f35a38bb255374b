"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.errors import InputError

GAP_S = 0.01
FIELDS = ("id", "path", "start_s", "end_s", "text")
ROWS = (*FIELDS, "extra")  # what an index keeps of a row


@dataclass(frozen=True)
class Hit:
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
        return asdict(self)


def matches(rows: pa.Table, column: str, pattern: str) -> np.ndarray:
    """(N,) bool: whether a column matches a pattern: ``*`` is anything, ``?`` any one character."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = pc.match_like(rows.column(column), escaped.replace("*", "%").replace("?", "_"))
    return pc.fill_null(found, False).to_numpy()


def hits_of(columns: pa.RecordBatch, scores: np.ndarray, places: np.ndarray, k: int, distinct: bool) -> list[Hit]:
    """The first k rows as hits, those that `vatt.retrieval.index.Index.search` calls not distinct left out.

    Args:
        columns: `FIELDS` of all rows.
        scores, places: (C,) best first; places are numbers of rows, or -1 where there are no more.
    """
    most = int((places >= 0).sum()) if distinct else min(k, int((places >= 0).sum()))
    wanted = pa.array(places[:most])
    taken = columns.take(wanted).columns
    rows = zip(scores[:most].tolist(), *(column.to_pylist() for column in taken), strict=True)
    if not distinct:
        return [Hit(rank, *row) for rank, row in enumerate(rows, start=1)]
    hits: list[Hit] = []
    for row in rows:
        hit = Hit(len(hits) + 1, *row)
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
            spans[-1] = replace(last, score=max(last.score, hit.score), end_s=max(last.end_s, hit.end_s))
        else:
            spans.append(hit)
    spans.sort(key=lambda hit: (-hit.score, hit.path, hit.start_s))
    for hit in hits[len(hits) if best is None else best :]:
        if not any(_touch(span, hit) for span in spans):
            spans.append(hit)
    return [replace(hit, rank=rank) for rank, hit in enumerate(spans, start=1)]


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
