"""Identity of clips: file and segment. Rows of one file and segment are one clip, whatever their ids are.

Start and end of segments are compared in whole milliseconds (`whole_ms`).
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from vatt.media.sources.remote import is_url, local_path
from vatt.structures import Clip


def file_identity(path: str, realpath: Callable[[str], str] = os.path.realpath) -> str:
    """Return the absolute path of a file with the symbolic links of its directory resolved.

    ``file://`` URLs are converted to paths; other URLs are unchanged.

    Args:
        path: File, member of a shard, or URL.
        realpath: Resolves the links of a directory.
    """
    path = local_path(path)
    if is_url(path):
        return path
    directory, name = os.path.split(path)
    return os.path.join(realpath(directory), name)


def file_identities(relocate: Callable[[str], str] = str) -> Callable[[str], str]:
    """Return a cached version of `file_identity` that resolves each directory once.

    Args:
        relocate: Returns the current path of a file, which may have been moved.
    """
    realpath = lru_cache(maxsize=None)(os.path.realpath)
    return lru_cache(maxsize=None)(lambda path: file_identity(relocate(path), realpath))


def whole_ms(seconds: ArrayLike) -> np.ndarray:
    """Return times in seconds as whole milliseconds, the precision to which segments are compared.

    Args:
        seconds: Times of any shape. Infinity, the end of a file, stays as it is.
    """
    return np.rint(np.asarray(seconds, np.float64) * 1000) + 0.0  # no negative zero


@dataclass(frozen=True)
class Segments:
    """Files and segments of N clips.

    Attributes:
        file: (N,) number of the file.
        origin: (N,) number of the original of the file, which several files may have been cut from (column
            ``x_source``, see `vatt.preparation.shards`).
        start_s: (N,) start in seconds.
        end_s: (N,) end in seconds; infinite if it is the end of the file.
    """

    file: np.ndarray
    origin: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    @classmethod
    def concat(cls, tables: Sequence[Segments]) -> Segments:
        """Return the segments of several tables as one."""
        names = ("file", "origin", "start_s", "end_s")
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))

    def take(self, rows: Sequence[int]) -> Segments:
        """Return the segments of some clips."""
        return Segments(self.file[rows], self.origin[rows], self.start_s[rows], self.end_s[rows])

    def keys(self) -> list[tuple[int, float, float]]:
        """Return file, start and end of each clip, in whole milliseconds."""
        times_ms = whole_ms(self.start_s).tolist(), whole_ms(self.end_s).tolist()
        return list(zip(self.file.tolist(), *times_ms, strict=True))

    def span_s(self, index: int) -> tuple[float, float]:
        """Return the start and the end of a clip in seconds."""
        return float(self.start_s[index]), float(self.end_s[index])


def read_segments(tables: Sequence[Iterable[Clip]]) -> list[Segments]:
    """Return the segments of the clips of several tables, with the same numbers for the same files.

    Args:
        tables: Clips, which need not have texts.
    """
    identity = file_identities()
    files, origins = dict[str, int](), dict[str, int]()
    result = []
    for clips in tables:
        rows = array("d")
        for clip in clips:
            file = identity(clip.path)
            origin = str(clip.extra.get("x_source", file))
            end_s = math.inf if clip.end_s is None else clip.end_s
            numbers = files.setdefault(file, len(files)), origins.setdefault(origin, len(origins))
            rows.extend((*numbers, clip.start_s, end_s))
        file_of, origin_of, start_s, end_s = np.array(rows).reshape(-1, 4).T
        result.append(Segments(file_of.astype(np.int64), origin_of.astype(np.int64), start_s, end_s))
    return result


def is_same_moment(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Return whether two segments of one file share more than half of the shorter one.

    Args:
        a, b: Start and end in seconds.
    """
    shared_s = min(a[1], b[1]) - max(a[0], b[0])
    shortest_s = min(a[1] - a[0], b[1] - b[0])
    return shared_s > shortest_s / 2 or shared_s == math.inf


def count_shared(clips: Segments, others: Segments) -> tuple[int, int]:
    """Count the clips whose files are among those of other clips.

    Args:
        clips: Clips to count.
        others: Clips of another split.

    Returns:
        Number of clips of an original file of the others, and of those that overlap in time with one of the others.
    """
    shared = np.flatnonzero(np.isin(clips.origin, others.origin))
    candidates = np.flatnonzero(np.isin(others.file, clips.file[shared]))
    by_file: dict[int, list[int]] = {}
    for index in candidates.tolist():
        by_file.setdefault(int(others.file[index]), []).append(index)
    overlapping = 0
    for index in shared.tolist():
        near = by_file.get(int(clips.file[index]), [])
        start_s, end_s = clips.span_s(index)
        overlapping += bool(np.any((others.start_s[near] < end_s) & (others.end_s[near] > start_s)))
    return len(shared), overlapping


def count_distinct(clips: Segments) -> int:
    """Return how many clips can be chosen so that no two of them are the same moment of a file."""
    count, last = 0, (-1, (0.0, 0.0))
    order = np.lexsort((clips.start_s, clips.end_s, clips.file))  # the clip that ends first excludes the fewest others
    for index in order.tolist():
        file, span_s = int(clips.file[index]), clips.span_s(index)
        if file != last[0] or not is_same_moment(span_s, last[1]):
            count, last = count + 1, (file, span_s)
    return count
