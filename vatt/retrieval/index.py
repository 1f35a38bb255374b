"""Indexes that know which file and second a vector is from, and which model made it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.errors import InputError
from vatt.retrieval.hits import Hit, allowed_rows, hits_of, matches
from vatt.retrieval.store import Embeddings, StoreError
from vatt.retrieval.vectors import IndexMismatch, Kind, Vectors, unit

FILE = "index.json"
Choice = Kind | Literal["auto"]
_NAME = re.compile(r"(video|audio|text)\.[a-z_]+\.\d+\.(parquet|faiss|hnsw|ivfpq)")  # of the files of a part


class Index:
    """Cosine search over windows and texts, one structure for each modality and space.

    Attributes:
        model: fingerprint of the model whose vectors it holds.
        model_folder: where that model was when the index was built, or None.
        parts: by modality and space.
        name: the folder it was read from.
    """

    def __init__(
        self, parts: dict[tuple[str, str], Vectors], model: str, model_folder: Path | None, name: str = "the index"
    ) -> None:
        self.parts, self.model, self.model_folder, self.name = parts, model, model_folder, name

    @classmethod
    def build(cls, sources: Sequence[str | Path], kind: Choice = "auto") -> Index:
        """Index the embeddings in one or several folders, or put indexes together.

        Args:
            sources: folders of embeddings, or of indexes.
            kind: "flat" (exact), "hnsw", "ivfpq", or what `vatt.retrieval.vectors.choose` says for so many.

        Raises:
            StoreError: a folder holds neither.
            IndexMismatch: the folders hold vectors of different models.
        """
        given = [_read(source) for source in sources]
        for source in given[1:]:
            _same_model(source, given[0])
        parts = {}
        for part in sorted({found[:2] for source in given for found in source.kinds()}):
            have = [source.vectors(part) for source in given if part in {found[:2] for found in source.kinds()}]
            vectors, rows = np.concatenate([x for x, _ in have]), pa.concat_tables([rows for _, rows in have])
            parts[part] = Vectors.build(vectors, rows, kind)
        return cls(parts, given[0].model, next((s.model_folder for s in given if s.model_folder), None))

    def add(self, sources: Sequence[str | Path]) -> int:
        """Add embeddings, or other indexes; clips whose id and file are there already are replaced.

        Use an index that was loaded with ``mapped=False``, and `save` it.

        Returns:
            How many vectors were added.
        """
        added = 0
        for source in map(_read, sources):
            _same_model(source, self)
            for kind in (known[:2] for known in source.kinds()):
                vectors, rows = source.vectors(kind)
                added += len(vectors)
                if kind not in self.parts:
                    self.parts[kind] = Vectors.build(vectors, rows)
                    continue
                there = self.parts[kind]
                there.keep(~pc.is_in(_clip(there.rows), pc.unique(_clip(rows))).to_numpy())
                self.parts[kind] = there.extended(vectors, rows)
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

    def save(self, folder: str | Path) -> None:
        """Write the index, whole or not at all; one that is there is replaced.

        Files have new names; that they are the index is written last, in one piece, and then the old ones are deleted.

        Raises:
            FileExistsError: the folder has something else.
        """
        folder = Path(folder).resolve()
        if folder.exists() and not (folder / FILE).is_file() and any(_strange(path) for path in folder.iterdir()):
            raise FileExistsError(f"{folder} exists and is no index; choose another --output")
        folder.mkdir(parents=True, exist_ok=True)
        number, parts = _number(folder) + 1, []
        for (modality, space), part in self.parts.items():
            files = part.save(folder / f"{modality}.{space}.{number}")
            for file in files:
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            sizes = {file.name: file.stat().st_size for file in files}
            facts = {"kind": part.kind, "vectors": len(part), "removed": int((~part.kept).sum()), "width": part.width}
            parts.append({"modality": modality, "space": space, **facts, "files": sizes})
        model_folder = os.path.relpath(self.model_folder, folder) if self.model_folder else None
        says = {
            "version": 2, "number": number, "model": self.model, "model_folder": model_folder, "measure": "cosine",
            "parts": parts,
        }  # fmt: skip
        unfinished = folder / f".{FILE}.part"
        unfinished.write_text(json.dumps(says, indent=1), encoding="utf-8")
        os.replace(unfinished, folder / FILE)
        named = {name for part in parts for name in part["files"]}
        for file in folder.iterdir():
            if file.name not in named and not _strange(file):
                file.unlink()

    @classmethod
    def load(cls, folder: str | Path, mapped: bool = True) -> Index:
        """Read an index.

        Args:
            folder: where it was saved.
            mapped: leave vectors on disk until they are looked at. False to `add` to it.

        Raises:
            StoreError: there is none, it is of another version, or a file of it is missing or damaged.
        """
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise StoreError(f"no index at {folder}; make one with: vatt index EMBEDDINGS --output {folder}")
        try:
            says = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if says.get("version") != 2:
                raise StoreError(f"{folder} was made by another version of vatt: make it again with vatt index")
            parts = {(part["modality"], part["space"]): _load(folder, part, mapped) for part in says["parts"]}
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{folder / FILE} is damaged: {error}") from error
        model_folder = (folder / says["model_folder"]).resolve() if says["model_folder"] else None
        return cls(parts, says["model"], model_folder, str(folder))

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def vectors(self, kind: tuple[str, str]) -> tuple[np.ndarray, pa.Table]:
        """(N, E) of a modality in a space, of length 1, and their rows, without what was removed."""
        part = self.parts[kind]
        return part.exact()[part.kept], part.rows.filter(pa.array(part.kept))

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
        path: str | None = None,
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
        allowed, count = allowed_rows(part.rows, path, where), k
        while True:
            found = part.search(vectors, min(count, part.total), allowed)
            answers = [hits_of(part.columns, *each, k, distinct) for each in zip(*found, strict=True)]
            if not distinct or count >= part.total or all(len(hits) >= k for hits in answers):
                return answers
            count *= 4

    def search_spaces(
        self,
        vectors: dict[str, np.ndarray],
        model: str,
        k: int = 10,
        modality: str = "video",
        distinct: bool = False,
        path: str | None = None,
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
        allowed = allowed_rows(first.rows, path, where)
        found = [parts[s].search(v[None], min(32 * k, first.total), allowed)[1] for s, v in vectors.items()]
        places = np.unique(np.concatenate(found, axis=1))
        places = places[places >= 0]
        scores = np.mean([parts[s].exact(places) @ unit(v[None])[0] for s, v in vectors.items()], axis=0)
        order = np.argsort(-scores, kind="stable")
        return hits_of(first.columns, scores[order], places[order], k, distinct)

    def _part(self, model: str, modality: str, space: str, k: int) -> Vectors:
        if model != self.model:
            raise IndexMismatch(f"the index holds vectors of model {self.model}, the query is of model {model}")
        if (modality, space) not in self.parts:
            there = ", ".join(f"{m} in {s}" for m, s, _ in self.kinds())
            raise IndexMismatch(f"the index has no {modality} in the {space} space; it has {there}")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        return self.parts[modality, space]


def _read(source: str | Path) -> Index | Embeddings:
    return Index.load(source) if (Path(source) / FILE).is_file() else Embeddings(source)


def _same_model(source: Index | Embeddings, other: Index | Embeddings) -> None:
    if source.model != other.model:
        raise IndexMismatch(
            f"{source.name} was made by model {source.model}, {other.name} by {other.model}; "
            "vectors of different models cannot be compared"
        )


def _load(folder: Path, says: dict[str, Any], mapped: bool) -> Vectors:
    name = f"{says['modality']}.{says['space']}"
    files = [folder / file for file in says["files"]]
    for file, size in zip(files, says["files"].values(), strict=True):
        if not file.is_file() or file.stat().st_size != size:
            raise StoreError(f"{folder}: {name} is missing or damaged: {file.name} should have {size} bytes")
    try:
        part = Vectors.load(files, says["kind"], mapped)
    except (RuntimeError, OSError, pa.ArrowInvalid, KeyError, IndexError) as error:
        raise StoreError(f"{folder}: {name} is missing or damaged: {str(error).splitlines()[0]}") from error
    counts = (part.total, len(part.rows), says["vectors"] + says["removed"])
    if len(set(counts)) > 1:
        raise StoreError(f"{folder}: {name} has {counts[0]} vectors, {counts[1]} rows, and was saved with {counts[2]}")
    return part


def _strange(path: Path) -> bool:
    """Whether a file is none of an index, finished or not."""
    return path.name != f".{FILE}.part" and not _NAME.fullmatch(path.name)


def _number(folder: Path) -> int:
    """Of the files of the index that is there."""
    try:
        return int(json.loads((folder / FILE).read_text(encoding="utf-8"))["number"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return 0


def _clip(rows: pa.Table) -> pa.ChunkedArray:
    """What a clip is known by: id and file."""
    return pc.binary_join_element_wise(rows.column("id"), rows.column("path"), "\n")
