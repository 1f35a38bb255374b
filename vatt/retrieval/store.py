"""The folder embeddings are kept in: Parquet, one row a vector, readable by anything that reads Parquet.

``embeddings.parquet``, ``pooled.parquet`` and ``errors.parquet`` are folders of shards, ``00000.parquet`` and so on,
one for so many clips of the manifest. A shard is written whole or not at all, its embeddings last, so that what was
stopped is gone on with at the first shard that is not there. ``embeddings.json`` says of what, by which model and how
they were made.

Columns: ``id`` of the clip, ``path``, ``start_s``, ``end_s``, ``modality`` (video, audio, text), ``space``
(video_audio, video_text), ``text`` (for texts), ``extra`` (what else the manifest says of the clip, as JSON: split,
labels and columns x_…), ``vector`` (float32, not normalised: compare by cosine) and ``model`` (fingerprint of the model
that made it). Pooled are the windows of a clip, one row for each modality and space: their mean, ``windows`` of them,
from the beginning of the first to the end of the last. Of errors: ``kind`` (unreadable, damaged, truncated, skipped),
``id``, ``path`` and ``reason``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.errors import VattError
from vatt.retrieval.hits import ROWS
from vatt.structures import Event

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
        ("text", pa.string()),
        ("extra", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("model", pa.string()),
    ]
)
POOLED_SCHEMA = SCHEMA.remove(SCHEMA.get_field_index("text")).insert(4, pa.field("windows", pa.int32()))
ERROR_SCHEMA = pa.schema([(name, pa.string()) for name in ("kind", "id", "path", "reason")])


class StoreError(VattError, ValueError):
    """Embeddings that are missing, damaged, or of several models."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a store.

    Args:
        table: every column but the vectors.
        vectors: (N, E) float32, in the order of the table.
    """

    table: pa.Table
    vectors: np.ndarray

    def column(self, name: str) -> list[Any]:
        return self.table.column(name).to_pylist()


def write_shard(
    folder: str | Path, model: str, rows: Iterable[Row], events: Iterable[Event] = (), shard: int = 0
) -> None:
    """Write a shard, whole or not at all.

    Args:
        folder: of the embeddings.
        model: fingerprint that every row bears.
        rows: dicts with the columns of the store, but for ``model``.
        events: what went wrong with its clips.
        shard: its number.
    """
    filled = [{"text": None, "extra": None, **row, "model": model} for row in rows]
    for kind, table in (
        (ERRORS, pa.Table.from_pylist(list(events), schema=ERROR_SCHEMA)),
        (POOLED, pa.Table.from_pylist(list(_pooled(filled)), schema=POOLED_SCHEMA)),
        (FILE, pa.Table.from_pylist(filled, schema=SCHEMA)),  # the last: it says that the shard is done
    ):
        file = _shard(folder, kind, shard)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.stem}.{os.getpid()}.part")  # readers of folders leave out such names
        pq.write_table(table, unfinished, compression="zstd")
        os.replace(unfinished, file)


def _pooled(rows: Iterable[Row]) -> Iterator[Row]:
    """A row for each clip, modality and space, texts left out."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row["modality"] != "text":
            groups[row["id"], row["modality"], row["space"]].append(row)
    for some in groups.values():
        mean = np.mean([row["vector"] for row in some], axis=0)
        yield some[0] | {"end_s": max(row["end_s"] for row in some), "windows": len(some), "vector": mean}


def claim(folder: str | Path, plan: dict[str, Any], notes: dict[str, Any], overwrite: bool = False) -> None:
    """Take a folder for what is going to be embedded, or go on with what was begun there.

    Args:
        folder: of the embeddings.
        plan: all that the vectors depend on, and the number of ``shards``.
        notes: what else is noted beside them.
        overwrite: delete embeddings that are there.

    Raises:
        StoreError: the folder has other embeddings.
    """
    folder = Path(folder)
    known = read_notes(folder).get("plan", {})
    other = sorted(key for key in {*known, *plan} if known.get(key) != plan.get(key))
    if other and not overwrite and (folder / FILE).exists():
        raise StoreError(
            f"{folder} has other embeddings ({', '.join(other)} differ): choose another --output, or give "
            "--overwrite true"
        )
    if other or overwrite:
        # Embeddings are the last to go: while some are there, nothing else is begun in the folder.
        for name in (NOTES, ERRORS, POOLED, FILE):
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        write_notes(folder, {"plan": plan, "complete": False, **notes})


def missing_shards(folder: str | Path, count: int) -> list[int]:
    """The numbers of the shards, of so many, that are not there."""
    return [shard for shard in range(count) if not _shard(folder, FILE, shard).is_file()]


def read_notes(folder: str | Path) -> dict[str, Any]:
    """What is noted beside embeddings; nothing, if there are no notes."""
    file = Path(folder) / NOTES
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_notes(folder: str | Path, notes: dict[str, Any]) -> None:
    """Note something beside embeddings, in place of what was noted."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished, written = folder / f".{NOTES}.{os.getpid()}.part", False
    while not written:
        unfinished.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        with suppress(FileNotFoundError):  # another process took it for one that was left behind
            os.replace(unfinished, folder / NOTES)
            written = True


def tidy(folder: str | Path) -> None:
    """Delete what killed processes left unfinished; for when every shard is there."""
    folder = Path(folder)
    for left in (*folder.glob(f".{NOTES}.*.part"), *folder.glob("*.parquet/.*.part")):
        left.unlink(missing_ok=True)


def read_errors(folder: str | Path) -> list[Event]:
    """What went wrong, shard by shard.

    Raises:
        StoreError: a file is damaged.
    """
    return _read(sorted((Path(folder) / ERRORS).glob("*.parquet")), ERROR_SCHEMA).to_pylist()


def _shard(folder: str | Path, kind: str, shard: int) -> Path:
    return Path(folder) / kind / f"{shard:05d}.parquet"


def _read(files: Sequence[Path], schema: pa.Schema) -> pa.Table:
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file, schema=schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise StoreError(f"{file} is damaged or holds no embeddings: {error}") from error
    return pa.concat_tables(tables) if tables else schema.empty_table()


class Embeddings:
    """A store that is read.

    Args:
        source: the folder, or a Parquet file.

    Raises:
        StoreError: there is none, it is not complete, damaged or empty, or rows come from several models.
    """

    def __init__(self, source: str | Path) -> None:
        source = Path(source)
        self.file = source / FILE if (source / FILE).exists() else source
        self.notes, self.name = read_notes(self.file.parent), str(self.file)
        files = sorted(self.file.glob("*.parquet")) if self.file.is_dir() else [self.file]
        if not files or not files[0].is_file():
            raise StoreError(f"no embeddings at {source}; make them with: vatt embed PATH --model DIR --output DIR")
        if not self.notes.get("complete", True):
            there = f"{len(files)} of {self.notes['plan']['shards']} shards"
            raise StoreError(f"{source} has {there}: vatt embed was stopped, and the same command goes on with it")
        self.table = _read(files, SCHEMA)
        if self.table.num_rows == 0:
            raise StoreError(f"{self.file} holds no embedding")
        models = pc.unique(self.table.column("model")).to_pylist()
        if len(models) > 1:
            raise StoreError(f"{self.file} mixes vectors of several models: {', '.join(models)}")
        self.model: str = models[0]

    def kinds(self) -> list[tuple[str, str]]:
        """The pairs (modality, space) that there are."""
        pairs = self.table.group_by(["modality", "space"]).aggregate([]).to_pylist()
        return sorted((row["modality"], row["space"]) for row in pairs)

    def select(self, modality: str, space: str) -> Rows:
        """The vectors of one modality in one space.

        Raises:
            StoreError: there are none, or they differ in length.
        """
        chosen = self.table.filter((pc.field("modality") == modality) & (pc.field("space") == space))
        if chosen.num_rows == 0:
            there = ", ".join(f"{m} in {s}" for m, s in self.kinds())
            raise StoreError(f"{self.file} has no {modality} in the {space} space; it has {there}")
        column = chosen.column("vector").combine_chunks()
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) > 1:
            raise StoreError(f"{self.file}: vectors of {modality} in {space} differ in length: {lengths}")
        vectors = column.flatten().to_numpy().reshape(chosen.num_rows, lengths[0])
        return Rows(chosen.drop_columns(["vector"]), np.ascontiguousarray(vectors, dtype=np.float32))

    def vectors(self, kind: tuple[str, str]) -> tuple[np.ndarray, pa.Table]:
        """(N, E) float32 of a modality in a space, and their rows as an index keeps them."""
        rows = self.select(*kind)
        return rows.vectors, rows.table.select(ROWS)

    @property
    def model_folder(self) -> Path | None:
        """Where the model was, if that was noted."""
        folder = self.notes.get("model_folder")
        return Path(folder) if folder else None
