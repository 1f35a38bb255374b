"""Indexes that know which file and second a vector is from, and which model made it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from vatt.errors import InputError
from vatt.io import DirectoryInUse, DirectoryLock
from vatt.retrieval.hits import Hit, RelativePattern, allowed_rows, describe_filters, hits_of, matches
from vatt.retrieval.index_files import FILE, IndexRecord, is_changed, is_strange, load_part, read_record, write_index
from vatt.retrieval.paths import Location, absolute, is_missing, parent_directory, roots_of
from vatt.retrieval.rows import check_paths, clips_of, distinct_paths, is_clip, map_paths, moved_rows, replaced_clips
from vatt.retrieval.store import Embeddings
from vatt.retrieval.vectors import IndexMismatch, Kind, Vectors, unit

Choice = Kind | Literal["auto"]


class Index:
    """Cosine search over windows and texts, one structure for each modality and space.

    Attributes:
        model: fingerprint of the model whose vectors it holds.
        model_folder: where that model is, or was when the index was built, or None.
        parts: by modality and space.
        name: the folder it was read from.
        location: that folder, and where it was when it was written (see `vatt.retrieval.store`).
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
        self._record: IndexRecord | None = None  # of the folder it was read from

    @classmethod
    def build(cls, sources: Sequence[str | Path], kind: Choice = "auto") -> Index:
        """Index the embeddings in one or several folders, or put indexes together.

        Args:
            sources: folders of embeddings, or of indexes.
            kind: "flat" (exact), "hnsw", "ivfpq", or what `vatt.retrieval.vectors.choose` says for so many.

        Raises:
            StoreError: a folder holds neither, or a file lies outside the roots that its embeddings declare.
            IndexMismatch: the folders hold vectors of different models.
        """
        given = [_read(source) for source in sources]
        for source in given[1:]:
            _same_model(source, given[0])
        every, parts = [_Source(source) for source in given], {}
        for part in sorted({part for source in every for part in source.rows}):
            have = [source for source in every if part in source.rows]
            vectors = np.concatenate([source.source.vectors(part)[0] for source in have])
            parts[part] = Vectors.build(vectors, pa.concat_tables([source.rows[part] for source in have]), kind)
        roots = roots_of(root for source in every for root in source.roots)
        return cls(parts, given[0].model, next((s.model_folder for s in given if s.model_folder), None), roots=roots)

    def add(self, sources: Sequence[str | Path]) -> int:
        """Add embeddings, or other indexes. Clips that are there already are replaced.

        A clip is the same if its file and its id are, or its file and its segment (see
        `vatt.retrieval.rows.replaced_clips`). Use an index that was loaded with ``mapped=False``, and `save` it.

        Returns:
            How many vectors were added.
        """
        added = 0
        self._settle()
        for given in map(_read, sources):
            _same_model(given, self)
            source = _Source(given)
            there = clips_of({name: self.rows(name) for name in self.parts})
            replaced = replaced_clips(there, clips_of(source.rows))
            for kind, rows in source.rows.items():
                vectors = given.vectors(kind)[0]
                added += len(vectors)
                if kind not in self.parts:
                    self.parts[kind] = Vectors.build(vectors, rows)
                    continue
                part = self.parts[kind]
                part.keep(~is_clip(part.rows, replaced))
                self.parts[kind] = part.extended(vectors, rows)
            self._roots = roots_of([*self._roots, *source.roots])
        return added

    def remove(self, path: str) -> int:
        """Leave out every clip whose file or id matches a pattern (``*``, ``?``).

        Returns:
            How many vectors that were.
        """
        removed = 0
        for part in self.parts.values():
            gone = part.kept & (matches(part.rows, "path", path) | matches(part.rows, "id", path))
            part.keep(~gone)
            removed += int(gone.sum())
        return removed

    def compact(self, kind: Choice = "auto") -> None:
        """Build it anew from what was not removed, exactly; parts without anything are gone."""
        self.parts = {name: part.compact(kind) for name, part in self.parts.items() if len(part)}

    def save(self, folder: str | Path, locked: bool = False) -> None:
        """Write the index, whole or not at all; one that is there is replaced.

        Args:
            folder: directory of the index.
            locked: the caller holds its `DirectoryLock`.

        Raises:
            FileExistsError: the folder has something else.
            DirectoryInUse: another process writes to the folder, or has done so since this index was read from it.
            WriteError: the disk is full or read-only; an index that was there is as it was.
        """
        folder = Path(absolute(folder))
        if folder.exists() and not (folder / FILE).is_file() and any(map(is_strange, folder.iterdir())):
            raise FileExistsError(f"{folder} exists and is no index; choose another --output")
        with nullcontext() if locked else DirectoryLock(folder):
            if self._record and self.location.folder == str(folder) and is_changed(folder, self._record):
                raise DirectoryInUse(
                    f"{folder} was written by another process after it was read: read it again, and repeat the change"
                )
            self._settle()
            model_folder = absolute(self.model_folder) if self.model_folder else None
            record = IndexRecord(0, self.model, model_folder, str(folder), list(self._roots), [])
            record = write_index(folder, record, self.parts)
            if self.location.folder == str(folder):
                self._record = record

    @classmethod
    def load(cls, folder: str | Path, mapped: bool = True, verify: bool = True) -> Index:
        """Read an index. It may come from elsewhere: nothing in it is trusted.

        Args:
            folder: where it was saved.
            mapped: leave vectors on disk until they are looked at. False to `add` to it.
            verify: compare all files with their checksums, which reads them once (1 to 2 GB a second).

        Raises:
            StoreError: there is none, it is of another version, or a file of it is missing or damaged.
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
        """Directories and prefixes of URLs that all media lie below, also where a moved index finds them."""
        return tuple(dict.fromkeys([*self._roots, *map(self.location.relocated, self._roots)]))

    def media(self, path: str) -> str:
        """Where the file of a row is now: see `vatt.retrieval.paths.Location.resolve`."""
        return self.location.resolve(path)

    def _settle(self) -> None:
        """Note where media are now that moved with the index, since it is going to be written anew."""
        rows = [part.rows for part in self.parts.values()]
        if not self._roots:  # of an index that was made of tables
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
        """Roots as they are written in ``index.json``."""
        return self._roots

    def vectors(self, kind: tuple[str, str]) -> tuple[np.ndarray, pa.Table]:
        """(N, E) of a modality in a space, of length 1, and their rows, without what was removed."""
        part = self.parts[kind]
        return part.exact(np.flatnonzero(part.kept)), self.rows(kind)

    def rows(self, kind: tuple[str, str]) -> pa.Table:
        """The rows of `vectors`."""
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
    ) -> list[list[Hit]]:
        """The nearest vectors by cosine.

        Args:
            vectors: (Q, E), normalised here.
            model: fingerprint of the model that made them.
            k: answers to each.
            modality, space: what to search.
            distinct: leave out what mostly overlaps, in the same clip, with a better answer.
            path: only files whose paths match this pattern (``*``, ``?``).
            where: only clips of whose manifest a column has a value: ``x_shape=ring``.

        Returns:
            For each query its hits, best first.

        Raises:
            IndexMismatch: the vectors are another model's, or the index has no such part or width.
            InputError: k is below 1, or nothing like the condition.
        """
        part = self._part(model, modality, space, k)
        allowed, count = self._allowed(part, path, where), k
        while True:
            found = part.search(vectors, min(count, part.total), allowed)
            results = [hits_of(part.columns, *scored, k, distinct) for scored in zip(*found, strict=True)]
            if not distinct or count >= part.total or all(len(hits) >= k for hits in results):
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
    ) -> list[Hit]:
        """The nearest to one query in several spaces at once, by the mean of the cosines.

        Compared are the best 32 k of each space.

        Args:
            vectors: (E,) by space.
            model, k, modality, distinct, path, where: see `search`.

        Raises:
            IndexMismatch, InputError: see there.
        """
        parts = {space: self._part(model, modality, space, k) for space in vectors}
        if len(vectors) == 1:
            ((space, vector),) = vectors.items()
            return self.search(vector[None], model, k, modality, space, distinct, path, where)[0]
        first, *others = parts.values()
        if not all(part.columns.same_windows(first.columns) for part in others):
            raise IndexMismatch(f"{' and '.join(vectors)} have other rows of {modality}: ask for one of them at a time")
        allowed = self._allowed(first, path, where)
        found = [parts[s].search(v[None], min(32 * k, first.total), allowed)[1] for s, v in vectors.items()]
        places = np.unique(np.concatenate(found, axis=1))
        places = places[places >= 0]
        scores = np.mean([parts[s].exact(places) @ unit(v[None])[0] for s, v in vectors.items()], axis=0)
        order = np.argsort(-scores, kind="stable")
        return self._located(hits_of(first.columns, scores[order], places[order], k, distinct))

    def _allowed(self, part: Vectors, path: str | RelativePattern | None, where: str | None) -> np.ndarray | None:
        """(N,) bool: rows that pass the filters; a pattern may match where a file was or, if it moved, where it is."""
        allowed = allowed_rows(part.rows, path, where)
        if allowed is None or path is None or not self.location.moved:
            return allowed
        return allowed | allowed_rows(map_paths(part.rows, self.location.relocated), path, where)

    def _located(self, hits: list[Hit]) -> list[Hit]:
        """Hits with the present paths of their files, and a mark on those whose file is missing."""
        paths = {path: self.media(path) for path in {hit.path for hit in hits}}
        missing = {path: is_missing(now) for path, now in paths.items()}
        if not any(missing.values()) and not self.location.moved:
            return hits
        return [hit._replace(path=paths[hit.path], missing=missing[hit.path]) for hit in hits]

    def describe_filters(
        self, modality: str, space: str, path: str | RelativePattern | None, where: str | None
    ) -> str | None:
        """Why no row of a part passes filters; None if some do. See `search` for the arguments."""
        part = self.parts[modality, space]
        return describe_filters(part.rows, part.kept, path, where)

    def _part(self, model: str, modality: str, space: str, k: int) -> Vectors:
        if model != self.model:
            raise IndexMismatch(f"the index holds vectors of model {self.model}, the query is of model {model}")
        if (modality, space) not in self.parts:
            there = ", ".join(f"{m} in {s}" for m, s, _ in self.kinds())
            raise IndexMismatch(f"the index has no {modality} in the {space} space; it has {there}")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return self.parts[modality, space]


class _Source:
    """What an index takes from embeddings or another index: rows with the present paths of their media, and roots."""

    def __init__(self, source: Index | Embeddings) -> None:
        location, roots = source.location, source.declared_roots
        self.source, self.rows = source, {kind[:2]: source.rows(kind[:2]) for kind in source.kinds()}
        paths = distinct_paths(self.rows.values())
        moved = location.moved_roots(paths, roots)
        self.rows = {kind: moved_rows(rows, location, moved) for kind, rows in self.rows.items()}
        self.roots = [moved.get(root, root) for root in roots] or roots_of(map(parent_directory, paths))


def _read(source: str | Path) -> Index | Embeddings:
    return Index.load(source) if (Path(source) / FILE).is_file() else Embeddings(source)


def _same_model(source: Index | Embeddings, other: Index | Embeddings) -> None:
    if source.model != other.model:
        raise IndexMismatch(
            f"{source.name} was made by model {source.model}, {other.name} by {other.model}; "
            "vectors of different models cannot be compared"
        )
