"""Operations on tables of rows: paths of media, and equal clips of two tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.identity import file_identities, whole_ms
from vatt.retrieval.paths import Location, is_below
from vatt.retrieval.tables import StoreError

ClipKey = tuple[str, str]  # id and path
Segment = tuple[float, float]  # start and end of a clip in whole milliseconds; infinity is the end of the file


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


def clips_of(parts: Mapping[tuple[str, str], pa.Table]) -> dict[ClipKey, Segment]:
    """Return the clips of several tables, and the segment of each.

    Args:
        parts: Rows by modality and space.

    Raises:
        StoreError: A file has two segments with the same id.
    """
    clips = dict[ClipKey, Segment]()
    for rows in parts.values():
        start_s, end_s = rows.column("clip_start_s"), pc.fill_null(rows.column("clip_end_s"), math.inf)
        table = pa.table(
            {
                "id": rows.column("id"),
                "path": rows.column("path"),
                "start_ms": whole_ms(start_s.to_numpy()),
                "end_ms": whole_ms(end_s.to_numpy()),
            }
        )
        table = table.group_by(table.column_names, use_threads=False).aggregate([])
        for name, path, *segment in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if clips.setdefault((name, path), tuple(segment)) != tuple(segment):
                raise StoreError(f"id {name!r} of {path} has two segments: give each segment an id of its own")
    return clips


def equal_clips(clips: Mapping[ClipKey, Segment]) -> dict[ClipKey, ClipKey]:
    """Return for each clip the first one with the same file and segment, which may be itself.

    Args:
        clips: Segments of clips, by clip (see `clips_of`).
    """
    identity, first = file_identities(), dict[tuple[str, Segment], ClipKey]()
    return {clip: first.setdefault((identity(clip[1]), segment), clip) for clip, segment in clips.items()}


def replaced_clips(old: Mapping[ClipKey, Segment], new: Mapping[ClipKey, Segment]) -> set[ClipKey]:
    """Return the clips of ``old`` that are among ``new``: the same file, with the same id or the same segment.

    Files are compared by name and by directory, with symbolic links of the directory resolved.

    Args:
        old: Segments of the clips of an index, by clip (see `clips_of`).
        new: Segments of the clips that are added, by clip.
    """
    identity = file_identities()
    names = {(name, identity(path)) for name, path in new}
    segments = {(identity(path), segment) for (_, path), segment in new.items()}
    return {
        (name, path)
        for (name, path), segment in old.items()
        if (name, identity(path)) in names or (identity(path), segment) in segments
    }


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
