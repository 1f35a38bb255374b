"""Path rule of embeddings and indexes.

See `vatt.retrieval.store` for the rule. A path is a file, a member of a shard (``file.tar#offset+size``) or a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vatt.media.sources.files import exists, join
from vatt.media.sources.remote import is_url

MAX_ROOTS = 64  # maximum number of roots of an index
_MEMBER = re.compile(r"(.+)#\d+\+\d+", re.DOTALL)


def absolute(path: str | Path, folder: str | Path | None = None) -> str:
    """Return a path as embeddings and indexes store it: absolute and normalized, without resolving symbolic links.

    Args:
        path: File, shard member or URL. URLs are returned as they are.
        folder: Directory that a relative path starts from; the current one by default.
    """
    path = os.fspath(path)
    return path if is_url(path) else os.path.abspath(path if folder is None else join(folder, path))


def is_absolute(path: str) -> bool:
    """Return whether a path has the form that `absolute` returns."""
    return is_url(path) or (os.path.isabs(path) and os.path.normpath(path) == path)


def is_below(path: str, roots: Iterable[str]) -> bool:
    """Return whether a path lies below one of several directories, lexically.

    Args:
        path: In the form of `absolute`.
        roots: Directories in the same form, or URL prefixes.
    """
    if is_url(path) and ".." in path.split("/"):
        return False
    return any(path.startswith(_prefix(root)) for root in roots)


def parent_directory(path: str) -> str:
    """Return the directory of a file, of the shard that a member is in, or of a URL."""
    member = _MEMBER.fullmatch(path)
    path = member[1] if member else path
    if not is_url(path):
        return os.path.dirname(path)
    scheme, _, rest = path.partition("://")
    rest = rest.split("?")[0] if scheme.startswith("http") else rest  # a signature may hold slashes
    return f"{scheme}://{rest.rpartition('/')[0] or rest}"


def roots_of(directories: Iterable[str], limit: int = MAX_ROOTS) -> tuple[str, ...]:
    """Return the smallest set of directories that all the given directories equal or lie below.

    If more than ``limit`` are left, the deepest ones are replaced by their parents until there are few enough. ``/`` is
    never used as a common root.

    Args:
        directories: In the form of `absolute`, or URL prefixes.
        limit: Largest number of roots.
    """
    roots = _outermost(set(directories))
    while len(roots) > limit and (deepest := max(map(_depth, roots))) > 1:
        roots = _outermost({parent_directory(root) if _depth(root) == deepest else root for root in roots})
    return tuple(sorted(roots))


def is_member(path: str) -> bool:
    """Return whether a path is a member of a shard, and not a file or a URL whose name looks like one."""
    return _MEMBER.fullmatch(path) is not None and not os.path.exists(path)


def is_missing(path: str) -> bool:
    """Return whether there is no file at a path. URLs are not requested."""
    if os.path.exists(path):
        return False
    return not exists(path) if is_url(path) or _MEMBER.fullmatch(path) else True


@dataclass(frozen=True)
class Location:
    """Directory of embeddings or of an index, now and when they were written.

    Args:
        folder: Absolute path of the directory.
        recorded: Its absolute path when it was written; None if that is unknown.
    """

    folder: str
    recorded: str | None = None

    @property
    def moved(self) -> bool:
        """Return whether the directory was moved since it was written, also if a symbolic link leads to it."""
        return self.recorded is not None and self.recorded not in (self.folder, os.path.realpath(self.folder))

    def relocated(self, path: str) -> str:
        """Return the path at the same position relative to the directory as when it was written."""
        if not self.moved or is_url(path):
            return path
        folder = os.path.realpath(self.folder)
        return os.path.normpath(os.path.join(folder, os.path.relpath(path, self.recorded)))

    def resolve(self, path: str) -> str:
        """Return the present path of a file: its own, or the same position relative to this directory.

        Args:
            path: In the form of `absolute`.

        Returns:
            ``path`` itself if neither exists.
        """
        if not self.moved or not is_missing(path):
            return path
        other = self.relocated(path)
        return path if is_missing(other) else other

    def moved_roots(self, paths: Iterable[str], roots: Iterable[str]) -> dict[str, str]:
        """Return the present paths of the roots whose media were moved together with this directory.

        Args:
            paths: Media in the form of `absolute`; the first one below each root is checked.
            roots: Directories.
        """
        left, moved = set(roots) if self.moved else set(), dict[str, str]()
        for path in paths if left else ():
            for root in [root for root in left if is_below(path, [root])]:
                left.discard(root)
                if self.resolve(path) != path:
                    moved[root] = self.relocated(root)
            if not left:
                break
        return moved


def _prefix(root: str) -> str:
    return root if root.endswith("/") else root + "/"


def _depth(root: str) -> int:
    """Number of directories below the file system's root, or below the host of a URL, plus 1 for the host."""
    return root.partition("://")[2].count("/") + 1 if is_url(root) else root.removesuffix("/").count("/")


def _outermost(directories: set[str]) -> list[str]:
    """Leave out directories below others."""
    kept: list[str] = []
    for directory in sorted(directories, key=_prefix):
        if not kept or not _prefix(directory).startswith(_prefix(kept[-1])):
            kept.append(directory)
    return kept
