"""FAISS indexes that know which file and second a vector is from, and which model made it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vatt.errors import InputError, VattError
from vatt.retrieval.store import Embeddings, StoreError

FILE = "index.json"


class IndexMismatch(VattError, ValueError):
    """Vectors of another model, or of another kind, than the index holds."""


@dataclass(frozen=True)
class Hit:
    """One answer.

    Args:
        rank: from 1.
        score: cosine similarity in [-1, 1].
        id: of the clip.
        path: of the file.
        start_s, end_s: where in the file.
        text: the caption, for indexed texts.
    """

    rank: int
    score: float
    id: str
    path: str
    start_s: float
    end_s: float
    text: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Part:
    """The index of one modality in one space, and what its rows mean."""

    index: Any
    rows: pa.Table


class Index:
    """Exact cosine search, one FAISS index for each modality and space.

    Attributes:
        model: fingerprint of the model whose vectors it holds.
        model_folder: where that model was when the index was built, or None.
    """

    def __init__(self, parts: dict[tuple[str, str], _Part], model: str, model_folder: Path | None) -> None:
        self._parts, self.model, self.model_folder = parts, model, model_folder

    @classmethod
    def build(cls, sources: Sequence[str | Path]) -> Index:
        """Index the embeddings in one or several folders.

        Raises:
            StoreError: a folder holds no embeddings.
            IndexMismatch: the folders hold vectors of different models.
        """
        faiss = _import_faiss()
        stores = [Embeddings(source) for source in sources]
        for store in stores[1:]:
            if store.model != stores[0].model:
                raise IndexMismatch(
                    f"{store.file} was made by model {store.model}, {stores[0].file} by {stores[0].model}; "
                    "vectors of different models cannot be compared"
                )
        parts: dict[tuple[str, str], _Part] = {}
        for kind in sorted({kind for store in stores for kind in store.kinds()}):
            chosen = [store.select(*kind) for store in stores if kind in store.kinds()]
            vectors = _unit(np.concatenate([rows.vectors for rows in chosen]))
            index = faiss.IndexFlatIP(vectors.shape[1])
            index.add(vectors)
            rows = pa.concat_tables([rows.table for rows in chosen])
            parts[kind] = _Part(index, rows.select(["id", "path", "start_s", "end_s", "text"]))
        folder = stores[0].notes.get("model_folder")
        return cls(parts, stores[0].model, Path(folder) if folder else None)

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder, whole or not at all; an index that is there is replaced."""
        faiss = _import_faiss()
        folder = Path(folder).resolve()
        if folder.exists() and not (folder / FILE).is_file() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} exists and is no index; choose another --output")
        unfinished = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        parts = []
        for (modality, space), part in self._parts.items():
            name = f"{modality}.{space}"
            faiss.write_index(part.index, str(unfinished / f"{name}.faiss"))
            pq.write_table(part.rows, unfinished / f"{name}.parquet")
            parts.append({"modality": modality, "space": space, "vectors": part.index.ntotal, "width": part.index.d})
        model_folder = os.path.relpath(self.model_folder, folder) if self.model_folder else None
        says = {"model": self.model, "model_folder": model_folder, "measure": "cosine", "parts": parts}
        (unfinished / FILE).write_text(json.dumps(says, indent=1), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Read an index.

        Raises:
            StoreError: there is none, or a part of it is missing or damaged.
        """
        faiss = _import_faiss()
        folder = Path(folder)
        if not (folder / FILE).is_file():
            raise StoreError(f"no index at {folder}; make one with: vatt index EMBEDDINGS --output {folder}")
        says = json.loads((folder / FILE).read_text(encoding="utf-8"))
        parts: dict[tuple[str, str], _Part] = {}
        for part in says["parts"]:
            name = f"{part['modality']}.{part['space']}"
            try:
                index = faiss.read_index(str(folder / f"{name}.faiss"))
                rows = pq.read_table(folder / f"{name}.parquet")
            except (RuntimeError, OSError, pa.ArrowInvalid) as error:
                raise StoreError(f"{folder}: {name} is missing or damaged: {str(error).splitlines()[0]}") from error
            counts = (index.ntotal, rows.num_rows, part["vectors"])
            if len(set(counts)) > 1:
                raise StoreError(
                    f"{folder}: {name} has {counts[0]} vectors, {counts[1]} rows, and was saved with {counts[2]}"
                )
            parts[part["modality"], part["space"]] = _Part(index, rows)
        model_folder = (folder / says["model_folder"]).resolve() if says["model_folder"] else None
        return cls(parts, says["model"], model_folder)

    def __len__(self) -> int:
        return sum(part.index.ntotal for part in self._parts.values())

    def kinds(self) -> list[tuple[str, str, int]]:
        """Modality, space and number of vectors of each part."""
        return [(*kind, part.index.ntotal) for kind, part in sorted(self._parts.items())]

    def search(
        self,
        vectors: np.ndarray,
        model: str,
        k: int = 10,
        modality: str = "video",
        space: str = "video_text",
        distinct: bool = False,
    ) -> list[list[Hit]]:
        """The nearest vectors by cosine.

        Args:
            vectors: (Q, E), normalised here.
            model: fingerprint of the model that made them.
            k: answers to each.
            modality, space: what to search.
            distinct: leave out what mostly overlaps, in the same clip, with a better answer.

        Returns:
            For each query its hits, best first.

        Raises:
            IndexMismatch: the vectors are another model's, or the index has no such part or width.
            InputError: k is below 1.
        """
        if model != self.model:
            raise IndexMismatch(f"the index holds vectors of model {self.model}, the query is of model {model}")
        if (modality, space) not in self._parts:
            there = ", ".join(f"{m} in {s}" for m, s, _ in self.kinds())
            raise IndexMismatch(f"the index has no {modality} in the {space} space; it has {there}")
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        part = self._parts[modality, space]
        if vectors.ndim != 2 or vectors.shape[1] != part.index.d:
            raise IndexMismatch(f"queries must be (Q, {part.index.d}), not {vectors.shape}")
        vectors, count, total = _unit(vectors), k, part.index.ntotal
        while True:
            answers = [_hits(part, vector, min(count, total), distinct) for vector in vectors]
            if count >= total or all(len(hits) >= k for hits in answers):
                break
            count *= 4
        return [[replace(hit, rank=rank) for rank, hit in enumerate(hits[:k], start=1)] for hits in answers]


def _hits(part: _Part, vector: np.ndarray, count: int, distinct: bool) -> list[Hit]:
    """The nearest rows, those that `Index.search` calls not distinct left out."""
    scores, places = part.index.search(vector[None], count)
    hits: list[Hit] = []
    for score, row in zip(scores[0].tolist(), part.rows.take(pa.array(places[0])).to_pylist(), strict=True):
        hit = Hit(0, score, **row)
        if not (distinct and any(_same_moment(hit, other) for other in hits)):
            hits.append(hit)
    return hits


def _same_moment(a: Hit, b: Hit) -> bool:
    """Whether two hits in one clip share more than half of the shorter one."""
    shared = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    return (a.id, a.path) == (b.id, b.path) and shared > min(a.end_s - a.start_s, b.end_s - b.start_s) / 2


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 and contiguous as FAISS wants them."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise IndexMismatch("vectors hold NaN or infinity")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('the index needs FAISS: pip install "vatt[search]"') from error
    return faiss
