"""The directory of embeddings: Parquet files with one row per vector.

``embeddings.parquet``, ``pooled.parquet`` and ``errors.parquet`` are directories of shards, ``00000.parquet`` and so
on, each with the same number of clips of the manifest. Shards are written atomically, embeddings last, so that an
interrupted run is resumed at the first missing shard. ``embeddings.json`` has the source, the model and the options.

Columns: ``id`` of the clip, ``path``, ``start_s`` and ``end_s`` of the window, ``modality`` (video, audio, text),
``space`` (video_audio, video_text), ``clip_start_s`` and ``clip_end_s`` (the segment of the clip as in the manifest; a
null end is the end of the file), ``text`` (for texts), ``extra`` (other columns of the manifest as JSON: split, labels
and columns x_…), ``vector`` (float32, not normalized: compare by cosine) and ``model`` (hash of the model). Pooled
embeddings have one row per clip, modality and space: the mean of ``windows`` windows, from the start of the first to
the end of the last. Errors have ``kind`` (see `vatt.structures.Event`), ``id``, ``path`` and ``reason``.

Paths of media and of the model are absolute and normalized; symbolic links are kept, and URLs are unchanged. A clip in
a shard is ``/directory/file.tar#offset+size``. In your own Parquet file, a relative path starts from the directory of
the file. ``embeddings.json`` and ``index.json`` also record

- their directory (``folder``) when they were written. If a file is not at its absolute path, it is looked for at the
  same position relative to the embeddings or the index, so that a directory that contains both can be moved;
- the directories (``roots``) that contain all media: the folder that was embedded, or the directories of the files of a
  manifest. Rows with files outside are refused.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write
from vatt.retrieval.paths import MAX_ROOTS, is_absolute
from vatt.retrieval.tables import OPTIONAL, StoreError, read_table
from vatt.structures import Event
from vatt.untrusted import inner_file, read_json

Row = dict[str, Any]
FILE, POOLED, ERRORS, NOTES = "embeddings.parquet", "pooled.parquet", "errors.parquet", "embeddings.json"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("modality", pa.string()),
        ("space", pa.string()),
        ("clip_start_s", pa.float64()),
        ("clip_end_s", pa.float64()),
        ("text", pa.string()),
        ("extra", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("model", pa.string()),
    ]
)
POOLED_SCHEMA = SCHEMA.remove(SCHEMA.get_field_index("text")).insert(4, pa.field("windows", pa.int32()))
ERROR_SCHEMA = pa.schema([(name, pa.string()) for name in ("kind", "id", "path", "reason")])
MAX_NOTES = 2**24  # bytes of embeddings.json


def write_shard(
    folder: str | Path, model: str, rows: Iterable[Row], events: Iterable[Event] = (), shard: int = 0
) -> None:
    """Write a shard, whole or not at all.

    Args:
        folder: of the embeddings.
        model: Hash of the model, stored in every row.
        rows: dicts with the columns of the store, but for ``model``.
        events: what went wrong with its clips.
        shard: its number.

    Raises:
        WriteError: The disk is full or read-only.
    """
    filled = [{**dict.fromkeys(OPTIONAL), **row, "model": model} for row in rows]
    for kind, table in (
        (ERRORS, pa.Table.from_pylist(list(events), schema=ERROR_SCHEMA)),
        (POOLED, pa.Table.from_pylist(list(_pooled(filled)), schema=POOLED_SCHEMA)),
        (FILE, pa.Table.from_pylist(filled, schema=SCHEMA)),  # last: it marks the shard as complete
    ):
        _write(table, folder, kind, shard)


def _write(table: pa.Table, folder: str | Path, kind: str, shard: int) -> None:
    with atomic_path(_shard(folder, kind, shard), keep_suffix=False) as path:  # so that Parquet readers ignore it
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def _pooled(rows: Iterable[Row]) -> Iterator[Row]:
    """A row for each clip, modality and space, texts left out."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["modality"] != "text":
            groups[row["id"], row["modality"], row["space"]].append(row)
    for some in groups.values():
        mean = np.mean([row["vector"] for row in some], axis=0)
        yield some[0] | {"end_s": max(row["end_s"] for row in some), "windows": len(some), "vector": mean}


def remove_crashed(folder: str | Path, shard: int, crashed: Sequence[Event]) -> None:
    """Remove the windows of clips whose files crashed a process from a complete shard. Texts are kept.

    Args:
        folder: Directory of the embeddings.
        shard: Number of the shard.
        crashed: One event per clip. They replace the other events of these clips.
    """
    ids = pa.array([event["id"] for event in crashed])
    is_crashed = pc.is_in(pc.field("id"), ids)
    errors = read_table(_shard(folder, ERRORS, shard), ERROR_SCHEMA)
    added = pa.Table.from_pylist(list(crashed), schema=ERROR_SCHEMA)
    rows = read_table(_shard(folder, FILE, shard), SCHEMA)
    pooled = read_table(_shard(folder, POOLED, shard), POOLED_SCHEMA)
    for kind, before, table in (
        (POOLED, pooled, pooled.filter(~is_crashed)),
        (FILE, rows, rows.filter(~is_crashed | (pc.field("modality") == "text"))),
        (ERRORS, errors, pa.concat_tables([errors.filter(~is_crashed), added])),
    ):
        if not table.equals(before):
            _write(table, folder, kind, shard)


def missing_shards(folder: str | Path, count: int) -> list[int]:
    """Return the numbers of missing shards in [0, count)."""
    return [shard for shard in range(count) if not _shard(folder, FILE, shard).is_file()]


def read_notes(folder: str | Path) -> dict[str, Any]:
    """Read the metadata in ``embeddings.json``; an empty dict if there is no such file.

    Raises:
        StoreError: The file is damaged.
    """
    file = Path(folder) / NOTES
    try:
        notes = read_json(inner_file(folder, NOTES), MAX_NOTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except InputError as error:
        raise StoreError(str(error)) from error
    plan, roots, modalities = notes.get("plan"), notes.get("roots", []), notes.get("modalities", [])
    valid = {
        "plan": plan is None or (isinstance(plan, dict) and type(plan.get("shards")) is int),
        "modalities": isinstance(modalities, list) and all(isinstance(name, str) for name in modalities),
        "complete": isinstance(notes.get("complete", True), bool),
        "roots": isinstance(roots, list) and all(isinstance(root, str) for root in roots) and len(roots) <= MAX_ROOTS,
        **{key: isinstance(notes.get(key, ""), str | None) for key in ("model_folder", "folder", "source", "model")},
    }
    wrong = [key for key, is_valid in valid.items() if not is_valid]
    wrong += [key for key in ("model_folder", "folder") if not wrong and notes.get(key) and "\0" in notes[key]]
    wrong += ["roots"] if not wrong and not all(is_absolute(root) and "\0" not in root for root in roots) else []
    if wrong:
        raise StoreError(f"{file} is damaged: {wrong[0]!r} is {str(notes.get(wrong[0]))[:80]!r}")
    return notes


def write_notes(folder: str | Path, notes: dict[str, Any]) -> None:
    """Replace the metadata in ``embeddings.json``.

    Raises:
        WriteError: The disk is full or read-only.
    """
    with atomic_write(Path(folder) / NOTES, "w") as file:
        json.dump(notes, file, indent=1)


def tidy(folder: str | Path) -> None:
    """Delete leftovers of killed processes. No other process may be writing to the directory."""
    folder = Path(folder)
    for file in (*folder.glob(".embeddings.*.part.json"), *folder.glob("*.parquet/.*.part")):
        file.unlink(missing_ok=True)


def read_errors(folder: str | Path) -> list[Event]:
    """Return the errors of all clips, shard by shard.

    Raises:
        StoreError: A file is damaged.
    """
    files = sorted(file for file in (Path(folder) / ERRORS).glob("*.parquet") if not file.name.startswith("."))
    tables = [read_table(file, ERROR_SCHEMA) for file in files]
    return pa.concat_tables(tables).to_pylist() if tables else []


def _shard(folder: str | Path, kind: str, shard: int) -> Path:
    return Path(folder) / kind / f"{shard:05d}.parquet"
