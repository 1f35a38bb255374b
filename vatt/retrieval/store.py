"""The file embeddings are kept in: one Parquet row a vector, readable by anything that reads Parquet.

Columns: ``id`` of the clip, ``path``, ``start_s``, ``end_s``, ``modality`` (video, audio, text), ``space``
(video_audio, video_text), ``text`` (for texts), ``vector`` (float32, not normalised: compare by cosine) and ``model``
(fingerprint of the model that made it).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.errors import VattError

FILE = "embeddings.parquet"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("modality", pa.string()),
        ("space", pa.string()),
        ("text", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("model", pa.string()),
    ]
)


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


class EmbeddingWriter:
    """Writes a store, whole or not at all. Use it in a ``with`` statement.

    Args:
        folder: gets ``embeddings.parquet``.
        model: fingerprint that every row bears.
    """

    def __init__(self, folder: str | Path, model: str) -> None:
        self.file, self.model, self.rows = Path(folder) / FILE, model, 0
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished = self.file.with_suffix(".part")
        self._writer = pq.ParquetWriter(self._unfinished, SCHEMA, compression="zstd")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows as dicts with the columns of the store, but for ``model``."""
        rows = [{"text": None, **row, "model": self.model} for row in rows]
        if rows:
            self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            self.rows += len(rows)

    def __enter__(self) -> EmbeddingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            os.replace(self._unfinished, self.file)
        else:
            self._unfinished.unlink()


class Embeddings:
    """A store that is read.

    Args:
        source: the folder, or the Parquet file in it.

    Raises:
        StoreError: there is none, it is damaged or empty, or rows come from several models.
    """

    def __init__(self, source: str | Path) -> None:
        self.file = Path(source) / FILE if Path(source).is_dir() else Path(source)
        if not self.file.is_file():
            raise StoreError(f"no embeddings at {self.file}; make them with: vatt embed PATH --model DIR --output DIR")
        try:
            self.table = pq.read_table(self.file, schema=SCHEMA)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise StoreError(f"{self.file} is damaged or holds no embeddings: {error}") from error
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
