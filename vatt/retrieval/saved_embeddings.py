"""Embeddings in a directory, for reading."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.errors import DirectoryInUse, InputError
from vatt.retrieval.claims import is_being_written
from vatt.retrieval.paths import Location, absolute
from vatt.retrieval.results import ROWS
from vatt.retrieval.rows import ClipKey, check_paths, clips_of, equal_clips, map_paths
from vatt.retrieval.store import FILE, SCHEMA, read_notes
from vatt.retrieval.tables import StoreError, read_rows
from vatt.untrusted import inner_file


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


class Embeddings:
    """Embeddings that are read from disk. The files are not trusted.

    Args:
        source: Directory of the embeddings, or a Parquet file.

    Attributes:
        table: All rows, with absolute paths.
        model: Hash of the model that made them.
        notes: Metadata in ``embeddings.json``.
        location: Their directory, now and when they were written.

    Raises:
        StoreError: They are missing, incomplete, damaged, empty, or from several models.
        DirectoryInUse: They are being written.
    """

    def __init__(self, source: str | Path) -> None:
        source = Path(source)
        self.file = source / FILE if (source / FILE).exists() else source
        folder = self.file.parent
        if self.file.is_symlink() and self.file.resolve().parent != folder.resolve():
            raise StoreError(f"{self.file} is a link to {self.file.resolve()}, outside its directory: give that path")
        self.notes, self.name = read_notes(folder), str(self.file)
        self.location = Location(absolute(folder), self.notes.get("folder"))
        files = sorted(self.file.glob("*.parquet")) if self.file.is_dir() else [self.file]
        files = [file for file in files if not file.name.startswith(".")]
        if not files or not files[0].is_file():
            raise StoreError(f"no embeddings at {source}; compute them with: vatt embed PATH --model DIR --output DIR")
        if not self.notes.get("complete", True):
            if is_being_written(folder):
                raise DirectoryInUse(f"{source} is being written by another process: wait until it has ended")
            total = self.notes.get("plan", {}).get("shards", "unknown")
            raise StoreError(
                f"{source} is incomplete ({len(files)} of {total} shards): run the same vatt embed command to resume"
            )
        self.table = pa.concat_tables(map(self._read, files))
        if self.table.num_rows == 0:
            raise StoreError(f"{self.file} has no embeddings")
        models = pc.unique(self.table.column("model")).to_pylist()
        if len(models) > 1:
            raise StoreError(f"{self.file} mixes vectors of several models: {', '.join(models[:5])}")
        self.model: str = models[0]

    def _read(self, file: Path) -> pa.Table:
        """Read the rows of a file, with absolute paths."""
        try:
            rows = read_rows(inner_file(file.parent, file.name), SCHEMA)
        except InputError as error:
            raise StoreError(str(error)) from error
        rows = map_paths(rows, lambda path: absolute(path, self.location.folder))
        if self.declared_roots:
            check_paths(rows.column("path"), self.declared_roots, str(file))
        return rows

    @property
    def declared_roots(self) -> tuple[str, ...]:
        """Directories and URL prefixes that contain all media, as stored in ``embeddings.json``; may be empty."""
        return tuple(self.notes.get("roots", ()))

    def kinds(self) -> list[tuple[str, str]]:
        """Return the pairs (modality, space) of the embeddings."""
        pairs = self.table.group_by(["modality", "space"]).aggregate([]).to_pylist()
        return sorted((row["modality"], row["space"]) for row in pairs)

    def select(self, modality: str, space: str) -> Rows:
        """The vectors of one modality in one space.

        Raises:
            StoreError: there are none, or they differ in length.
        """
        chosen = self.table.filter((pc.field("modality") == modality) & (pc.field("space") == space))
        if chosen.num_rows == 0:
            available = ", ".join(f"{m} in {s}" for m, s in self.kinds())
            raise StoreError(f"{self.file} has no {modality} in the {space} space; it has {available}")
        column = chosen.column("vector").combine_chunks()
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) > 1:
            raise StoreError(f"{self.file}: vectors of {modality} in {space} differ in length: {lengths}")
        vectors = column.flatten().to_numpy().reshape(chosen.num_rows, lengths[0])
        return Rows(chosen.drop_columns(["vector"]), np.ascontiguousarray(vectors, dtype=np.float32))

    def vectors(self, kind: tuple[str, str]) -> tuple[np.ndarray, pa.Table]:
        """Return (N, E) float32 vectors of a modality in a space, and their rows as an index stores them."""
        rows = self.select(*kind)
        return rows.vectors, rows.table.select(ROWS)

    def rows(self, kind: tuple[str, str]) -> pa.Table:
        """Return the rows of `vectors` as an index stores them."""
        chosen = (pc.field("modality") == kind[0]) & (pc.field("space") == kind[1])
        return self.table.select([*ROWS, "modality", "space"]).filter(chosen).select(ROWS)

    def clips(self, rows: Rows) -> list[str]:
        """Return the clip of each row, as the id of the first clip with the same file and segment.

        Args:
            rows: Rows of these embeddings.
        """
        names = zip(rows.column("id"), rows.column("path"), strict=True)
        return [self._first_ids[name] for name in names]

    @property
    def num_repeated(self) -> int:
        """Number of clips with the same file and segment as an earlier one."""
        return len(self._first_ids) - len(set(self._first_ids.values()))

    @cached_property
    def _first_ids(self) -> dict[ClipKey, str]:
        parts = {kind: self.rows(kind) for kind in self.kinds()}
        firsts = equal_clips(clips_of(parts))
        ids = [name for name, _ in dict.fromkeys(firsts.values())]
        duplicates = {name for name, count in Counter(ids).items() if count > 1}  # of different files
        return {clip: "\0".join(first) if first[0] in duplicates else first[0] for clip, first in firsts.items()}

    @property
    def model_folder(self) -> Path | None:
        """Return the directory of the model, or None if it is unknown."""
        folder = self.notes.get("model_folder")
        return Path(self.location.resolve(absolute(folder, self.location.folder))) if folder else None
