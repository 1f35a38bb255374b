"""Finding the media files that annotations speak of, under whatever folders and suffixes they lie."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from vatt.datasets.manifest import MEDIA_SUFFIXES, other_files
from vatt.errors import InputError

SOUND_SUFFIXES = frozenset(".wav .flac .mp3 .m4a .aac .ogg .opus .wma".split())
_ID_IN_BRACKETS = re.compile(r"\[([\w-]{11})\]$")  # "Title [id].mp4", as yt-dlp names its files


class Files:
    """Files below a folder, found by their names without the suffix. The folder is searched once.

    Args:
        folder: searched with all folders below it; links are followed.
        suffixes: of the files that count, in lower case with the dot.
        kind: what they are called in messages.
        anywhere: a file of the right name in another folder than the one named will do, if that does not have it.

    Raises:
        InputError: there is no such folder; at the first look, it holds no such file.
    """

    def __init__(
        self,
        folder: Path,
        suffixes: frozenset[str] = MEDIA_SUFFIXES,
        kind: str = "media",
        anywhere: bool = True,
    ) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder at {folder}")
        self.folder, self.suffixes, self.kind, self.anywhere = folder, suffixes, kind, anywhere
        self.several: dict[str, list[str]] = {}

    @cached_property
    def paths(self) -> list[str]:
        """All files, relative to the folder; picture before sound, then by the alphabet."""
        paths, seen = [], set()
        for top, folders, names in os.walk(self.folder, followlinks=True, onerror=_fail):
            real = os.path.realpath(top)  # a link may lead back up
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            below = Path(top).relative_to(self.folder)
            paths += [(below / name).as_posix() for name in names if _suffix(name) in self.suffixes]
        if not paths:
            found = ", ".join(f"{n} {suffix}" for suffix, n in sorted(other_files(self.folder).items())) or "nothing"
            raise InputError(f"folder {self.folder} holds no {self.kind} file (found {found})")
        return sorted(paths, key=lambda path: (_suffix(path) in SOUND_SUFFIXES, path))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for path in self.paths:
            stem = self._stem(path.rpartition("/")[2])
            index.setdefault(stem, []).append(path)
            if bracketed := _ID_IN_BRACKETS.search(stem):
                index.setdefault(bracketed[1], []).append(path)
        return index

    def find(self, name: str) -> Path | None:
        """The file of this name, or None.

        Args:
            name: with or without folders before and a suffix behind. Another suffix than the one named will do.

        Returns:
            Where several files fit, the first of them: `several` says which there were.
        """
        folders, _, last = name.rpartition("/")
        found = self._by_stem.get(self._stem(last), [])
        if folders or not self.anywhere:
            parents = {path: path.rpartition("/")[0] for path in found}
            exact = [path for path in found if parents[path] == folders]
            ending = [path for path in found if folders and parents[path].endswith(f"/{folders}")]
            found = exact or ending or (found if self.anywhere else [])
        found = [path for path in found if (self.folder / path).is_file()]  # not a link that leads nowhere
        found = [path for path in found if _suffix(path) == _suffix(last)] or found
        if len(found) > 1:
            self.several[name] = found
        return self.folder / found[0] if found else None

    def _stem(self, name: str) -> str:
        while _suffix(name) in self.suffixes:  # downloads end in .mp4.webm at times
            name = os.path.splitext(name)[0]
        return name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _fail(error: OSError) -> None:
    raise error
