"""Grouping of rows into clips: rows of the same segment of the same file are one clip with several captions."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Container
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.identity import whole_ms
from vatt.datasets.manifests.paths import are_different_files, are_distinct, identities
from vatt.datasets.manifests.reading import Report
from vatt.datasets.manifests.values import MISSING, NONE, by_time, distinct
from vatt.datasets.names import fold
from vatt.datasets.rows import RowIds
from vatt.datasets.table import STRING, Columns, pack, unpack

Column = pa.ChunkedArray
ROW_IDS = "x_row_ids"  # column of the ids of all rows of a clip, if they differ


def group_rows(rows: Columns, report: Report) -> Columns:
    """Group rows into clips.

    A clip is a segment (``start_s``, ``end_s``, in whole milliseconds) of a file (``path`` and ``audio_path``) in one
    split. Its texts, words and labels are those of all its rows, in the order of the rows and without repetitions. It
    has the first id of its rows. Columns ``x_…`` whose values differ become lists of the values that are not missing,
    and ids that differ the list `ROW_IDS`.

    Args:
        rows: (N,) rows with the schema of `vatt.datasets.manifests.columns.ROWS`.
        report: Report that receives notes on splits and on merged rows, and errors for ids of several clips.

    Returns:
        (M,) clips with the schema `SCHEMA`, in the order of their first rows.
    """
    _report_splits(rows["split"], report)
    if not are_different_files(rows["path"]):
        keys = {name: _file_codes(rows[name]) for name in ("path", "audio_path")}
        keys["split"] = rows["split"]
        keys |= {name: whole_ms(pc.fill_null(rows[name], math.inf).to_numpy()) for name in ("start_s", "end_s")}
        rows = _grouped(rows, pa.table(keys), report)
    numbers, has_id = rows.pop("number"), rows.pop("has_id")
    rows["id"] = _distinct_ids(rows["id"], has_id, numbers, report)
    return rows


def _report_splits(splits: Column, report: Report) -> None:
    """Report splits whose names differ only in case, spaces, Unicode normalization or invisible characters."""
    names = sorted(pc.unique(splits.drop_null()).to_pylist())
    similar = defaultdict[str, list[str]](list)
    for name in names:
        similar[fold(name)].append(name)
    for group in similar.values():
        if len(group) > 1:
            shown = " and ".join(map(repr, group))
            report.notes.append(
                f"column 'split' has {shown}, which are different splits although their names differ only in case, "
                "spaces, Unicode normalization or invisible characters. Use one spelling if they are the same split"
            )


def _file_codes(paths: pa.ChunkedArray) -> pa.Array:
    """Return (N,) equal numbers for paths of the same file; null stays null."""
    encoded = pc.dictionary_encode(paths).combine_chunks()
    return pc.dictionary_encode(identities(encoded.dictionary)).indices.take(encoded.indices)


def _grouped(rows: Columns, keys: pa.Table, report: Report) -> Columns:
    """Return the first row of each clip, with its other rows merged into it."""
    count = keys.num_rows
    table = keys.append_column("row", pa.array(np.arange(count)))
    groups = table.group_by(keys.column_names, use_threads=False).aggregate([("row", "min"), ("row", "list")])
    firsts, lists = (groups[name].combine_chunks() for name in ("row_min", "row_list"))
    if len(firsts) == count:
        return rows
    clips = f"{len(firsts):,} clip{'s' * (len(firsts) > 1)}"
    report.notes.append(f"{count:,} rows describe {clips}: rows of one file and segment are one clip")
    missing = (None, "") if report.has_types else (None, "", *MISSING)
    # Only the rows of clips with several rows are merged one by one.
    merged = _merged(rows, lists.filter(pc.greater(pc.list_value_length(lists), 1)).to_pylist(), missing)
    order = pc.array_sort_indices(firsts)
    firsts = firsts.take(order)
    position = pc.index_in(firsts, pa.array(merged.pop("first"), pa.int64()))
    # Index of each clip among the first rows followed by the merged ones.
    chosen = pc.coalesce(pc.add(position.cast(pa.int64()), len(firsts)), pa.array(np.arange(len(firsts))))
    columns = {}
    for name in [*rows]:
        column = pc.take(rows.pop(name), firsts)
        if name in merged:
            column = pa.chunked_array([*column.chunks, pa.array(merged[name], column.type)]).take(chosen)
        columns[name] = column
    return columns


def _merged(rows: Columns, groups: list[list[int]], missing: Container[Any]) -> dict[str, list[Any]]:
    """Merge the rows of each group. Returns the first row of each group, and the merged columns."""
    used = pa.array([row for group in groups for row in group], pa.int64())
    names = ("id", "has_id", "labels", "texts", "timed", "extra")
    columns = {name: pc.take(rows[name], used).to_pylist() for name in names}
    results: dict[str, list[Any]] = {name: [] for name in ("first", *names)}
    start = 0
    for group in groups:
        part = slice(start, start + len(group))
        start += len(group)
        ids = [name for name, has_id in zip(columns["id"][part], columns["has_id"][part], strict=True) if has_id]
        ids = list(dict.fromkeys(ids))
        labels = dict.fromkeys(label for several in columns["labels"][part] for label in several or ())
        texts, timed = _merge_texts(columns["texts"][part], columns["timed"][part])
        values = (
            group[0],
            ids[0] if ids else columns["id"][part.start],
            bool(ids),
            [*labels] or None,
            texts,
            timed,
            _merge_extras(columns["extra"][part], ids, missing),
        )
        for column, value in zip(results.values(), values, strict=True):
            column.append(value)
    return results


def _merge_texts(texts: list[list[str] | None], timed: list[bytes | None]) -> tuple[list[str] | None, bytes | None]:
    """Merge the texts and words of several rows."""
    if not any(timed):
        return list(dict.fromkeys(text for several in texts for text in several or ())) or None, None
    captions, words = [], []
    for several, packed in zip(texts, timed, strict=True):
        untimed = several or []
        caption, spoken = unpack(packed) if packed else ((untimed, *[[None] * len(untimed)] * 2), NONE)
        captions.append(caption)
        words.append(spoken)
    return None, pack(distinct(*captions), by_time(distinct(*words)))


def _merge_extras(extras: list[str | None], ids: list[str], missing: Container[Any]) -> str | None:
    """Merge the columns ``x_…`` of several rows. Missing values are dropped."""
    distinct = [json.loads(extra) for extra in dict.fromkeys(filter(None, extras))]
    values: dict[str, dict[str, Any]] = {}
    for extra in distinct:
        for name, value in extra.items():
            distinct_values = values.setdefault(name, {})
            if value not in missing:
                distinct_values.setdefault(json.dumps(value, sort_keys=True), value)
    merged = {
        name: next(iter(distinct_values.values()), None) if len(distinct_values) < 2 else [*distinct_values.values()]
        for name, distinct_values in values.items()
    }
    if len(ids) > 1:
        merged.setdefault(ROW_IDS, ids)
    return json.dumps(merged, ensure_ascii=False) if merged else None


def _distinct_ids(ids: Column, has_id: Column, numbers: Column, report: Report) -> Column:
    """Number repeated ids of clips without an id of their own, and report other repeated ids as errors."""
    if are_distinct(ids):
        return ids
    make, known, results = RowIds(), dict[str, int](), []
    for name, is_own, number in zip(*(column.to_pylist() for column in (ids, has_id, numbers)), strict=True):
        clip_id = name if is_own else make.numbered(name)
        if known.setdefault(clip_id, number) != number:
            reason = f"{clip_id!r} is the id of another file, segment or split in {report.unit} {known[clip_id]}"
            report.add(number, "id", reason)
        results.append(clip_id)
    return pa.chunked_array([pa.array(results, STRING)])
