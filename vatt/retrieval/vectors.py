"""The vectors of one modality in one space: exact search, and approximate search for many vectors.

Each distinct vector is stored once, with length 1, in a memory-mapped file. There may also be an HNSW graph that takes
its distances from them, or clusters with compressed vectors (IVF-PQ), whose best candidates are compared exactly. Both
have one representative of every group of near-duplicates (see `vatt.retrieval.duplicates`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vatt.errors import InputError, VattError
from vatt.io import atomic_path
from vatt.retrieval.duplicates import ALMOST, RADIUS, Groups, find_equal, find_groups, group, read_groups
from vatt.retrieval.faiss_files import check_lengths, read_clusters, read_flat, read_graph
from vatt.retrieval.faiss_structures import import_faiss, inner_products, make_clusters, make_graph, view
from vatt.retrieval.results import ROWS, Columns
from vatt.retrieval.tables import OPTIONAL, read_rows

Kind = Literal["flat", "hnsw", "ivfpq"]
# Largest number of vectors of each kind; see benchmarks/search.py.
FLAT_UP_TO, HNSW_UP_TO = 200_000, 5_000_000
SEARCH_WIDTH, WIDE = 128, 512  # efSearch of large and of small graphs
REFINED = 16  # candidates per result that are compared exactly
UNIT = 1e-6  # tolerance of unit length
FEW = 0.1  # fraction of allowed vectors below which all of them are compared
SMALL = 2**21  # values in all vectors that are compared within a millisecond
BLOCK = 2**11  # vectors that are processed together
INDEX_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.float64() if name.endswith("_s") else pa.string()) for name in ROWS),
        pa.field("kept", pa.bool_()),
        pa.field("vector", pa.int64()),  # vector of a row, and its representative: null if all rows are distinct
        pa.field("representative", pa.int64()),
    ]
)


class IndexMismatch(VattError, ValueError):
    """Vectors of another model, or of another kind, than the index holds."""


def choose(count: int) -> Kind:
    """The kind for so many vectors."""
    return "flat" if count <= FLAT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivfpq"


class Vectors:
    """Vectors and the rows they belong to.

    Attributes:
        rows: a table.
        kept: (N,) bool; False for what was removed.
        columns: fields of results, for all rows.
        kind: how they are searched.
        groups: vectors of rows and their representatives.
        width: E.
        total: N, removed ones included.
    """

    def __init__(
        self,
        rows: pa.Table,
        flat: Any,
        fast: Any | None,
        kind: Kind,
        kept: np.ndarray,
        groups: Groups,
        mapped: Sequence[Path] = (),
    ) -> None:
        self.rows, self.kind, self.kept, self._count = rows.combine_chunks(), kind, kept, int(kept.sum())
        self.columns, self.groups = Columns(self.rows), groups
        self._flat, self._fast, self._mapped = flat, fast, mapped
        self._known: dict[int, Any] = {}  # parameters of searches among all, by the number of answers
        self._kept_masks: _Masks | None = None
        self.width, self.total = flat.d, len(rows)
        self._small = flat.ntotal * flat.d <= SMALL
        refined = import_faiss().IndexRefine(fast, flat) if kind == "ivfpq" and not groups.has_near else fast
        self._searched = flat if kind == "flat" or self._small else refined
        self._vectors = view(flat)

    @classmethod
    def build(cls, vectors: np.ndarray, rows: pa.Table, kind: Kind | Literal["auto"] = "auto") -> Vectors:
        """Index vectors (N, E), which are normalised, with their N rows.

        Raises:
            InputError: Unknown kind, or too few distinct vectors for clusters.
            IndexMismatch: vectors hold NaN or infinity.
        """
        if kind != "auto" and kind not in get_args(Kind):
            raise InputError(f"the kind of an index must be one of auto, {', '.join(get_args(Kind))}, not {kind!r}")
        faiss = import_faiss()
        vectors = unit(vectors)
        kind = choose(len(vectors)) if kind == "auto" else kind
        stored, groups = find_groups(vectors, near=kind != "flat")
        vectors = vectors if groups.is_single else vectors[stored]
        own, others = np.split(vectors, [groups.representatives])
        flat, fast = faiss.IndexFlatIP(vectors.shape[1]), None
        if kind == "hnsw":
            fast = make_graph(flat)
            fast.add(own)  # also adds to `flat`
        else:
            flat.add(own)
            fast = make_clusters(own) if kind == "ivfpq" else None
        flat.add(others)
        return cls(rows.select(ROWS), flat, fast, kind, np.ones(len(rows), bool), groups)

    def __len__(self) -> int:
        return self._count

    def keep(self, mask: np.ndarray) -> None:
        """Remove the vectors for which this (N,) is False."""
        self.kept &= mask
        self._count, self._kept_masks = int(self.kept.sum()), None

    def relabel(self, rows: pa.Table) -> None:
        """Replace the metadata of the rows."""
        self.rows = rows.combine_chunks()
        self.columns = Columns(self.rows)

    def exact(self, places: np.ndarray | None = None) -> np.ndarray:
        """Vectors (N, E) of length 1: all, removed ones included, or those of some rows."""
        return self._vectors[self.groups.of_row if places is None else self.groups.of_row[places]]

    def search(self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest by cosine of each query: scores (Q, k) and numbers of rows (Q, k), -1 where there are no more.

        Rows with equal vectors follow each other in their order.

        Args:
            vectors: (Q, E), normalised here.
            k: answers to each.
            allowed: (N,) bool; only these.

        Raises:
            IndexMismatch: vectors of another width, or not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise IndexMismatch(f"queries must be (Q, {self.width}), not {vectors.shape}")
        vectors = unit(vectors)
        if not self.total:
            return np.zeros((len(vectors), 0), np.float32), np.zeros((len(vectors), 0), np.int64)
        masks = self._masks(allowed)
        if self.groups.is_single:
            if masks is None:
                structure, parameters = self.directly(k)
                return structure.search(vectors, k, params=parameters)
            return self._candidates(vectors, k, masks, self._is_exact(masks))
        scores, rows = np.full((len(vectors), k), -np.inf, np.float32), np.full((len(vectors), k), -1)
        exact = self._is_exact(masks)
        count = k if exact or not self.groups.has_near else 2 * k + REFINED
        candidates = self._candidates(vectors, count, masks, exact)[1]
        for i, (query, numbers) in enumerate(zip(vectors, candidates, strict=True)):
            numbers = numbers[numbers >= 0]
            if not exact and self.groups.has_near:
                numbers = self._members(query, numbers, k)
            best = self._rows(query, numbers, k, masks)
            scores[i, : len(best[0])], rows[i, : len(best[1])] = best
        return scores, rows

    def _masks(self, allowed: np.ndarray | None) -> _Masks | None:
        """Return the masks of searchable rows; None for all."""
        if allowed is not None:
            return _Masks.of(self.kept & allowed, self.groups)
        if self._count < self.total and self._kept_masks is None:
            self._kept_masks = _Masks.of(self.kept, self.groups)
        return self._kept_masks

    def _is_exact(self, masks: _Masks | None) -> bool:
        """Return whether all vectors are compared, because they are few, or because few of them are allowed."""
        few = masks is not None and masks.vectors.sum() < FEW * len(masks.vectors)
        return few or self._searched is self._flat

    def _candidates(
        self, vectors: np.ndarray, count: int, masks: _Masks | None, exact: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and numbers of the nearest vectors (``exact``), or of the nearest representatives."""
        structure, chosen = self._flat if exact else self._searched, None
        if masks is not None:
            mask = masks.vectors if exact else masks.representatives
            chosen = import_faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        parameters = self._parameters(count, chosen, structure)
        if structure is self._fast and self.kind == "ivfpq":
            count *= REFINED
        return structure.search(vectors, count, params=parameters)

    def _members(self, query: np.ndarray, representatives: np.ndarray, k: int) -> np.ndarray:
        """Return the vectors of the groups that may contain one of the k best."""
        scores = inner_products(self._vectors, query, representatives)
        radius = np.where(self.groups.sizes(representatives) > 1, np.float32(RADIUS), 0)
        if len(scores) > k:
            least = np.partition(scores - radius, len(scores) - k)[len(scores) - k]
            representatives = representatives[scores + radius >= least]
        return self.groups.members(representatives)

    def _rows(
        self, query: np.ndarray, numbers: np.ndarray, k: int, masks: _Masks | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the k best among some vectors."""
        if masks is not None:
            numbers = numbers[masks.vectors[numbers]]
        scores = inner_products(self._vectors, query, numbers)
        if len(numbers) > k:
            best = np.argpartition(-scores, k - 1)[:k]
            numbers, scores = numbers[best], scores[best]
        rows, which = self.groups.rows(numbers, k if masks is None else None)
        if masks is not None:
            allowed = masks.rows[rows]
            rows, which = rows[allowed], which[allowed]
        order = np.lexsort((rows, -scores[which]))[:k]
        return scores[which][order], rows[order]

    def directly(self, k: int) -> tuple[Any, Any]:
        """Return the FAISS index and the parameters of an unfiltered search."""
        parameters = self._known.get(k)
        if parameters is None:
            parameters = self._known[k] = self._parameters(k, None, self._searched)
        return self._searched, parameters

    def _parameters(self, k: int, chosen: Any | None, structure: Any) -> Any:
        faiss = import_faiss()
        if structure is self._flat:
            return faiss.SearchParameters(sel=chosen)
        if self.kind == "hnsw":
            width = WIDE if structure.ntotal <= FLAT_UP_TO else SEARCH_WIDTH
            return faiss.SearchParametersHNSW(efSearch=max(width, 2 * k), sel=chosen)
        clusters = faiss.SearchParametersIVF(nprobe=max(16, self._fast.nlist // 32), sel=chosen)
        if structure is self._fast:
            return clusters
        return faiss.IndexRefineSearchParameters(k_factor=REFINED, base_index_params=clusters)

    def extended(self, vectors: np.ndarray, rows: pa.Table) -> Vectors:
        """Return vectors of the same kind with more rows. This object must not be used afterwards.

        Raises:
            InputError: The files are mapped.
            IndexMismatch: vectors of another width, or not finite.
        """
        if self._mapped:
            raise InputError("cannot add to an index whose files are mapped: load it with mapped=False")
        vectors, rows = unit(vectors), rows.select(ROWS)
        if len(vectors) and vectors.shape[1] != self.width:
            raise IndexMismatch(f"vectors have {vectors.shape[1]} dimensions, but the index has {self.width}")
        known, groups = len(self._vectors), self.groups
        of_row = find_equal(vectors, self._vectors)
        new = np.flatnonzero(of_row < 0)
        stored, inner = find_groups(vectors[new], near=False)
        of_row[new] = known + inner.of_row
        vectors = vectors[new[stored]]
        groups, own, others = groups.extended(of_row, self._represented(vectors))
        first = self.groups.representatives
        represented = self._vectors[first:].copy()
        del self._vectors  # FAISS reallocates them
        self._flat.remove_ids(import_faiss().IDSelectorRange(first, known))
        if self.kind != "hnsw":  # adding to a graph also adds to its vectors
            self._flat.add(vectors[own])
        if self._fast is not None:
            self._fast.add(vectors[own])
        self._flat.add(represented)
        self._flat.add(vectors[others])
        kept = np.append(self.kept, np.ones(len(rows), bool))
        return Vectors(pa.concat_tables([self.rows, rows]), self._flat, self._fast, self.kind, kept, groups)

    def _represented(self, vectors: np.ndarray) -> np.ndarray:
        """Return (M,) numbers of the representatives of new vectors, which are numbered after the existing ones."""
        representative = len(self._vectors) + np.arange(len(vectors))
        if self._fast is None:
            return representative
        for start in range(0, len(vectors), BLOCK):
            some = vectors[start : start + BLOCK]
            count = REFINED if self.kind == "ivfpq" else 1
            nearest = self._fast.search(some, count, params=self._parameters(count, None, self._fast))[1]
            cosines = np.einsum("nce,ne->nc", self._vectors[nearest], some)
            best = np.where(nearest >= 0, cosines, -1).argmax(axis=1)[:, None]
            near = np.take_along_axis(cosines, best, 1)[:, 0] >= ALMOST
            representative[start : start + BLOCK][near] = np.take_along_axis(nearest, best, 1)[near, 0]
        rest = np.flatnonzero(representative >= len(self._vectors))
        representative[rest] = len(self._vectors) + rest[group(vectors[rest])]
        return representative

    def compact(self, kind: Kind | Literal["auto"]) -> Vectors:
        """Return the vectors without removed ones."""
        return Vectors.build(self.exact()[self.kept], self.rows.filter(pa.array(self.kept)), kind)

    def save(self, stem: Path) -> list[Path]:
        """Write the files that begin with ``stem``, and return them.

        Raises:
            WriteError: The disk is full or read-only.
        """
        faiss, groups = import_faiss(), self.groups
        names = [Path(f"{stem}.{suffix}") for suffix in ("parquet", "faiss", self.kind)]
        files = names[: 2 if self._fast is None else 3]
        table = self.rows.append_column("kept", pa.array(self.kept))
        if not groups.is_single:
            table = table.append_column("vector", pa.array(groups.of_row))
            table = table.append_column("representative", pa.array(groups.representative[groups.of_row]))
        with atomic_path(files[0]) as path:
            pq.write_table(table, path, compression="zstd")
        if self._mapped:  # copied: FAISS would write references to the files of mapped clusters
            for old, new in zip(self._mapped[1:], files[1:], strict=True):
                with atomic_path(new) as path:
                    shutil.copyfile(old, path)
            return files
        with atomic_path(files[1]) as path:
            faiss.write_index(self._flat, str(path))
        if self._fast is not None:
            with atomic_path(files[2]) as path:
                faiss.write_index(self._fast, str(path), faiss.IO_FLAG_SKIP_STORAGE if self.kind == "hnsw" else 0)
        return files

    @classmethod
    def load(cls, files: Sequence[Path], kind: Kind, mapped: bool = True, verify: bool = True) -> Vectors:
        """Load what `save` wrote.

        Args:
            files: In the order of `save`.
            kind: Of the structure.
            mapped: Map the files into memory, so that vectors are read from disk when they are used.
            verify: Check that all vectors have length 1.

        Raises:
            StoreError, FileMismatch, OSError, RuntimeError: A file is missing or damaged.
        """
        rows = read_rows(files[0], INDEX_SCHEMA, optional=(*OPTIONAL, "vector", "representative"))
        flat, fast = read_flat(files[1], mapped), None
        if kind == "hnsw":
            fast = read_graph(files[2], mapped, flat)
        elif kind == "ivfpq":
            fast = read_clusters(files[2], mapped, flat)
        stored = flat.ntotal if fast is None else fast.ntotal
        groups = read_groups(files[0], rows, flat.ntotal, stored)
        if verify:
            check_lengths(view(flat))
        kept = rows.column("kept").to_numpy()
        return cls(rows.select(ROWS), flat, fast, kind, kept.copy(), groups, files if mapped else ())


@dataclass(frozen=True)
class _Masks:
    """Searchable rows, their vectors, and the representatives of these."""

    rows: np.ndarray
    vectors: np.ndarray
    representatives: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, groups: Groups) -> _Masks:
        if groups.is_single:
            return cls(rows, rows, rows)
        vectors = groups.vectors_of(rows)
        representatives = np.zeros(groups.representatives, bool)
        representatives[groups.representative[vectors]] = True
        return cls(rows, vectors, representatives)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Normalize rows to length 1, float32 and contiguous as FAISS requires.

    Raises:
        IndexMismatch: Vectors have NaN or infinity.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if len(vectors) == 1:  # a query: fast path
        length = math.sqrt(np.dot(vectors[0], vectors[0]))
        if abs(length - 1) < UNIT:
            return vectors
        if length < math.inf:
            return vectors / np.float32(max(length, 1e-12))
    lengths = np.sqrt(np.einsum("ne,ne->n", vectors, vectors))[:, None]  # not finite if one value is not
    # Vectors of length 1 stay bitwise equal: an index may be merged and compacted many times.
    off = np.abs(lengths - 1)
    most = off.max(initial=0.0)
    if most < UNIT:
        return vectors
    if not most < np.inf:
        raise IndexMismatch("vectors have NaN or infinity")
    lengths[off < UNIT] = 1
    return vectors / np.maximum(lengths, 1e-12)
