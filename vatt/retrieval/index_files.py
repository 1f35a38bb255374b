"""The directory of an index: ``index.json`` and the files that it names, read without trusting them.

``index.json`` names the files of every part with their sizes and SHA-256 hashes. New files have new names, the record
is written last, and then the old files are deleted: after an interruption the index is the old one or the new one. It
also records the model, the roots of the media, and the directory itself (see `vatt.retrieval.store`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from vatt.errors import InputError
from vatt.io import atomic_write, file_hash
from vatt.locks import LOCK
from vatt.models.vatt import SPACES
from vatt.retrieval.faiss_files import FileMismatch
from vatt.retrieval.paths import MAX_ROOTS, is_absolute
from vatt.retrieval.tables import StoreError
from vatt.retrieval.vectors import Kind, Vectors
from vatt.structures import MODALITIES
from vatt.untrusted import inner_file, read_json

FILE, VERSION = "index.json", 4
READERS = 4  # files that are hashed at the same time
_STEM = r"(?:video|audio|text)\.[a-z_]+\.\d{1,9}"
_NAME = re.compile(rf"{_STEM}\.(?:parquet|faiss|hnsw|ivfpq)")  # of the files of a part
_UNFINISHED = re.compile(rf"\.(?:index|{_STEM})\.[0-9a-f]+\.part\.\w+")


@dataclass(frozen=True)
class PartRecord:
    """Record of a part in ``index.json``.

    Args:
        modality, space: Of the vectors.
        kind: Structure.
        vectors: Number of searchable rows.
        removed: Number of rows that were removed.
        width: E.
        files: Size in bytes and SHA-256 by name.
    """

    modality: str
    space: str
    kind: Kind
    vectors: int
    removed: int
    width: int
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class IndexRecord:
    """Contents of ``index.json``.

    Args:
        number: Number of times the index was written.
        model: Hash of the model that made the vectors.
        model_folder: Absolute path of that model when the index was written, or None.
        folder: Absolute path of the index when it was written.
        roots: Directories and URL prefixes that all media lie below.
        parts: By modality and space.
    """

    number: int
    model: str
    model_folder: str | None
    folder: str
    roots: list[str]
    parts: list[PartRecord]


def read_record(folder: Path) -> IndexRecord:
    """Read ``index.json``.

    Raises:
        StoreError: It is missing, damaged, or of another version.
    """
    path = folder / FILE
    try:
        values = read_json(inner_file(folder, FILE))
    except FileNotFoundError:
        raise StoreError(f"no index at {folder}; build one with: vatt index EMBEDDINGS --output {folder}") from None
    except InputError as error:
        raise StoreError(str(error)) from error
    if values.get("version") != VERSION:
        raise StoreError(f"{folder} was made by another version of vatt: build it again with vatt index")
    record = IndexRecord(
        number=_value(values, "number", int, path),
        model=_value(values, "model", str, path),
        model_folder=None if values.get("model_folder") is None else _value(values, "model_folder", str, path),
        folder=_value(values, "folder", str, path),
        roots=_value(values, "roots", list, path),
        parts=[_part(part, path) for part in _value(values, "parts", list, path)],
    )
    if len({(part.modality, part.space) for part in record.parts}) < len(record.parts):
        raise StoreError(f"{path} is damaged: duplicate part")
    for name in (record.folder, *record.roots, *([record.model_folder] if record.model_folder is not None else [])):
        if not isinstance(name, str) or not is_absolute(name) or "\0" in name:
            raise StoreError(f"{path} is damaged: {str(name)[:100]!r} is not an absolute path")
    if len(record.roots) > MAX_ROOTS or len(record.model) > 64:
        raise StoreError(f"{path} is damaged: more than {MAX_ROOTS} roots, or a model hash longer than 64 characters")
    return record


def write_index(folder: Path, record: IndexRecord, parts: dict[tuple[str, str], Vectors]) -> IndexRecord:
    """Write the files of an index.

    The caller holds the lock of the directory.

    Args:
        folder: Directory of the index.
        record: Record without number and parts.
        parts: Vectors by modality and space.

    Returns:
        ``record``, completed with its number and parts.

    Raises:
        WriteError: The disk is full or read-only; the old index is unchanged.
    """
    number, records = _last_number(folder) + 1, []
    with ExitStack() as stack:
        for (modality, space), part in parts.items():
            stem = folder / f"{modality}.{space}.{number}"
            stack.callback(_delete, [Path(f"{stem}.{suffix}") for suffix in ("parquet", "faiss", *get_args(Kind))])
            files = {file.name: (file.stat().st_size, file_hash(file)) for file in part.save(stem)}
            removed = int((~part.kept).sum())
            records.append(PartRecord(modality, space, part.kind, len(part), removed, part.width, files))
        record = replace(record, number=number, parts=records)
        with atomic_write(folder / FILE, "w") as file:
            json.dump({"version": VERSION, "measure": "cosine", **asdict(record)}, file, indent=1)
        stack.pop_all()
    named = {name for part in records for name in part.files} | {FILE, LOCK}
    _delete([path for path in folder.iterdir() if path.name not in named and not is_foreign(path)])
    return record


def is_changed(folder: Path, record: IndexRecord) -> bool:
    """Return whether an index has changed since its record was read; False if it is missing or damaged.

    Args:
        folder: Directory of the index.
        record: Record that was read from it before.
    """
    try:
        return read_record(folder) != record
    except StoreError:
        return False


def load_part(folder: Path, record: PartRecord, mapped: bool, verify: bool) -> Vectors:
    """Read the files of a part.

    Args:
        folder: Directory of the index.
        record: Record of the part.
        mapped: Map the files into memory.
        verify: Compare the files with their checksums.

    Raises:
        StoreError: A file is missing or damaged; the message names it.
    """
    name = f"{folder}: {record.modality}.{record.space} is missing or damaged"
    try:
        files = [inner_file(folder, file) for file in record.files]
        for file, (size, _) in zip(files, record.files.values(), strict=True):
            if file.stat().st_size != size:
                raise StoreError(f"{name}: {file.name} has {file.stat().st_size} bytes instead of {size}")
        if verify:
            with ThreadPoolExecutor(READERS) as pool:
                for (file, (_, digest)), actual in zip(record.files.items(), pool.map(file_hash, files), strict=True):
                    if actual != digest:
                        raise StoreError(f"{name}: the SHA-256 of {file} differs from {FILE}")
        part = Vectors.load(files, record.kind, mapped, verify)
    except FileNotFoundError as error:
        raise StoreError(f"{name}: there is no {Path(str(error.filename)).name}") from error
    except (InputError, FileMismatch, RuntimeError, OSError, pa.ArrowException) as error:
        raise StoreError(f"{name}: {(str(error).splitlines() or [''])[0][:300]}") from error
    counts = (part.total, record.vectors + record.removed)
    if counts[0] != counts[1] or len(part) != record.vectors or part.width != record.width:
        expected = f"{FILE} has {counts[1]} of {record.width}"
        raise StoreError(f"{name}: it has {part.total} rows of {part.width} dimensions, but {expected}")
    return part


def is_foreign(path: Path) -> bool:
    """Return whether a file is neither part of an index nor left over from an interrupted write."""
    return path.name != LOCK and not _NAME.fullmatch(path.name) and not _UNFINISHED.fullmatch(path.name)


def _part(values: Any, path: Path) -> PartRecord:
    if not isinstance(values, dict):
        raise StoreError(f"{path} is damaged: a part is not a JSON object")
    texts = {key: _value(values, key, str, path) for key in ("modality", "space", "kind")}
    counts = {key: _value(values, key, int, path) for key in ("vectors", "removed", "width")}
    files = {}
    for name, facts in _value(values, "files", dict, path).items():
        if not isinstance(facts, list) or [type(fact) for fact in facts] != [int, str]:
            raise StoreError(f"{path} is damaged: {name[:100]!r} has no size and SHA-256")
        if not _NAME.fullmatch(name) or not name.startswith(f"{texts['modality']}.{texts['space']}."):
            raise StoreError(f"{path} is damaged: {name[:100]!r} is not a file of an index")
        files[name] = (facts[0], facts[1])
    kind = texts["kind"]
    known = texts["modality"] in MODALITIES and texts["space"] in SPACES and kind in get_args(Kind)
    suffixes = ["parquet", "faiss", *([] if kind == "flat" else [kind])]
    if not known or [name.rpartition(".")[2] for name in files] != suffixes or min(counts.values()) < 0:
        raise StoreError(f"{path} is damaged: a part has an unknown modality, space or kind, or wrong files")
    return PartRecord(**texts, **counts, files=files)  # type: ignore[arg-type]


def _value(values: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    value = values.get(key)
    if type(value) is not kind:
        raise StoreError(f"{path} is damaged: {key!r} is {str(value)[:50]!r}, not a {kind.__name__}")
    return value


def _last_number(folder: Path) -> int:
    """Return the largest number of existing files."""
    return max((int(path.name.split(".")[2]) for path in folder.iterdir() if _NAME.fullmatch(path.name)), default=0)


def _delete(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
