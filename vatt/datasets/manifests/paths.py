"""Paths of a manifest: resolving, other spellings, and missing files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.identity import file_identity
from vatt.datasets.manifests.values import has_surrogates
from vatt.datasets.table import STRING
from vatt.media.sources import files as source
from vatt.media.sources.remote import is_url

UNUSUAL = r"://|//|(^|/)\.(/|$)|/$"  # paths that `source.join` does not only append
EMPTY = pa.scalar("", STRING)
MIN_PATHS_TO_LIST = 8  # directories with fewer paths are not listed; their files are checked one by one
NAMES_PER_BLOCK = 2**16  # names in memory at once


def resolve(paths: pa.Array, root: str) -> pa.Array:
    """Join paths of a manifest with its directory.

    Args:
        paths: (N,) paths, absolute or relative; null stays null.
        root: Directory or URL.
    """
    prefix = source.join(root, "x")[:-1]
    joined = pc.if_else(
        pc.starts_with(paths, "/"), paths, pc.binary_join_element_wise(pa.scalar(prefix, STRING), paths, EMPTY)
    )
    is_unusual = pc.fill_null(pc.match_substring_regex(paths, UNUSUAL), False)
    if is_url(root):
        is_unusual = pc.or_(is_unusual, pc.fill_null(pc.starts_with(paths, "/"), False))
    if pc.any(is_unusual).as_py():
        unusual = [source.join(root, path) for path in paths.filter(is_unusual).to_pylist()]
        joined = pc.replace_with_mask(joined, is_unusual, pa.array(unusual, STRING))
    return joined


def are_distinct(strings: pa.ChunkedArray) -> bool:
    """Return whether no string occurs twice.

    Strings are compared by 64-bit hashes, which take much less memory than a hash table. In the unlikely case that
    hashes of different strings are equal, the result is False.
    """
    hashes = (hash(string) for block in strings.chunks for string in block.to_pylist())
    return len(np.unique(np.fromiter(hashes, np.int64, len(strings)))) == len(strings)


def are_different_files(paths: pa.ChunkedArray) -> bool:
    """Return whether no two paths lead to the same file (see `identities` and `are_distinct`)."""
    if not are_distinct(paths):
        return False
    real = _real_folders(pc.unique(_folders(paths)))
    return len(set(real)) == len(real)


def identities(paths: pa.Array) -> pa.Array:
    """Return (N,) strings that are equal if paths lead to the same file, however they are spelled.

    Symbolic links to directories are resolved. A link to a file counts as a separate file. URLs are unchanged, except
    for ``file://``.

    Args:
        paths: (N,) different paths.
    """
    folders = pc.dictionary_encode(_folders(paths))
    real = pa.array(_real_folders(folders.dictionary), STRING)
    files = pc.replace_substring_regex(paths, r"^.*/", "")
    return pc.binary_join_element_wise(real.take(folders.indices), files, EMPTY)


def _folders(paths: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return the directories of paths, with a slash at the end."""
    return pc.replace_substring_regex(paths, r"[^/]*$", "")


def _real_folders(folders: pa.Array) -> list[str]:
    """Return directories with links resolved."""
    return [file_identity(name + "x")[:-1] for name in folders.to_pylist()]


def find_missing(paths: pa.Array) -> list[str]:
    """Return the paths without a file.

    Directories with at least `MIN_PATHS_TO_LIST` paths are listed instead of checking each path. URLs are not checked.

    Args:
        paths: (N,) paths.

    Returns:
        Different paths, ordered by directory.
    """
    folders = pc.dictionary_encode(_folders(paths))
    order = pc.sort_indices(folders.indices)
    start, missing = 0, []
    counts = np.bincount(folders.indices.to_numpy(), minlength=len(folders.dictionary)).tolist()
    for folder, count in zip(folders.dictionary.to_pylist(), counts, strict=True):
        unknown = pa.array([], STRING) if is_url(folder) else pc.unique(paths.take(order.slice(start, count)))
        start += count
        if count >= MIN_PATHS_TO_LIST:
            unknown = _not_listed(folder, unknown)
        missing += [path for path in unknown.to_pylist() if not _exists(path)]
    return missing


def _not_listed(folder: str, paths: pa.Array) -> pa.Array:
    """Return the paths that are not among the files of a directory; all of them if it cannot be listed."""
    try:
        with os.scandir(folder or ".") as entries:
            files = (folder + entry.name for entry in entries if entry.is_file() and not has_surrogates(entry.name))
            while len(paths) and (block := list(islice(files, NAMES_PER_BLOCK))):
                paths = paths.filter(pc.invert(pc.is_in(paths, pa.array(block, STRING))))
    except OSError:
        pass
    return paths


def other_spellings(paths: Iterable[str]) -> dict[str, str]:
    """Map paths without a file to the same path in another Unicode normalization form, where that is a file.

    macOS writes names with decomposed letters (NFD), other systems mostly with composed ones (NFC).
    """
    spellings = {}
    for path in paths:
        if path.isascii() or is_url(path) or _exists(path):
            continue
        file, offset, size = source.split_member(path)
        spelled = _spelled(file)
        if spelled is not None:
            spellings[path] = spelled if size is None else source.member(spelled, offset, size)
    return spellings


def _exists(path: str) -> bool:
    """Return whether a file exists; False for invalid paths."""
    try:
        return source.exists(path)
    except (OSError, ValueError):  # too long, or with a NUL character
        return False


def _spelled(path: str) -> str | None:
    """Return a path with each part in the normalization form that exists; None if there is none."""
    spelled = ""
    for part in path.split("/"):
        forms = dict.fromkeys((part, normalize("NFC", part), normalize("NFD", part)))
        spelled = next((spelled + form for form in forms if os.path.exists(spelled + form or "/")), None)
        if spelled is None:
            return None
        spelled += "/"
    return spelled.removesuffix("/")
