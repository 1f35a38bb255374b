"""The vectors of one modality in one space: exact search, and structures that are faster where there are many.

All vectors are kept as they are, of length 1, in a file that is mapped into memory. On top of them there may be a graph
(HNSW) that takes its distances from them, or clusters with compressed vectors (IVF-PQ), whose best candidates are
compared once more with the exact ones.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vatt.errors import InputError, VattError
from vatt.retrieval.hits import ROWS, Columns

Kind = Literal["flat", "hnsw", "ivfpq"]
# Up to so many vectors each kind is fast enough and fits; see benchmarks/search.py.
FLAT_UP_TO, HNSW_UP_TO = 200_000, 5_000_000
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 128, 128  # of the graph (M, efConstruction, efSearch)
PER_CLUSTER = 64  # vectors that clusters are trained on, for each
REFINED = 16  # candidates for each answer that are compared exactly
UNIT = 1e-6  # so far from 1 a length may be rounded
FEW = 0.1  # share of vectors below which those that are allowed are all compared


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
        columns: what hits tell of all rows.
        kind: how they are searched.
        width: E.
        total: N, removed ones included.
    """

    def __init__(
        self, rows: pa.Table, flat: Any, fast: Any | None, kind: Kind, kept: np.ndarray, mapped: Sequence[Path] = ()
    ) -> None:
        self.rows, self.kind, self.kept, self._count = rows.combine_chunks(), kind, kept, int(kept.sum())
        self.columns = Columns(self.rows)
        self._flat, self._fast, self._mapped = flat, fast, mapped
        self._known: dict[int, Any] = {}  # parameters of searches among all, by the number of answers
        refined = import_faiss().IndexRefine(fast, flat) if kind == "ivfpq" else None
        self._searched = {"flat": flat, "hnsw": fast, "ivfpq": refined}[kind]
        self.width, self.total = flat.d, flat.ntotal

    @classmethod
    def build(cls, vectors: np.ndarray, rows: pa.Table, kind: Kind | Literal["auto"] = "auto") -> Vectors:
        """Index vectors (N, E), which are normalised, with their N rows.

        Raises:
            InputError: an unknown kind, or too few vectors for clusters.
            IndexMismatch: vectors hold NaN or infinity.
        """
        if kind != "auto" and kind not in get_args(Kind):
            raise InputError(f"an index is auto, {', '.join(get_args(Kind))}, not {kind!r}")
        faiss = import_faiss()
        vectors = unit(vectors)
        kind = choose(len(vectors)) if kind == "auto" else kind
        flat, fast = faiss.IndexFlatIP(vectors.shape[1]), None
        if kind == "hnsw":
            fast = _graph(faiss, flat)
            fast.add(vectors)  # to the vectors below as well
        else:
            flat.add(vectors)
            fast = _clusters(faiss, vectors) if kind == "ivfpq" else None
        return cls(rows.select(ROWS), flat, fast, kind, np.ones(len(vectors), bool))

    def __len__(self) -> int:
        return self._count

    def keep(self, mask: np.ndarray) -> None:
        """Remove the vectors for which this (N,) is False."""
        self.kept &= mask
        self._count = int(self.kept.sum())

    def exact(self, places: np.ndarray | None = None) -> np.ndarray:
        """Vectors (N, E) of length 1: all, removed ones included, or those of some rows."""
        return self._flat.reconstruct_n(0, self.total) if places is None else self._flat.reconstruct_batch(places)

    def search(self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest by cosine of each query: scores (Q, k) and numbers of rows (Q, k), -1 where there are no more.

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
        if allowed is None and self._count == self.total:
            structure, how = self.directly(k)
            return structure.search(vectors, k, params=how)
        faiss, mask = import_faiss(), self.kept if allowed is None else self.kept & allowed
        chosen = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if mask.sum() < FEW * len(mask):
            return self._flat.search(vectors, k, params=faiss.SearchParameters(sel=chosen))
        return self._searched.search(vectors, k, params=self._parameters(k, chosen))

    def directly(self, k: int) -> tuple[Any, Any]:
        """FAISS's own index, and the parameters of a search among all of it."""
        how = self._known.get(k)
        if how is None:
            how = self._known[k] = self._parameters(k, None)
        return self._searched, how

    def _parameters(self, k: int, chosen: Any | None) -> Any:
        faiss = import_faiss()
        if self.kind == "flat":
            return faiss.SearchParameters(sel=chosen)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(SEARCH_WIDTH, 2 * k), sel=chosen)
        clusters = faiss.SearchParametersIVF(nprobe=max(16, self._fast.nlist // 32), sel=chosen)
        return faiss.IndexRefineSearchParameters(k_factor=REFINED, base_index_params=clusters)

    def extended(self, vectors: np.ndarray, rows: pa.Table) -> Vectors:
        """These and more, of the same kind. It is used up.

        Raises:
            InputError: it is mapped.
            IndexMismatch: vectors of another width, or not finite.
        """
        if self._mapped:
            raise InputError("nothing can be added to an index whose files are mapped: load it with mapped=False")
        vectors, rows = unit(vectors), rows.select(ROWS)
        if len(vectors) and vectors.shape[1] != self.width:
            raise IndexMismatch(f"vectors have {vectors.shape[1]} dimensions, and those of the index {self.width}")
        if self.kind != "hnsw":  # whose graph adds to them itself
            self._flat.add(vectors)
        if self._fast is not None:
            self._fast.add(vectors)
        rows = pa.concat_tables([self.rows, rows])
        return Vectors(rows, self._flat, self._fast, self.kind, np.append(self.kept, np.ones(len(vectors), bool)))

    def compact(self, kind: Kind | Literal["auto"]) -> Vectors:
        """The same without what was removed."""
        return Vectors.build(self.exact()[self.kept], self.rows.filter(pa.array(self.kept)), kind)

    def save(self, stem: Path) -> list[Path]:
        """Write the files that begin with ``stem``, and return them."""
        faiss = import_faiss()
        rows, flat, fast = (Path(f"{stem}.{suffix}") for suffix in ("parquet", "faiss", self.kind))
        pq.write_table(self.rows.append_column("kept", pa.array(self.kept)), rows, compression="zstd")
        files = [rows, flat, fast][: 2 if self._fast is None else 3]
        if self._mapped:  # as they are; of clusters FAISS would write where they lie, and not what they are
            for old, new in zip(self._mapped[1:], files[1:], strict=True):
                shutil.copyfile(old, new)
            return files
        faiss.write_index(self._flat, str(flat))
        if self._fast is not None:
            faiss.write_index(self._fast, str(fast), faiss.IO_FLAG_SKIP_STORAGE if self.kind == "hnsw" else 0)
        return files

    @classmethod
    def load(cls, files: Sequence[Path], kind: Kind, mapped: bool = True) -> Vectors:
        """What `save` wrote; the operating system reads of it what is looked at, unless ``mapped`` is False.

        Raises:
            OSError, RuntimeError, pyarrow.ArrowInvalid: a file is missing or damaged.
        """
        faiss = import_faiss()
        rows = pq.read_table(files[0])
        flat = faiss.read_index(str(files[1]), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        fast = None
        if kind == "hnsw":
            how = faiss.IO_FLAG_SKIP_STORAGE | (faiss.IO_FLAG_MMAP_IFC if mapped else 0)
            fast = faiss.read_index(str(files[2]), how)
            fast.storage, fast.own_fields = flat, False
        elif kind == "ivfpq":
            fast = faiss.read_index(str(files[2]), faiss.IO_FLAG_MMAP if mapped else 0)
        kept = rows.column("kept").to_numpy()
        return cls(rows.drop_columns(["kept"]), flat, fast, kind, kept.copy(), files if mapped else ())


def _graph(faiss: Any, flat: Any) -> Any:
    graph = faiss.IndexHNSWFlat(flat.d, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.storage, graph.own_fields = flat, False
    graph.hnsw.efConstruction = BUILD_WIDTH
    return graph


def _clusters(faiss: Any, vectors: np.ndarray) -> Any:
    """Clusters of compressed vectors, trained on a sample."""
    count, width = vectors.shape
    lists = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(count))))
    needed = max(256, lists)  # that k-means has as many as it makes
    if count < needed:
        raise InputError(f"ivfpq needs at least {needed} vectors, not {count}: take flat or hnsw")
    codes = next(m for m in (width // 4, width // 2, width, 1) if m and width % m == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = 0
    sample = np.random.default_rng(0).choice(count, min(count, PER_CLUSTER * lists), replace=False)
    index.train(vectors[np.sort(sample)])
    index.add(vectors)
    return index


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 and contiguous as FAISS wants them.

    Raises:
        IndexMismatch: NaN or infinity.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if len(vectors) == 1:  # a query, which is to cost little
        length = math.sqrt(np.dot(vectors[0], vectors[0]))
        if abs(length - 1) < UNIT:
            return vectors
        if length < math.inf:
            return vectors / np.float32(max(length, 1e-12))
    lengths = np.sqrt(np.einsum("ne,ne->n", vectors, vectors))[:, None]  # not finite if one value is not
    # What has length 1 stays as it is, to the last bit: an index may be put together and compacted again and again.
    off = np.abs(lengths - 1)
    most = off.max(initial=0.0)
    if most < UNIT:
        return vectors
    if not most < np.inf:
        raise IndexMismatch("vectors hold NaN or infinity")
    lengths[off < UNIT] = 1
    return vectors / np.maximum(lengths, 1e-12)


def import_faiss() -> Any:
    """FAISS, or how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError('the index needs FAISS: pip install "vatt[search]"') from error
    return faiss
