"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

FIELDS = ("id", "path", "start_s", "end_s", "text")


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


def hits_of(columns: Sequence[pa.Array], scores: np.ndarray, places: np.ndarray, k: int, distinct: bool) -> list[Hit]:
    """The first k rows as hits, those that `vatt.retrieval.index.Index.search` calls not distinct left out.

    Args:
        columns: `FIELDS` of all rows.
        scores, places: (C,) best first; places are numbers of rows, or -1 where there are no more.
    """
    hits: list[Hit] = []
    for score, place in zip(scores.tolist(), places.tolist(), strict=True):
        if place < 0 or len(hits) == k:
            break
        hit = Hit(len(hits) + 1, score, *(column[place].as_py() for column in columns))
        if not (distinct and any(_same_moment(hit, other) for other in hits)):
            hits.append(hit)
    return hits


def _same_moment(a: Hit, b: Hit) -> bool:
    """Whether two hits in one clip share more than half of the shorter one."""
    shared = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return (a.id, a.path) == (b.id, b.path) and shared > min(a.end_s - a.start_s, b.end_s - b.start_s) / 2
