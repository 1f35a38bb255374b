"""Finding the media files that annotations speak of, under whatever folders and suffixes they lie."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path

from vatt.datasets.folders import AMBIGUOUS_SUFFIXES, AUDIO_SUFFIXES, MEDIA_SUFFIXES, list_media
from vatt.errors import InputError

_ID_IN_BRACKETS = re.compile(r"\[([\w-]{11})\]$")  # "Title [id].mp4", as yt-dlp names its files


class Files:
    """Files below a folder, found by their names without the suffix. The folder is searched once.

    Args:
        folder: searched with all folders below it; links are followed.
        suffixes: of the files that count, in lower case with the dot.
        kind: what they are called in messages.
        anywhere: a file of the right name in another folder than the one named will do, if that does not have it.

    Attributes:
        several: names that more than one file fits, with these files.
        elsewhere: names whose file lies in another folder than the one named, with this file.
        misnamed: files left out as their names are not UTF-8, so that no manifest can hold them.

    Raises:
        InputError: there is no such folder; at the first look, it holds no such file.
    """

    def __init__(
        self,
        folder: Path,
        suffixes: frozenset[str] = MEDIA_SUFFIXES - AMBIGUOUS_SUFFIXES,
        kind: str = "media",
        anywhere: bool = True,
    ) -> None:
        if not folder.is_dir():
            raise InputError(f"there is no folder at {folder}")
        self.folder, self.suffixes, self.kind, self.anywhere = folder, suffixes, kind, anywhere
        self.several: dict[str, list[str]] = {}
        self.elsewhere: dict[str, str] = {}
        self.misnamed: list[str] = []

    @cached_property
    def paths(self) -> list[str]:
        """All files, relative to the folder; picture before sound, then by the alphabet."""
        paths: list[str] = []
        above: dict[str, tuple[str, ...]] = {}  # where the folders that hold a folder really are
        for top, folders, names in os.walk(self.folder, followlinks=True, onerror=_fail):
            real, holders = os.path.realpath(top), above.pop(top, ())
            if real in holders:  # a link back up; another name of a folder beside it counts
                folders.clear()
                continue
            folders.sort()
            above |= {os.path.join(top, name): (*holders, real) for name in folders}
            below = Path(top).relative_to(self.folder)
            for path in ((below / name).as_posix() for name in names if _suffix(name) in self.suffixes):
                (paths if _is_text(path) else self.misnamed).append(path)
        if not paths:
            others = list_media(self.folder, frozenset(self.suffixes)).others
            there = [f"{n} {suffix}" for suffix, n in sorted(others.items())]
            there += [f"{path!r}, whose name is not UTF-8" for path in self.misnamed[:1]]
            found = ", ".join(there) or "nothing"
            raise InputError(f"folder {self.folder} holds no {self.kind} file (found {found})")
        return sorted(paths, key=lambda path: (_suffix(path) in AUDIO_SUFFIXES, path))

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
            Where several files fit, the first of them. `several` and `elsewhere` say what there is to know about it.
        """
        folders, _, last = name.rpartition("/")
        found = fitting = self._by_stem.get(self._stem(last), [])
        if folders or not self.anywhere:
            found = [path for path in fitting if _parent(path) == folders]
        if self.anywhere and not found:
            found = [path for path in fitting if _parent(path).endswith(f"/{folders}")]
        astray = self.anywhere and not found
        found = fitting if astray else found
        found = [path for path in found if (self.folder / path).is_file()]  # not a link that leads nowhere
        found = [path for path in found if _suffix(path) == _suffix(last)] or found
        if not found:
            return None
        if len(found) > 1 and len({os.path.realpath(self.folder / path) for path in found}) > 1:
            self.several[name] = found
        if astray and _parent(found[0]):  # a file in no folder at all speaks against none
            self.elsewhere[name] = found[0]
        return self.folder / found[0]

    def _stem(self, name: str) -> str:
        while _suffix(name) in self.suffixes:  # downloads end in .mp4.webm at times
            name = os.path.splitext(name)[0]
        return name


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_text(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _fail(error: OSError) -> None:
    raise error
