"""Indexes of vectors with their files, segments and model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from vatt.errors import DirectoryInUse, InputError
from vatt.locks import DirectoryLock
from vatt.retrieval.filters import RelativePattern, describe_filters, example_paths, matches_condition, matches_pattern
from vatt.retrieval.index_files import FILE, IndexRecord, is_changed, is_foreign, load_part, read_record, write_index
from vatt.retrieval.paths import Location, absolute, is_missing, parent_directory, roots_of
from vatt.retrieval.results import Result, to_results
from vatt.retrieval.rows import (
    ClipKey,
    check_paths,
    clips_of,
    distinct_paths,
    is_clip,
    map_paths,
    moved_rows,
    replaced_clips,
)
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.tables import StoreError
from vatt.retrieval.vectors import IndexMismatch, Kind, Vectors, unit

Choice = Kind | Literal["auto"]


class Index:
    """Cosine search over windows and texts, one structure for each modality and space.

    Attributes:
        model: Hash of the model that made the vectors.
        model_folder: Directory of that model, now or when the index was built, or None.
        parts: Vectors by modality and space.
        name: Directory that the index was read from.
        location: That directory, now and when it was written (see `vatt.retrieval.store`).
        replaced: Number of vectors that `build` and `add` have replaced by those of the same clips.
    """

    def __init__(
        self,
        parts: dict[tuple[str, str], Vectors],
        model: str,
        model_folder: Path | None,
        name: str = "the index",
        roots: Sequence[str] = (),
        location: Location | None = None,
    ) -> None:
        self.parts, self.model, self.model_folder, self.name = parts, model, model_folder, name
        self.location, self._roots = location or Location(absolute(".")), tuple(roots)
        self._record: IndexRecord | None = None  # of the directory that it was read from
        self.replaced = 0

    @classmethod
    def build(cls, sources: Sequence[str | Path], kind: Choice = "auto") -> Index:
        """Build an index of embeddings in one or several directories, or merge indexes.

        If two sources have the same clip (see `add`), that of the later source is used.

        Args:
            sources: Directories of embeddings or indexes.
            kind: "flat" (exact), "hnsw", "ivfpq", or "auto" (see `vatt.retrieval.vectors.choose`).

        Raises:
            StoreError: A directory has neither embeddings nor an index, or a file lies outside their roots.
            IndexMismatch: The vectors are of different models.
        """
        stores = [_read(source) for source in sources]
        for store in stores[1:]:
            _same_model(store, stores[0])
        all_sources, parts = [_Source(store) for store in stores], {}
        replaced = 0
        for part in sorted({part for source in all_sources for part in source.rows}):
            later, vectors, rows = dict[ClipKey, tuple[float, float]](), [], []
            for source in reversed(all_sources):
                if part in source.rows:
                    old = replaced_clips(source.clips, later)
                    kept = ~is_clip(source.rows[part], old)
                    vectors.insert(0, source.source.vectors(part)[0][kept if old else slice(None)])
                    rows.insert(0, source.rows[part].filter(pa.array(kept)) if old else source.rows[part])
                    replaced += int((~kept).sum())
                if part[0] in source.modalities:
                    later |= source.clips
            if any(map(len, rows)):
                parts[part] = Vectors.build(np.concatenate(vectors), pa.concat_tables(rows), kind)
        roots = roots_of(root for source in all_sources for root in source.roots)
        folder = next((store.model_folder for store in stores if store.model_folder), None)
        index = cls(parts, stores[0].model, folder, roots=roots)
        index.replaced = replaced
        return index

    def add(self, sources: Sequence[str | Path]) -> int:
        """Add embeddings or other indexes. Clips that the index has already are replaced.

        Vectors of modalities that were not embedded (``vatt embed --modalities``) are kept. Captions are removed if the
        clip no longer has any.

        Clips are the same if they have the same file and id, or the same file and segment (see
        `vatt.retrieval.rows.replaced_clips`). Use an index that was loaded with ``mapped=False``, and `save` it.

        Returns:
            Number of added vectors. The number of replaced ones is added to `replaced`.
        """
        added = 0
        self._update_paths()
        for store in map(_read, sources):
            _same_model(store, self)
            source = _Source(store)
            existing = clips_of({name: self.rows(name) for name in self.parts})
            replaced = replaced_clips(existing, source.clips)
            for kind, part in self.parts.items():
                if kind[0] not in source.modalities:
                    continue
                count = len(part)
                part.keep(~is_clip(part.rows, replaced))
                self.replaced += count - len(part)
            for kind, rows in source.rows.items():
                vectors = store.vectors(kind)[0]
                added += len(vectors)
                part = self.parts.get(kind)
                self.parts[kind] = Vectors.build(vectors, rows) if part is None else part.extended(vectors, rows)
            self._roots = roots_of([*self._roots, *source.roots])
        return added

    def remove(self, path: str) -> int:
        """Remove all clips whose file or id matches a pattern (``*``, ``?``).

        Args:
            path: Pattern of old or present paths, or of ids.

        Returns:
            Number of removed vectors.
        """
        removed = 0
        for part in self.parts.values():
            mask = part.kept & (self._matches(part, path) | matches_pattern(part.rows, "id", path))
            part.keep(~mask)
            removed += int(mask.sum())
        return removed

    def compact(self, kind: Choice = "auto") -> None:
        """Rebuild the index without removed vectors; empty parts are deleted."""
        self.parts = {name: part.compact(kind) for name, part in self.parts.items() if len(part)}

    def save(self, folder: str | Path, locked: bool = False) -> None:
        """Write the index atomically; an existing index is replaced.

        Args:
            folder: Directory of the index.
            locked: The caller holds its `DirectoryLock`.

        Raises:
            FileExistsError: The directory has other files.
            DirectoryInUse: Another process is writing to the directory, or has changed it since this index was read.
            WriteError: The disk is full or read-only; an existing index is unchanged.
        """
        folder = Path(absolute(folder))
        if folder.exists() and not (folder / FILE).is_file() and any(map(is_foreign, folder.iterdir())):
            raise FileExistsError(f"{folder} exists and is not an index; choose another --output")
        with nullcontext() if locked else DirectoryLock(folder):
            if self._record and self.location.folder == str(folder) and is_changed(folder, self._record):
                raise DirectoryInUse(
                    f"{folder} was changed by another process after it was loaded: load it again and retry"
                )
            self._update_paths()
            model_folder = absolute(self.model_folder) if self.model_folder else None
            record = IndexRecord(0, self.model, model_folder, str(folder), list(self._roots), [])
            record = write_index(folder, record, self.parts)
            if self.location.folder == str(folder):
                self._record = record

    @classmethod
    def load(cls, folder: str | Path, mapped: bool = True, verify: bool = True) -> Index:
        """Load an index. Its files are not trusted.

        Args:
            folder: Directory of the index.
            mapped: Map the files into memory, so that vectors are read from disk when they are used. False to `add`.
            verify: Compare all files with their SHA-256 checksums; reads each file once (1 to 2 GB/s).

        Raises:
            StoreError: The index is missing or of another version, or one of its files is missing or damaged.
        """
        folder = Path(folder)
        record, location = read_record(folder), Location(absolute(folder))
        location = Location(location.folder, record.folder)
        parts = {}
        for part in record.parts:
            parts[part.modality, part.space] = vectors = load_part(folder, part, mapped, verify)
            check_paths(vectors.rows.column("path"), record.roots, f"{folder}/{next(iter(part.files))}")
        model_folder = Path(location.resolve(record.model_folder)) if record.model_folder else None
        index = cls(parts, record.model, model_folder, str(folder), record.roots, location)
        index._record = record
        return index

    @property
    def roots(self) -> tuple[str, ...]:
        """Directories and URL prefixes that contain all media, and their locations relative to a moved index."""
        return tuple(dict.fromkeys([*self._roots, *map(self.location.relocated, self._roots)]))

    def media(self, path: str) -> str:
        """Return the present path of the file of a row (see `vatt.retrieval.paths.Location.resolve`)."""
        return self.location.resolve(path)

    def _update_paths(self) -> None:
        """Update paths of moved media before the index is rewritten."""
        rows = [part.rows for part in self.parts.values()]
        if not self._roots:  # the index was built from tables
            rows = [map_paths(table, absolute) for table in rows]
            self._roots = roots_of(map(parent_directory, distinct_paths(rows)))
        elif self.location.moved:
            moved = self.location.moved_roots(distinct_paths(rows), self._roots)
            rows = [moved_rows(table, self.location, moved) for table in rows]
            self._roots = roots_of(moved.get(root, root) for root in self._roots)
        else:
            return
        for part, table in zip(self.parts.values(), rows, strict=True):
            part.relabel(table)
        self.location = Location(self.location.folder)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def declared_roots(self) -> tuple[str, ...]:
        """Roots as stored in ``index.json``."""
        return self._roots

    def vectors(self, kind: tuple[str, str]) -> tuple[np.ndarray, pa.Table]:
        """Return (N, E) vectors of length 1 of a modality in a space, and their rows, without removed ones."""
        part = self.parts[kind]
        return part.exact(np.flatnonzero(part.kept)), self.rows(kind)

    def rows(self, kind: tuple[str, str]) -> pa.Table:
        """Return the rows of `vectors`."""
        part = self.parts[kind]
        return part.rows.filter(pa.array(part.kept))

    def kinds(self) -> list[tuple[str, str, int]]:
        """Modality, space and number of vectors of each part."""
        return [(*name, len(part)) for name, part in sorted(self.parts.items())]

    def search(
        self,
        vectors: np.ndarray,
        model: str,
        k: int = 10,
        modality: str = "video",
        space: str = "video_text",
        distinct: bool = False,
        path: str | RelativePattern | None = None,
        where: str | None = None,
    ) -> list[list[Result]]:
        """The nearest vectors by cosine.

        Args:
            vectors: (Q, E), normalised here.
            model: Hash of the model that made them.
            k: Number of results of each query.
            modality, space: what to search.
            distinct: Skip results that overlap by more than half with a better result of the same clip.
            path: only files whose paths match this pattern (``*``, ``?``).
            where: only clips of whose manifest a column has a value: ``x_shape=ring``.

        Returns:
            For each query its results, best first.

        Raises:
            EmptyIndex: The index has no vectors.
            IndexMismatch: the vectors are another model's, or the index has no such part or width.
            InputError: k is below 1, or the condition is invalid.
        """
        part = self._part(model, modality, space, k)
        allowed, count = self._allowed(part, path, where), k
        while True:
            scores, rows = part.search(vectors, min(count, part.total), allowed)
            ranked = zip(scores, rows, strict=True)
            results = [to_results(part.columns, *pair, k, distinct, self.media) for pair in ranked]
            if not distinct or count >= part.total or all(len(ranking) >= k for ranking in results):
                return list(map(self._located, results))
            count *= 4

    def search_spaces(
        self,
        vectors: dict[str, np.ndarray],
        model: str,
        k: int = 10,
        modality: str = "video",
        distinct: bool = False,
        path: str | RelativePattern | None = None,
        where: str | None = None,
    ) -> list[Result]:
        """Search for one query in several spaces at once, by the mean of the cosines.

        The best 32 k of each space are compared.

        Args:
            vectors: (E,) by space.
            model, k, modality, distinct, path, where: see `search`.

        Raises:
            EmptyIndex, IndexMismatch, InputError: See `search`.
        """
        parts = {space: self._part(model, modality, space, k) for space in vectors}
        if len(vectors) == 1:
            ((space, vector),) = vectors.items()
            return self.search(vector[None], model, k, modality, space, distinct, path, where)[0]
        first, *others = parts.values()
        if not all(part.columns.same_windows(first.columns) for part in others):
            raise IndexMismatch(
                f"{' and '.join(vectors)} have different rows of {modality}: search one space at a time"
            )
        allowed = self._allowed(first, path, where)
        candidates = [parts[s].search(v[None], min(32 * k, first.total), allowed)[1] for s, v in vectors.items()]
        rows = np.unique(np.concatenate(candidates, axis=1))
        rows = rows[rows >= 0]
        scores = np.mean([parts[s].exact(rows) @ unit(v[None])[0] for s, v in vectors.items()], axis=0)
        order = np.argsort(-scores, kind="stable")
        return self._located(to_results(first.columns, scores[order], rows[order], k, distinct, self.media))

    def _allowed(self, part: Vectors, path: str | RelativePattern | None, where: str | None) -> np.ndarray | None:
        """Return (N,) bool: rows that match the filters; None without filters."""
        masks = [] if path is None else [self._matches(part, path)]
        masks += [] if where is None else [matches_condition(part.rows, where)]
        return np.logical_and.reduce(masks) if masks else None

    def _matches(self, part: Vectors, path: str | RelativePattern | None) -> np.ndarray:
        """Return (N,) bool: rows whose old or present path matches a pattern; all rows without a pattern."""
        if path is None:
            return np.ones(part.total, bool)
        mask = matches_pattern(part.rows, "path", path)
        if self.location.moved:
            mask |= matches_pattern(map_paths(part.rows, self.location.relocated), "path", path)
        return mask

    def _located(self, results: list[Result]) -> list[Result]:
        """Return results with the current paths of their files, and mark those whose file is missing."""
        paths = {path: self.media(path) for path in {result.path for result in results}}
        missing = {path: is_missing(now) for path, now in paths.items()}
        if not any(missing.values()) and not self.location.moved:
            return results
        return [result._replace(path=paths[result.path], missing=missing[result.path]) for result in results]

    def describe_filters(
        self, modality: str, space: str, path: str | RelativePattern | None, where: str | None
    ) -> str | None:
        """Describe why a filter matches nothing, or return None. See `search` for the arguments."""
        part = self.parts[modality, space]
        return describe_filters(part.rows, part.kept, path, self._matches(part, path), where, self.media)

    def example_paths(self) -> str:
        """Return a clause that names some paths of the index, for messages."""
        part = max(self.parts.values(), key=len)
        return example_paths(part.rows, part.kept, self.media)

    def check_model(self, model: str) -> None:
        """Check that queries are encoded by the model of this index.

        Args:
            model: Hash of the model of the queries.

        Raises:
            IndexMismatch: It is another model.
        """
        if model != self.model:
            raise IndexMismatch(f"the index has vectors of model {self.model}, but the query is of model {model}")

    def _part(self, model: str, modality: str, space: str, k: int) -> Vectors:
        self.check_model(model)
        if not len(self.parts.get((modality, space), ())):
            available = ", ".join(f"{m} in {s}" for m, s, count in self.kinds() if count)
            if not available:
                raise EmptyIndex(self.name)
            raise IndexMismatch(f"the index has no {modality} in the {space} space; it has {available}")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return self.parts[modality, space]


class EmptyIndex(StoreError):
    """An index without vectors, or one from which all vectors were removed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: the index is empty; build it again, or add embeddings with vatt index --add true")


class _Source:
    """Rows, clips and roots of embeddings or of another index, with the present paths of their media.

    Attributes:
        modalities: Modalities that were embedded, also those of which no clip has a vector.
    """

    def __init__(self, source: Index | Embeddings) -> None:
        location, roots = source.location, source.declared_roots
        self.source, self.rows = source, {kind[:2]: source.rows(kind[:2]) for kind in source.kinds()}
        self.modalities = {modality for modality, _ in self.rows}
        if isinstance(source, Embeddings):
            self.modalities |= set(source.notes.get("modalities", ()))
        paths = distinct_paths(self.rows.values())
        moved = location.moved_roots(paths, roots)
        self.rows = {kind: moved_rows(rows, location, moved) for kind, rows in self.rows.items()}
        self.clips = clips_of(self.rows)
        self.roots = [moved.get(root, root) for root in roots] or roots_of(map(parent_directory, paths))


def _read(source: str | Path) -> Index | Embeddings:
    return Index.load(source) if (Path(source) / FILE).is_file() else Embeddings(source)


def _same_model(source: Index | Embeddings, other: Index | Embeddings) -> None:
    if source.model != other.model:
        raise IndexMismatch(
            f"{source.name} was made by model {source.model}, {other.name} by {other.model}; "
            "vectors of different models cannot be compared"
        )
