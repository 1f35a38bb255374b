"""Build the FAISS structures of an index, and read them from untrusted files.

FAISS allocates any size that a file declares, follows references to other files, and does not check the ids in graphs.
Therefore each file is parsed first, to check its type and that its lengths add up to its size. Then every number that
FAISS uses as an offset or id is checked against its range.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vatt.retrieval.faiss_structures import BUILD_WIDTH, LINKS, import_faiss

FLAT, GRAPH, CLUSTERS = b"IxFI", b"IHNf", b"IwPQ"
PQ_BITS = 8
BLOCK = 2**22  # numbers that are checked together
UNIT = 1e-3  # tolerance of the length of a vector in a file


class FileMismatch(ValueError):
    """A FAISS file does not have the type or content of a file of an index."""


def check_lengths(vectors: np.ndarray) -> None:
    """Check that vectors have length 1 or are zero.

    Raises:
        FileMismatch: A vector has another length.
    """
    for start in range(0, len(vectors), 2**14):
        block = vectors[start : start + 2**14]
        squares = np.einsum("ne,ne->n", block, block)
        wrong = np.flatnonzero(~((np.abs(squares - 1) < UNIT) | (squares == 0)))
        if len(wrong):
            raise FileMismatch(f"vector {start + wrong[0]} does not have length 1")


def read_flat(path: Path, mapped: bool) -> Any:
    """Read a file with all vectors.

    Args:
        path: File of an `IndexFlatIP` that `faiss.write_index` has written.
        mapped: Leave the vectors on disk until they are used.

    Raises:
        FileMismatch: The content of the file is invalid.
        OSError, RuntimeError: The file cannot be read.
    """
    with path.open("rb") as file:
        parser = _Parser(file)
        parser.flat()
        parser.end()
    faiss = import_faiss()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)


def read_graph(path: Path, mapped: bool, vectors: Any) -> Any:
    """Read a file with an HNSW graph that takes its distances from other vectors. Raises like `read_flat`.

    Args:
        path: File of an `IndexHNSWFlat` that was written without its vectors.
        mapped: Leave the graph on disk until it is used.
        vectors: `IndexFlatIP` whose first rows are the nodes of the graph.
    """
    with path.open("rb") as file:
        parser = _Parser(file)
        count = parser.header(GRAPH, vectors.d)
        for item in (8, 4, 4, 8, 4):  # probabilities and offsets of the levels; levels, offsets and links of the nodes
            parser.vector(item)
        parser.take("<5i")
        if parser.take("<4s")[0] != b"null":
            raise FileMismatch("the graph has its own vectors")
        parser.end()
    faiss = import_faiss()
    graph = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE | (faiss.IO_FLAG_MMAP_IFC if mapped else 0))
    if count > vectors.ntotal:
        raise FileMismatch(f"the graph has {count} vectors, but there are {vectors.ntotal}")
    check_graph(graph.hnsw, count)
    graph.hnsw.efConstruction = BUILD_WIDTH
    graph.storage, graph.own_fields = vectors, False
    return graph


def read_clusters(path: Path, mapped: bool, vectors: Any) -> Any:
    """Read a file with clusters of compressed vectors. Raises like `read_flat`.

    Args:
        path: File of an `IndexIVFPQ`.
        mapped: Leave the compressed vectors on disk until they are used.
        vectors: `IndexFlatIP` whose first rows are the compressed vectors.
    """
    with path.open("rb") as file:
        parser = _Parser(file)
        count = parser.header(CLUSTERS, vectors.d)
        if count > vectors.ntotal:
            raise FileMismatch(f"the clusters have {count} vectors, but there are {vectors.ntotal}")
        parser.clusters(count, vectors.d)
        parser.end()
    faiss = import_faiss()
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)


class _Parser:
    """Parse a FAISS file without reading long arrays."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        file.seek(0)

    def take(self, form: str) -> tuple[Any, ...]:
        data = self.file.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise FileMismatch("truncated file")
        return struct.unpack(form, data)

    def skip(self, count: int) -> None:
        if not 0 <= count <= self.size - self.file.tell():
            raise FileMismatch("truncated file")
        self.file.seek(count, 1)

    def end(self) -> None:
        if self.file.tell() != self.size:
            raise FileMismatch("trailing data at the end of the file")

    def vector(self, item: int) -> int:
        """Skip an array of items of ``item`` bytes; return its length."""
        (count,) = self.take("<Q")
        self.skip(count * item)
        return count

    def header(self, kind: bytes, width: int | None = None) -> int:
        """Read the header of a structure; return its number of vectors."""
        code, d, count, _, _, trained, metric = self.take("<4siqqq?i")
        if code != kind:
            raise FileMismatch(f"the structure is of type {code!r}, not {kind!r}")
        if not 1 <= d <= 2**16 or count < 0 or not trained or metric != 0:
            raise FileMismatch(f"{count} vectors of {d} dimensions by metric {metric}")
        if width is not None and d != width:
            raise FileMismatch(f"the vectors have {d} dimensions, not {width}")
        self.width = d
        return count

    def flat(self, width: int | None = None) -> int:
        """Read an `IndexFlatIP`."""
        count = self.header(FLAT, width)
        if self.vector(4) != count * self.width:
            raise FileMismatch(f"the file does not have {count} vectors of {self.width} dimensions")
        return count

    def clusters(self, count: int, width: int) -> None:
        """Read what follows the header of an `IndexIVFPQ`, and check that every id in its lists is in range."""
        lists, _ = self.take("<QQ")
        if self.flat(width) != lists:
            raise FileMismatch(f"the number of centroids is not {lists}, the number of clusters")
        map_type = self.take("<B")[0]
        if map_type or self.vector(8):
            raise FileMismatch("the clusters have an id map")
        _, code_size = self.take("<?Q")
        d, parts, bits = self.take("<QQQ")
        if d != width or not 1 <= parts <= d or d % parts or bits != PQ_BITS or code_size != parts:
            raise FileMismatch(f"codes of {parts} x {bits} bits do not match {width} dimensions")
        if self.vector(4) != d * 2**bits:
            raise FileMismatch(f"the codebook does not have {2**bits} centroids of {d} dimensions")
        code, lists_again, code_size_again = self.take("<4sQQ")
        if code != b"ilar" or lists_again != lists or code_size_again != code_size:
            raise FileMismatch(f"the lists have type {code!r} and are not in this file")
        sizes = self.sizes(lists)
        if int(sizes.sum(dtype=np.uint64)) != count or (len(sizes) and int(sizes.max()) > count):
            raise FileMismatch(f"the lists do not have {count} vectors")
        for size in sizes[sizes > 0].tolist():
            self.skip(size * code_size)
            rows = np.frombuffer(self.read(size * 8), np.int64)
            if rows.min() < 0 or rows.max() >= count:
                raise FileMismatch(f"a list has vector ids outside [0, {count})")

    def sizes(self, lists: int) -> np.ndarray:
        """Return the lengths of all lists, or of the lists that are not empty."""
        code, length = self.take("<4sQ")
        data = np.frombuffer(self.read(length * 8), np.uint64)
        if code == b"full" and length == lists:
            return data
        if code == b"sprs" and length % 2 == 0 and np.all(data[::2] < lists) and np.all(np.diff(data[::2]) > 0):
            return data[1::2]
        raise FileMismatch("the lengths of the lists are damaged")

    def read(self, count: int) -> bytes:
        start = self.file.tell()
        self.skip(count)
        self.file.seek(start)
        return self.file.read(count)


def check_graph(graph: Any, count: int) -> None:
    """Check that a search of the graph stays inside its arrays.

    Args:
        graph: The ``hnsw`` attribute of an `IndexHNSW`.
        count: Number of its nodes.

    Raises:
        FileMismatch: An offset or id is out of range.
    """
    faiss = import_faiss()
    offset_of_level = faiss.vector_to_array(graph.cum_nneighbor_per_level)
    levels, offsets = faiss.vector_to_array(graph.levels), faiss.vector_to_array(graph.offsets)
    size = graph.neighbors.size()
    usual = np.arange(len(offset_of_level)) * LINKS + LINKS
    usual[:1] = 0  # twice as many links on the lowest level
    chances = faiss.vector_to_array(graph.assign_probas)
    if len(chances) != len(usual) - 1 or not np.array_equal(offset_of_level, usual):
        raise FileMismatch("the levels of the graph are damaged")
    if len(levels) != count or len(offsets) != count + 1 or (count and not levels.min() >= 1):
        raise FileMismatch("the nodes of the graph are damaged")
    if count and (levels.max() >= len(offset_of_level) or levels.max() - 1 != graph.max_level):
        raise FileMismatch("the levels of the graph are damaged")
    lengths = offset_of_level[levels].astype(np.uint64)
    if offsets[0] != 0 or offsets[-1] != size or not np.array_equal(np.diff(offsets), lengths):
        raise FileMismatch("the links of the graph are damaged")
    entry = graph.entry_point
    if not (0 <= entry < count and levels[entry] - 1 == graph.max_level if count else entry == -1):
        raise FileMismatch("the entry point of the graph is out of range")
    neighbors = faiss.rev_swig_ptr(graph.neighbors.data(), size) if size else np.zeros(0, np.int32)
    for start in range(0, size, BLOCK):
        block = neighbors[start : start + BLOCK]
        if block.min() < -1 or block.max() >= count:
            raise FileMismatch("the graph has node ids out of range")
    for level in range(1, int(levels.max(initial=1))):  # above the lowest one, only nodes of a level are linked
        nodes = np.flatnonzero(levels > level)
        at = offsets[nodes, None].astype(np.int64) + np.arange(offset_of_level[level], offset_of_level[level + 1])
        linked = neighbors[at]
        if np.any(levels[linked[linked >= 0]] <= level):
            raise FileMismatch("the graph links nodes of different levels")
