"""Groups of duplicate and near-duplicate vectors.

An HNSW graph over many near-duplicates links them to each other only, and other vectors become unreachable: with 2,000
copies of one vector, none of 500 other vectors was found. Therefore a graph has one representative of each group of
near-duplicates. A search compares the representatives first, and then all vectors of the best groups exactly. Equal
vectors are stored once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from vatt.retrieval.tables import StoreError

ALMOST = 0.999  # smallest cosine of near-duplicates
RADIUS = math.sqrt(2 * (1 - ALMOST))  # distance of unit vectors with that cosine
FAN, LEAF = 256, 1024  # of the search tree: centers of a node, and vectors that are compared pairwise
PART = 4096  # rows that are hashed together


@dataclass(frozen=True)
class Groups:
    """Mapping from rows to distinct vectors, and from vectors to representatives.

    Args:
        of_row: (N,) int64; number of the vector of each row, in [0, U).
        representative: (U,) int64; number of the representative of each vector. Representatives come first: they have
            the numbers in [0, R).
    """

    of_row: np.ndarray
    representative: np.ndarray

    @classmethod
    def single(cls, rows: int) -> Groups:
        """Return the groups of rows with distinct vectors."""
        return cls(np.arange(rows), np.arange(rows))

    @cached_property
    def representatives(self) -> int:
        """R, the number of groups."""
        return int(self.representative.max(initial=-1)) + 1

    @cached_property
    def is_single(self) -> bool:
        """Return whether every row has its own vector, which represents itself, in the order of the rows."""
        rows, vectors = len(self.of_row), len(self.representative)
        return rows == vectors == self.representatives and np.array_equal(self.of_row, np.arange(rows))

    @property
    def has_near(self) -> bool:
        """Return whether any vector is represented by another one."""
        return self.representatives < len(self.representative)

    @cached_property
    def _rows(self) -> _Lists:
        return _Lists.of(self.of_row, len(self.representative))

    @cached_property
    def _members(self) -> _Lists:
        return _Lists.of(self.representative, self.representatives)

    def members(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers of all vectors that the given representatives represent."""
        return self._members.take(numbers)[0]

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """Return how many vectors each of the given representatives represents."""
        return self._members.lengths(numbers)

    def rows(self, numbers: np.ndarray, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the given vectors, in order of vectors and rows, and the index into ``numbers`` of each.

        Args:
            numbers: Vectors.
            limit: Maximum number of rows of each vector; None for all.
        """
        return self._rows.take(numbers, limit)

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """Return (U,) bool: the vectors of the rows that are given as (N,) bool."""
        mask = np.zeros(len(self.representative), bool)
        mask[self.of_row[rows]] = True
        return mask

    def extended(self, of_row: np.ndarray, representative: np.ndarray) -> tuple[Groups, np.ndarray, np.ndarray]:
        """Add rows and vectors. New representatives follow the old ones, so the numbers of other vectors increase.

        Args:
            of_row: Vectors of the new rows: numbers of old vectors, or U + i for the new vector i.
            representative: Representatives of the new vectors, numbered in the same way.

        Returns:
            All groups, the new vectors that represent themselves, and the other new ones.
        """
        first, count = self.representatives, len(self.representative)
        is_own = representative == count + np.arange(len(representative))
        own, others = np.flatnonzero(is_own), np.flatnonzero(~is_own)
        number = np.empty(count + len(representative), np.int64)
        number[:first], number[first:count] = np.arange(first), np.arange(first, count) + len(own)
        number[count + own] = first + np.arange(len(own))
        number[count + others] = count + len(own) + np.arange(len(others))
        new_representative = np.empty_like(number)
        new_representative[number] = number[np.concatenate([self.representative, representative])]
        return Groups(number[np.concatenate([self.of_row, of_row])], new_representative), own, others


@dataclass(frozen=True)
class _Lists:
    """Concatenated lists of numbers."""

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, count: int) -> _Lists:
        """Return for every key in [0, count) its positions, in order."""
        return cls(np.argsort(keys, kind="stable"), np.append(0, np.cumsum(np.bincount(keys, minlength=count))))

    def lengths(self, keys: np.ndarray) -> np.ndarray:
        return self.starts[keys + 1] - self.starts[keys]

    def take(self, keys: np.ndarray, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the lists of some keys, concatenated, and the index into ``keys`` of each value."""
        lengths = self.lengths(keys)
        lengths = lengths if limit is None else np.minimum(lengths, limit)
        which = np.repeat(np.arange(len(keys)), lengths)
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return self.values[self.starts[keys][which] + within], which


def read_groups(file: Path, rows: pa.Table, vectors: int, representatives: int) -> Groups:
    """Return the groups that are stored with the rows of an index.

    Args:
        file: File of the rows, for messages.
        rows: Rows with the columns ``vector`` and ``representative``.
        vectors: Number of stored vectors.
        representatives: Number of vectors in the graph or the clusters.

    Raises:
        StoreError: The groups are inconsistent, or do not match the numbers of vectors and representatives.
    """
    of_row, representative = (rows.column(name).combine_chunks() for name in ("vector", "representative"))
    if of_row.null_count == len(rows) and representative.null_count == len(rows):
        groups = Groups.single(len(rows))
    elif of_row.null_count or representative.null_count:
        raise StoreError(f"{file} is damaged: rows have no vector numbers")
    else:
        of_row, representative = of_row.to_numpy(), representative.to_numpy()
        if not (of_row.min() >= 0 and of_row.max() < vectors):
            raise StoreError(f"{file} is damaged: vector numbers of rows are outside [0, {vectors})")
        by_vector = np.full(vectors, -1)
        by_vector[of_row] = representative
        own = np.arange(representatives)
        if not np.array_equal(by_vector[of_row], representative) or not np.array_equal(
            by_vector[:representatives], own
        ):
            raise StoreError(f"{file} is damaged: rows of one vector have several representatives")
        groups = Groups(of_row, by_vector)
    by_vector = groups.representative
    if len(by_vector) != vectors or (
        vectors and not 0 <= by_vector.min() <= by_vector.max() < representatives <= vectors
    ):
        raise StoreError(f"{file}: the rows have {len(by_vector)} vectors, but there are {vectors}")
    return groups


def find_groups(vectors: np.ndarray, near: bool) -> tuple[np.ndarray, Groups]:
    """Find duplicate and near-duplicate vectors among rows.

    Args:
        vectors: (N, E) float32 of length 1, contiguous.
        near: Also group near-duplicates.

    Returns:
        (U,) the rows whose vectors are to be stored, in this order, and the groups.
    """
    first = first_equal(vectors)
    stored = np.flatnonzero(first == np.arange(len(first)))
    if not near:
        return stored, Groups(np.searchsorted(stored, first), np.arange(len(stored)))
    representative = group(vectors if len(stored) == len(vectors) else vectors[stored])
    # Representatives, then the others, group by group.
    order = np.lexsort((representative, representative != np.arange(len(representative))))
    number = np.argsort(order)
    return stored[order], Groups(number[np.searchsorted(stored, first)], number[representative[order]])


def first_equal(vectors: np.ndarray) -> np.ndarray:
    """Return (N,) int64: for each row the first one that has the same bytes.

    Args:
        vectors: (N, E) float32, contiguous.
    """
    _, first, inverse = np.unique(_hashes(vectors), return_index=True, return_inverse=True)
    first, rows = first[inverse], np.arange(len(vectors))
    copies = np.flatnonzero(first != rows)
    differ = copies[~_same(vectors, copies, vectors, first[copies])]
    first[differ] = differ  # hash collisions
    return first


def find_equal(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return (N,) int64: for each row one of ``known`` (U, E) that has the same bytes, or -1.

    Args:
        vectors: (N, E) float32, contiguous.
        known: (U, E) float32, contiguous.
    """
    if not len(known):
        return np.full(len(vectors), -1)
    hashes, queries = _hashes(known), _hashes(vectors)
    order = np.argsort(hashes, kind="stable")
    match = order[np.minimum(np.searchsorted(hashes, queries, sorter=order), len(known) - 1)]
    return np.where(_same(vectors, np.arange(len(vectors)), known, match), match, -1)


def _hashes(vectors: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 hashes of the bytes of rows."""
    factors = np.random.default_rng(0).integers(2**63, size=vectors.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), PART):
        mixed = (vectors[start : start + PART].view(np.uint32).astype(np.uint64) + np.uint64(2**31 - 1)) * factors
        hashes[start : start + PART] = (mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return hashes


def _same(a: np.ndarray, rows: np.ndarray, b: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (M,) bool: whether pairs of rows of two arrays have the same bytes."""
    parts = [slice(start, start + PART) for start in range(0, len(rows), PART)]
    same = [(a[rows[p]].view(np.uint32) == b[others[p]].view(np.uint32)).all(axis=1) for p in parts]
    return np.concatenate([np.zeros(0, bool), *same])


def group(vectors: np.ndarray) -> np.ndarray:
    """Return (N,) int64: for each row the row that represents it, itself or one with a cosine of at least `ALMOST`.

    Rows are split recursively by the nearest of a few random rows, until the parts are small enough for pairwise
    comparison, so the time grows almost linearly. Pairs separated by a split are missed: a few rows of a large group
    may represent themselves.

    Args:
        vectors: (N, E) float32 of length 1.
    """
    representative = np.arange(len(vectors))
    rng, stack = np.random.default_rng(0), [np.arange(len(vectors))]
    while stack:
        rows = stack.pop()
        if len(rows) <= LEAF:
            _group_directly(vectors, rows, representative)
            continue
        centers = np.sort(rng.choice(rows, FAN, replace=False))
        centers = centers[_group_directly(vectors, centers)]
        nearest, cosine = _nearest(vectors, rows, centers)
        close = cosine >= ALMOST  # including the centers themselves
        representative[rows[close]] = centers[nearest[close]]
        rows, nearest = rows[~close], nearest[~close]
        order = np.argsort(nearest, kind="stable")
        parts = np.split(rows[order], np.flatnonzero(np.diff(nearest[order])) + 1)
        stack += [part for part in parts if len(part) > 1]
    return representative


def _group_directly(vectors: np.ndarray, rows: np.ndarray, representative: np.ndarray | None = None) -> np.ndarray:
    """Compare rows pairwise; return (len(rows),) bool: those that represent themselves."""
    x, own = vectors[rows], np.ones(len(rows), bool)
    near = x @ x.T >= ALMOST
    for i in np.flatnonzero(near.sum(axis=1) > 1):
        if own[i]:
            members = near[i] & own
            members[: i + 1] = False
            own &= ~members
            if representative is not None:
                representative[rows[members]] = rows[i]
    return own


def _nearest(vectors: np.ndarray, rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the number of the nearest center, and the cosine with it."""
    nearest, cosine, x = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32), vectors[centers].T
    for start in range(0, len(rows), PART):
        scores = vectors[rows[start : start + PART]] @ x
        nearest[start : start + PART] = best = scores.argmax(axis=1)
        cosine[start : start + PART] = scores[np.arange(len(best)), best]
    return nearest, cosine
