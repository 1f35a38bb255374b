"""Answers: rows of an index as files and seconds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.identity import file_identities, is_same_moment
from vatt.errors import InputError
from vatt.retrieval.tables import StoreError

GAP_S = 0.01
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
SHOWN_ROWS, SHOWN_VALUES = 10_000, 12  # rows that examples of paths are taken from; values listed in a message
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


@dataclass(frozen=True)
class RelativePattern:
    """Pattern of paths relative to some directories, for users who must not learn the absolute paths.

    Args:
        text: Pattern, see `matches`.
        roots: Directories, or prefixes of URLs.
    """

    text: str
    roots: tuple[str, ...]


def matches(rows: pa.Table, column: str, pattern: str | RelativePattern) -> np.ndarray:
    """Return which rows match a pattern in a column.

    Args:
        rows: Rows of an index.
        column: Name of a column of strings.
        pattern: ``*`` matches any text, ``?`` any character.

    Returns:
        (N,) bool.
    """
    if isinstance(pattern, RelativePattern):
        glob = _escaped(pattern.text).replace("*", "%").replace("?", "_")
        likes = [f"{_escaped(root.rstrip('/'))}/{glob}" for root in pattern.roots]
    else:
        likes = [_escaped(pattern).replace("*", "%").replace("?", "_")]
    mask, values = np.zeros(rows.num_rows, bool), rows.column(column)
    if not all(map(str.isascii, likes)):  # names of files may be composed or decomposed
        likes, values = [normalize("NFC", like) for like in likes], pc.utf8_normalize(values, "NFC")
    for like in likes:
        mask |= pc.fill_null(pc.match_like(values, like), False).to_numpy()
    return mask


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


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
    found = zip(scores.tolist(), places.tolist(), strict=True)
    if not distinct:
        hit, ranked = columns.hit, enumerate(islice(found, k), start=1)
        return [hit(rank, score, number) for rank, (score, number) in ranked if number >= 0]
    hits, identity = list[Hit](), file_identities(present)
    for score, number in found:
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


def chosen(rows: pa.Table, condition: str) -> np.ndarray:
    """(N,) bool: whether a column of the manifest, kept in ``extra``, has a value: ``x_shape=ring``.

    Decimal numbers are compared by value: ``x_year=2020`` matches 2020, 2020.0 and "2020.0". Other texts, such as
    ``1e3`` and ``007``, are compared as texts. A list matches if one of its elements does.

    Raises:
        InputError: not a condition, or no row has the column.
        StoreError: ``extra`` of a row is not a JSON object.
    """
    column, value = _condition(condition)
    extras, index = _extras(rows)
    columns = sorted({name for extra in extras for name in extra})
    if column not in columns:
        available = f"available columns: {', '.join(columns)}" if columns else "the index has no manifest columns"
        raise InputError(f"no clip has a column {column!r}; {available}")
    target, number = normalize("NFC", value), _number(value)
    is_match = [
        any(target == normalize("NFC", _text(own)) or (number is not None and number == _number(own)) for own in values)
        for values in (_values(extra.get(column)) for extra in extras)
    ]
    return np.append(is_match, False).astype(bool)[index]


def _condition(condition: str) -> tuple[str, str]:
    column, equals, value = condition.partition("=")
    if not equals or not column.strip():
        raise InputError(f"a condition must be COLUMN=VALUE, not {condition!r}")
    return column.strip(), value.strip()


def _extras(rows: pa.Table) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the distinct values of ``extra``, and (N,) the index of the value of each row, or -1."""
    encoded = rows.column("extra").combine_chunks().dictionary_encode()
    try:
        extras = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    except (ValueError, RecursionError) as error:
        raise StoreError(f"column 'extra': invalid JSON: {str(error)[:200]}") from error
    if not all(isinstance(extra, dict) for extra in extras):
        raise StoreError("column 'extra': a value is not a JSON object")
    return extras, pc.fill_null(encoded.indices, -1).to_numpy()


def describe_filters(
    rows: pa.Table,
    kept: np.ndarray,
    path: str | RelativePattern | None,
    by_path: np.ndarray,
    where: str | None,
    present: Callable[[str], str] = str,
) -> str | None:
    """Describe the filter that matches no row, with examples of existing values.

    Args:
        rows: Rows of an index.
        kept: (N,) bool; rows that were not removed.
        path, where: See `vatt.retrieval.index.Index.search`.
        by_path: (N,) bool; rows that match ``path``.
        present: Returns the present path of a file.

    Returns:
        A sentence, or None if some row matches both filters.
    """
    by_column = np.ones(rows.num_rows, bool) if where is None else chosen(rows, where)
    if (by_path & by_column & kept).any():
        return None
    count, relative = int(kept.sum()), isinstance(path, RelativePattern)
    # A relative pattern is not repeated: messages are shown without directories, which it may contain.
    pattern = "the path pattern" if relative else f"the path pattern {path!r}"
    if not (by_path & kept).any():
        hint = "patterns are relative to the indexed directories; " if relative else ""
        return f"{pattern} matches none of {count:,} rows; {hint}{example_paths(rows, kept, present)}"
    if where is not None and not (by_column & kept).any():
        column, _ = _condition(where)
        values = sorted(
            {_text(value) for extra in _extras(rows)[0] for value in _values(extra.get(column))},
            key=lambda value: (_number(value) is None, _number(value) or 0, value),
        )
        more = f" and {len(values) - SHOWN_VALUES:,} more" if len(values) > SHOWN_VALUES else ""
        shown = ", ".join(value[:40] for value in values[:SHOWN_VALUES])
        return f"the condition {where!r} matches none of {count:,} rows; values of {column!r} are {shown}{more}"
    return f"none of {count:,} rows matches both {pattern} and the condition {where!r}"


def example_paths(rows: pa.Table, kept: np.ndarray, present: Callable[[str], str] = str) -> str:
    """Return a clause that names the first paths of an index; for the arguments see `describe_filters`."""
    paths = pc.unique(rows.column("path").filter(pa.array(kept)).slice(0, SHOWN_ROWS)).to_pylist()[:2]
    return f"paths are, for example, {' and '.join(map(present, paths))}"


def _values(given: Any) -> list[Any]:
    """Return the values of a column: several for a list, none for null."""
    return [value for value in (given if isinstance(given, list) else [given]) if value is not None]


def _text(value: Any) -> str:
    """Return a value as text, whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _number(value: Any) -> Decimal | None:
    """Return the value of a number or of a decimal number as text; None for others, such as ``007`` and ``1e3``."""
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    text = str(value).strip()
    return Decimal(text) if is_number or _NUMBER.fullmatch(text) else None


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
