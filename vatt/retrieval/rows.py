"""Operations on tables of rows: paths of media, and equal clips of two tables."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.identity import file_identity
from vatt.retrieval.paths import Location, is_below
from vatt.retrieval.tables import StoreError

SAME_S = 0.01  # seconds by which the ends of one segment may differ
ClipKey = tuple[str, str]  # id and path


def map_paths(rows: pa.Table, function: Callable[[str], str]) -> pa.Table:
    """Return rows with other paths.

    Args:
        rows: With a column ``path``.
        function: Called once for each distinct path of a chunk.
    """
    chunks = []
    for chunk in rows.column("path").chunks:
        encoded = chunk.dictionary_encode()
        new = pa.array([function(path) for path in encoded.dictionary.to_pylist()], pa.string())
        chunks.append(pa.DictionaryArray.from_arrays(encoded.indices, new).cast(pa.string()))
    return rows.set_column(rows.schema.get_field_index("path"), "path", pa.chunked_array(chunks, pa.string()))


def distinct_paths(tables: Iterable[pa.Table]) -> list[str]:
    """Return the paths of several tables, each once, in the order of the tables."""
    return list(dict.fromkeys(path for rows in tables for path in pc.unique(rows.column("path")).to_pylist()))


def moved_rows(rows: pa.Table, location: Location, moved: Collection[str]) -> pa.Table:
    """Return rows with the present paths of their media.

    Args:
        rows: With a column ``path``.
        location: Of the embeddings or the index that the rows are from.
        moved: Roots of media that moved with it (see `Location.moved_roots`).
    """
    if not moved:
        return rows
    return map_paths(rows, lambda path: location.relocated(path) if is_below(path, moved) else path)


def check_paths(paths: pa.ChunkedArray, roots: Sequence[str], name: str) -> None:
    """Check that the media of rows lie below roots.

    Args:
        paths: Column of rows.
        roots: Directories and URL prefixes.
        name: File, for messages.

    Raises:
        StoreError: A path is not absolute and normalized, or lies outside all roots.
    """
    is_url = pc.match_substring(paths, "://")
    odd = pc.match_substring_regex(paths, r"(^|/)\.\.?(/|$)|//|[^/]/$")
    usual = pc.or_(pc.and_(pc.starts_with(paths, "/"), pc.invert(odd)), is_url)
    usual = pc.and_(usual, pc.invert(pc.match_substring(paths, "/../")))
    below = pc.starts_with(paths, "\0")
    for root in roots:
        below = pc.or_(below, pc.starts_with(paths, root if root.endswith("/") else root + "/"))
    wrong = pc.index(pc.and_(usual, below), False).as_py()
    if wrong >= 0:
        shown = ", ".join(roots[:3]) + (", …" if len(roots) > 3 else "") or "none"
        raise StoreError(
            f"{name}, row {wrong}: {paths[wrong].as_py()[:200]!r} lies outside the embedded directories ({shown})"
        )


def clips_of(parts: Mapping[tuple[str, str], pa.Table]) -> dict[ClipKey, tuple[float, float]]:
    """Return the clips of several tables, and the start of the first and the end of the last window of each.

    Args:
        parts: Rows by modality and space. The times of captions are used for clips without windows only.
    """
    windows, captions = dict[ClipKey, tuple[float, float]](), dict[ClipKey, tuple[float, float]]()
    for (modality, _), rows in parts.items():
        clips = captions if modality == "text" else windows
        table = rows.group_by(["id", "path"]).aggregate([("start_s", "min"), ("end_s", "max")])
        columns = (table.column(name).to_pylist() for name in ("id", "path", "start_s_min", "end_s_max"))
        for name, path, start_s, end_s in zip(*columns, strict=True):
            known = clips.get((name, path), (start_s, end_s))
            clips[name, path] = (min(start_s, known[0]), max(end_s, known[1]))
    return captions | windows


class _Segments:
    """Clips by file and segment, with a tolerance of `SAME_S` for start and end."""

    def __init__(self) -> None:
        self._clips: dict[tuple[str, int, int], list[tuple[float, float, ClipKey]]] = defaultdict(list)

    def add(self, file: str, segment: tuple[float, float], clip: ClipKey) -> None:
        self._clips[file, *(round(time_s / SAME_S) for time_s in segment)].append((*segment, clip))

    def find(self, file: str, segment: tuple[float, float]) -> ClipKey | None:
        """Return the first clip with this segment, or None."""
        (start_s, end_s), (i, j) = segment, (round(time_s / SAME_S) for time_s in segment)
        for clips in (self._clips.get((file, i + di, j + dj), ()) for di in (-1, 0, 1) for dj in (-1, 0, 1)):
            for a, b, clip in clips:
                if abs(start_s - a) <= SAME_S + 1e-9 and abs(end_s - b) <= SAME_S + 1e-9:
                    return clip
        return None


def equal_clips(clips: Mapping[ClipKey, tuple[float, float]]) -> dict[ClipKey, ClipKey]:
    """Map each clip to the first one with the same file and segment, which may be itself.

    Args:
        clips: Segments of clips, by clip (see `clips_of`). Segments are the same if both their ends differ by 10 ms at
            most.
    """
    identity = partial(file_identity, realpath=lru_cache(maxsize=None)(os.path.realpath))
    segments, first = _Segments(), dict[ClipKey, ClipKey]()
    for clip, segment in clips.items():
        file = identity(clip[1])
        first[clip] = segments.find(file, segment) or clip
        if first[clip] == clip:
            segments.add(file, segment, clip)
    return first


def replaced_clips(
    old: Mapping[ClipKey, tuple[float, float]], new: Mapping[ClipKey, tuple[float, float]]
) -> set[ClipKey]:
    """Return the clips of ``old`` that are among ``new``: the same file, with the same id or the same segment.

    Files are the same if their names are, and their directories once symbolic links are followed. Segments are the same
    if both their ends differ by 10 ms at most.

    Args:
        old: Segments of the clips of an index, by clip.
        new: Segments of the clips that are added, by clip.
    """
    identity = partial(file_identity, realpath=lru_cache(maxsize=None)(os.path.realpath))
    names, segments = set[ClipKey](), _Segments()
    for (name, path), segment in new.items():
        file = identity(path)
        names.add((name, file))
        segments.add(file, segment, (name, path))
    files, replaced = {file for _, file in names}, set[ClipKey]()
    for (name, path), segment in old.items():
        file = identity(path)
        if file in files and ((name, file) in names or segments.find(file, segment)):
            replaced.add((name, path))
    return replaced


def is_clip(rows: pa.Table, clips: Collection[ClipKey]) -> np.ndarray:
    """Return (N,) bool: whether rows belong to the given clips.

    Args:
        rows: Rows with the columns ``id`` and ``path``.
        clips: Ids and paths of clips.
    """
    if not clips:
        return np.zeros(len(rows), bool)
    names = pc.binary_join_element_wise(rows.column("id"), rows.column("path"), "\0")
    return pc.is_in(names, pa.array([f"{name}\0{path}" for name, path in clips], pa.string())).to_numpy()
