"""The directory of embeddings: Parquet files with one row per vector.

``embeddings.parquet``, ``pooled.parquet`` and ``errors.parquet`` are directories of shards, ``00000.parquet`` and so
on, each with the same number of clips of the manifest. Shards are written atomically, embeddings last, so that an
interrupted run is resumed at the first missing shard. ``embeddings.json`` has the source, the model and the options.

Columns: ``id`` of the clip, ``path``, ``start_s``, ``end_s``, ``modality`` (video, audio, text), ``space``
(video_audio, video_text), ``text`` (for texts), ``extra`` (other columns of the manifest as JSON: split, labels and
columns x_…), ``vector`` (float32, not normalized: compare by cosine) and ``model`` (hash of the model). Pooled
embeddings have one row per clip, modality and space: the mean of ``windows`` windows, from the start of the first to
the end of the last. Errors have ``kind`` (unreadable, damaged, truncated, skipped), ``id``, ``path`` and ``reason``.

Paths of media and of the model are absolute and normalized; symbolic links are kept, and URLs are unchanged. A clip in
a shard is ``/directory/file.tar#offset+size``. In your own Parquet file, a relative path starts from the directory of
the file. ``embeddings.json`` and ``index.json`` also record

- their directory (``folder``) when they were written. If a file is not at its absolute path, it is looked for at the
  same position relative to the embeddings or the index, so that a directory that contains both can be moved;
- the directories (``roots``) that contain all media: the folder that was embedded, or the directories of the files of a
  manifest. Rows with files outside are refused.

Only one process at a time writes a part (``--part 3/8``) of embeddings, and all processes use the same number of parts
of the same plan. Locks are files that begin with a dot; the operating system releases the locks of a process that ends.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.errors import DirectoryInUse, InputError, WriteError
from vatt.io import atomic_path, atomic_write
from vatt.locks import DirectoryLock
from vatt.retrieval.hits import ROWS
from vatt.retrieval.paths import MAX_ROOTS, Location, absolute, is_absolute
from vatt.retrieval.rows import check_paths, map_paths
from vatt.retrieval.tables import StoreError, read_rows, read_table
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
        ("text", pa.string()),
        ("extra", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("model", pa.string()),
    ]
)
POOLED_SCHEMA = SCHEMA.remove(SCHEMA.get_field_index("text")).insert(4, pa.field("windows", pa.int32()))
ERROR_SCHEMA = pa.schema([(name, pa.string()) for name in ("kind", "id", "path", "reason")])
MAX_NOTES = 2**24  # bytes of embeddings.json
CLAIM, WAIT_S = ".claim.lock", 60.0  # lock that is held during `claim`, and its timeout
_PART_LOCK = re.compile(r"\.part-(\d+)-of-(\d+)\.lock")


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
        model: Hash of the model, stored in every row.
        rows: dicts with the columns of the store, but for ``model``.
        events: what went wrong with its clips.
        shard: its number.

    Raises:
        WriteError: The disk is full or read-only.
    """
    filled = [{"text": None, "extra": None, **row, "model": model} for row in rows]
    for kind, table in (
        (ERRORS, pa.Table.from_pylist(list(events), schema=ERROR_SCHEMA)),
        (POOLED, pa.Table.from_pylist(list(_pooled(filled)), schema=POOLED_SCHEMA)),
        (FILE, pa.Table.from_pylist(filled, schema=SCHEMA)),  # last: it marks the shard as complete
    ):
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


def claim(
    folder: str | Path, plan: dict[str, Any], notes: dict[str, Any], overwrite: bool = False, busy: bool = False
) -> None:
    """Prepare a directory for new embeddings, or resume interrupted ones.

    Args:
        folder: Directory of the embeddings.
        plan: Everything that the vectors depend on, and the number of ``shards``.
        notes: Other metadata.
        overwrite: Delete existing embeddings.
        busy: Other processes are writing parts of the same embeddings.

    Raises:
        StoreError: The directory has other embeddings.
        DirectoryInUse: Other embeddings are being written to it.
        WriteError: The disk is full or read-only.
    """
    folder = Path(folder)
    known = read_notes(folder).get("plan", {})
    other = sorted(key for key in {*known, *plan} if known.get(key) != plan.get(key))
    if other and busy:
        raise DirectoryInUse(
            f"another process is writing other embeddings to {folder} ({', '.join(other)} differ): choose another "
            "--output"
        )
    if other and not overwrite and (folder / FILE).exists():
        raise StoreError(
            f"{folder} has other embeddings ({', '.join(other)} differ): choose another --output, or give "
            "--overwrite true"
        )
    if not busy:
        tidy(folder)
    if other or overwrite:
        # Embeddings are deleted last: while some exist, no others are started in the directory.
        for name in (NOTES, ERRORS, POOLED, FILE):
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        write_notes(folder, {"plan": plan, "complete": False, **notes})


class PartLock:
    """Exclusive right to write a part of embeddings, held until `release` or the end of the process.

    Args:
        folder: Directory of the embeddings.
        part: (3, 8) is the third of eight parts.
    """

    def __init__(self, folder: Path, part: tuple[int, int]) -> None:
        self.folder, self.name = folder, f".part-{part[0]}-of-{part[1]}.lock"
        self._lock = DirectoryLock(folder, self.name)

    def acquire(self) -> None:
        """Take the lock while the claim lock is held. Raises `DirectoryInUse` if another process has it."""
        self._lock.acquire()

    def release(self) -> None:
        """Release the lock and delete its file."""
        with _claim_lock(self.folder):
            self.drop()

    def drop(self) -> None:
        """Release the lock while the claim lock is held, which protects its file."""
        self._lock.release()
        (self.folder / self.name).unlink(missing_ok=True)

    def __enter__(self) -> PartLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim_part(
    folder: str | Path, part: tuple[int, int], plan: dict[str, Any], notes: dict[str, Any], overwrite: bool = False
) -> PartLock:
    """Lock a part of the embeddings for this process, and prepare the directory as `claim` does.

    Args:
        folder: Directory of the embeddings.
        part: (3, 8) is the third of eight parts; the other seven may be written at the same time.
        plan, notes, overwrite: See `claim`.

    Returns:
        The lock, which is held until it is released or the process ends.

    Raises:
        DirectoryInUse: Another process is writing this part, or uses a different number of parts.
        StoreError, WriteError: See `claim`.
    """
    folder = Path(folder)
    lock = PartLock(folder, part)
    with _claim_lock(folder):
        others = [file for file in _part_locks(folder) if file.name != lock.name]
        busy = [file for file in others if _is_held(file)]
        if any(int(_PART_LOCK.fullmatch(file.name)[2]) != part[1] for file in busy):  # type: ignore[index]
            raise DirectoryInUse(
                f"another process is writing to {folder} with a different number of parts than {part[1]} (--part): "
                "wait until it has ended, or choose another --output"
            )
        lock.acquire()
        with ExitStack() as stack:
            stack.callback(lock.drop)
            claim(folder, plan, notes, overwrite, busy=bool(busy))
            stack.pop_all()
    return lock


def is_being_written(folder: str | Path) -> bool:
    """Return whether a process is writing embeddings to a directory."""
    try:
        with _claim_lock(Path(folder)):
            return any(map(_is_held, _part_locks(Path(folder))))
    except (WriteError, PermissionError):  # the directory is not writable
        return False


def _claim_lock(folder: Path) -> DirectoryLock:
    """Take the lock for locking parts; others hold it only briefly."""
    lock, end = DirectoryLock(folder, CLAIM), time.monotonic() + WAIT_S
    while True:
        try:
            return lock.acquire()
        except DirectoryInUse:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _part_locks(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(".part-*.lock") if _PART_LOCK.fullmatch(file.name))


def _is_held(lock: Path) -> bool:
    try:
        DirectoryLock(lock.parent, lock.name).acquire().release()
    except DirectoryInUse:
        return True
    return False


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
    plan, roots = notes.get("plan"), notes.get("roots", [])
    valid = {
        "plan": plan is None or (isinstance(plan, dict) and type(plan.get("shards")) is int),
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

    @property
    def model_folder(self) -> Path | None:
        """Return the directory of the model, or None if it is unknown."""
        folder = self.notes.get("model_folder")
        return Path(self.location.resolve(absolute(folder, self.location.folder))) if folder else None
