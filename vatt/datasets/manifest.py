"""Manifests: which clips there are, where, and what is known about them.

A manifest is a CSV, TSV, JSONL or Parquet file, behind a URL if need be, or a folder of media files, which may be
images if it holds nothing else. The columns are in `vatt.datasets.rows.COLUMNS`; only ``path`` is needed. A list or a
record in a CSV cell is written as JSON. Columns of your own begin with ``x_``. Rows of the same segment of a file are
one clip (see `vatt.datasets.manifests.grouping`).
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import compress
from operator import not_
from pathlib import Path

from vatt.datasets.folders import MEDIA_SUFFIXES, PICTURE_SUFFIXES, describe, fixed_part, is_listed, list_media
from vatt.datasets.identity import file_identities
from vatt.datasets.manifests.files import READERS, from_media, read_rows
from vatt.datasets.rows import to_row
from vatt.datasets.splits import count_synonyms, describe_missing, describe_unused, match_split
from vatt.datasets.table import ClipTable
from vatt.errors import InputError, ManifestError
from vatt.io import atomic_write
from vatt.media.sources.remote import is_url
from vatt.structures import Clip


def read_manifest(source: str | Path, *, split: str | None = None, check_files: bool = True) -> ClipTable:
    """Read a manifest file, or take a folder of media files as one.

    Args:
        source: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file or URL, a folder (searched recursively and through
            links, sorted by path; see `vatt.datasets.folders` for files that are skipped), a single media file, or a
            pattern of media files (``*``, ``?``, ``**/`` any folders).
        split: keep only the rows of this split.
        check_files: look whether every ``path`` and ``audio_path`` exists.

    Returns:
        Clips in the order of their first rows, with paths resolved against the manifest's folder. Warnings report how
        many rows describe how many clips, cells read as missing, and files skipped because of their names.

    Raises:
        ManifestError: nothing there, no rows, unknown or missing columns, a bad value, a missing file, or an id of
            several clips; see docs/data.md.
    """
    name = str(source)
    suffix = Path(name).suffix.lower()
    if is_listed(name):
        clips = from_media(name, _from_listing(name))
    elif not is_url(name) and not Path(name).exists():
        raise ManifestError(f"there is no manifest and no folder at {name}")
    elif suffix in MEDIA_SUFFIXES | PICTURE_SUFFIXES:
        clips = from_media(name, [Clip(id=Path(name).name, path=name)])
    else:
        clips = read_rows(name, suffix, check_files)
    return clips if split is None else of_split(clips, split, source)


def of_split(clips: ClipTable, split: str, source: str | Path) -> ClipTable:
    """Return the rows of one split, or of a synonym of it (see `vatt.datasets.splits.match_split`).

    Warns if a synonym is used, and if rows of synonyms are not used.

    Raises:
        ManifestError: there is none in the source, or several names match.
    """
    splits = [clip.split for clip in clips.heads()]
    counts = Counter(splits)
    try:
        name = match_split(split, counts)
        unused = describe_unused(count_synonyms(split, counts))
    except InputError as error:
        raise ManifestError(f"{source}: {error}") from None
    if name is None:
        raise ManifestError(f"{source}: {describe_missing([split], counts)}")
    chosen = clips.take(number for number, own in enumerate(splits) if own == name)
    if name != split:
        warnings.warn(f"{source}: split {name!r} ({len(chosen)} rows) is used as {split!r}", stacklevel=2)
    if unused:
        warnings.warn(f"{source}: split {name!r} ({len(chosen)} rows) is used; not used: {unused}", stacklevel=2)
    return chosen


def hold_out(clips: Sequence[Clip], fraction: float) -> tuple[ClipTable, ClipTable]:
    """Part clips in two by a hash of their ids: stable when files are added, removed or reordered.

    The rows of one file stay together, on the side of the smallest of their ids, unless all are of one file.

    Args:
        clips: any clips.
        fraction: share of the second part, in [0, 1].

    Returns:
        The larger part and the part held out.
    """
    # Pieces of one file in a shard have different paths, and the file that they were cut from in x_source.
    table = clips if isinstance(clips, ClipTable) else ClipTable(clips)
    identity = file_identities()
    origins = [(clip.id, str(clip.extra.get("x_source", identity(clip.path)))) for clip in table.heads()]
    files: dict[str, str] = {}
    for clip_id, origin in origins:
        files[origin] = min(clip_id, files.get(origin, clip_id))

    def held(name: str) -> bool:
        return int.from_bytes(sha256(name.encode()).digest()[:8], "big") / 2**64 < fraction

    sides = [held(files[origin] if len(files) > 1 else clip_id) for clip_id, origin in origins]
    rows = range(len(table))
    return table.take(compress(rows, map(not_, sides))), table.take(compress(rows, sides))


def write_manifest(clips: Iterable[Clip], path: str | Path) -> None:
    """Write clips as JSONL atomically, with relative paths for files below the directory of the manifest.

    Raises:
        ManifestError: a row holds what UTF-8 cannot, such as half of a pair of surrogates.
        WriteError: The disk is full or read-only.
    """
    path = Path(path)
    with atomic_write(path, "w") as file:
        for clip in clips:
            line = json.dumps(to_row(clip, path.parent), ensure_ascii=False) + "\n"
            try:
                file.write(line)
            except UnicodeEncodeError as error:
                around = line[max(error.start - 20, 0) : error.end + 20]
                raise ManifestError(f"row {clip.id!r}: {around!r} cannot be written as UTF-8") from None


def _from_listing(source: str) -> list[Clip]:
    """Return a clip for each media file of a directory or pattern, with its path below that as the id."""
    listing = list_media(source)
    root, kind = Path(source), "folder {} holds no media file"
    if not root.is_dir():
        root, kind = fixed_part(source), "no media file matches {}"
    if not listing.media:
        skipped = f"; skipped: {describe(listing.counts.items())}" if listing.skipped else ""
        manifest_suffixes = [suffix for suffix in (*listing.others, root.suffix.lower()) if suffix in READERS]
        if root.is_dir() and listing.others and manifest_suffixes:
            raise ManifestError(
                f"{source} is a folder with {manifest_suffixes[0]} files and no media file. Give one of the files, or "
                "write them as one file: in Spark with toPandas(), in Dask with compute()"
            )
        raise ManifestError(f"{kind.format(source)} (found {describe(listing.others.items())}{skipped})")
    return [Clip(id=path.relative_to(root).as_posix(), path=str(path)) for path in listing.media]
