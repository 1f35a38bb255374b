"""Build the FAISS structures of an index."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vatt.errors import InputError

LINKS, BUILD_WIDTH = 32, 128  # M and efConstruction of graphs
PER_CLUSTER = 64  # training vectors per cluster


def import_faiss() -> Any:
    """Return the FAISS module.

    Raises:
        ImportError: FAISS is not installed; the message says how to install it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError('the index needs FAISS: pip install "vatt[search]"') from error
    return faiss


def make_graph(flat: Any) -> Any:
    """Return an empty HNSW graph that adds to, and takes its distances from, an `IndexFlatIP`."""
    faiss = import_faiss()
    graph = faiss.IndexHNSWFlat(flat.d, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.storage, graph.own_fields = flat, False
    graph.hnsw.efConstruction = BUILD_WIDTH
    return graph


def make_clusters(vectors: np.ndarray) -> Any:
    """Return clusters of compressed vectors (IVF-PQ), trained on a sample of (U, E) vectors.

    Raises:
        InputError: There are fewer vectors than centroids of k-means.
    """
    faiss = import_faiss()
    count, width = vectors.shape
    lists = 2 ** round(math.log2(max(1.0, 4 * math.sqrt(count))))
    needed = max(256, lists)  # k-means needs at least as many vectors as centroids
    if count < needed:
        raise InputError(
            f"ivfpq needs at least {needed} vectors, not {count} (near-duplicates count once): use flat or hnsw"
        )
    codes = next(m for m in (width // 4, width // 2, width, 1) if m and width % m == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = index.pq.cp.seed = 0
    sample = np.random.default_rng(0).choice(count, min(count, PER_CLUSTER * lists), replace=False)
    index.train(vectors[np.sort(sample)])
    index.add(vectors)
    return index


def view(flat: Any) -> np.ndarray:
    """Return the (U, E) vectors of a flat index without a copy."""
    if not flat.ntotal:
        return np.zeros((0, flat.d), np.float32)
    return import_faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d).reshape(flat.ntotal, flat.d)


def inner_products(vectors: np.ndarray, query: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return (M,) inner products of a query (E,) with some of (U, E) vectors, bitwise equal to `IndexFlatIP`.

    Args:
        vectors: (U, E) float32, contiguous.
        query: (E,) float32.
        numbers: (M,) rows of ``vectors``.
    """
    faiss, products = import_faiss(), np.empty(len(numbers), np.float32)
    numbers = np.ascontiguousarray(numbers, np.int64)
    pointers = (faiss.swig_ptr(x) for x in (products, np.ascontiguousarray(query), vectors, numbers))
    faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(numbers))
    return products
