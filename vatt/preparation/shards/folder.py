"""A folder of shards: what belongs to whom in it, and the notes about the shards that are finished."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from vatt.directories import remove_leftovers
from vatt.errors import InputError
from vatt.media.sources.files import split_member
from vatt.preparation.shards.plan import Plan

TAR = re.compile(r"\d{5,}\.tar(\.part)?")  # what shards are called


class ShardFolder:
    """Where shards are written.

    Args:
        path: the folder; it is made by `locked`.
        source: what the shards are made of.

    Attributes:
        state: the folder of the notes.

    Raises:
        InputError: the folder holds other things, or the source would be overwritten.
    """

    def __init__(self, path: Path, source: str | Path) -> None:
        self.path, self.state = path, path / ".prepare"
        if path.exists() and not self.state.is_dir() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} holds other things: write into a folder of its own")
        self.keep_out([str(source)])

    def keep_out(self, files: Iterable[str]) -> None:
        """Make sure that nothing that is read lies where shards are written, and removed.

        Args:
            files: paths as in a manifest.

        Raises:
            InputError: one does.
        """
        here, folders = self.path.resolve(), dict[Path, Path]()
        for file in files:
            path = Path(split_member(file)[0].removeprefix("file://"))
            if path.parent not in folders:
                folders[path.parent] = path.parent.resolve()
            found = path.resolve() if path.is_symlink() else folders[path.parent] / path.name
            if found.is_relative_to(here):
                raise InputError(f"{file} lies in {self.path} and could be overwritten: write somewhere else")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out.

        Raises:
            InputError: there is one.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.state / "lock", timeout=0):
                yield
        except Timeout:
            raise InputError(f"another run is at work in {self.path}") from None

    def claim(self, plan: Plan, overwrite: bool) -> None:
        """Make sure that what is in the folder came of the same plan, or remove it.

        Args:
            plan: what the folder is to hold.
            overwrite: remove it in any case.

        Raises:
            InputError: it did not, and must not be removed.
        """
        remove_leftovers(self.path, older_than_s=0)  # no other process writes here
        noted = self.state / "plan.json"
        if noted.is_file() and not overwrite:
            then, now = read_json(noted), plan.facts
            if then == now:
                return
            if then is None:
                changed = [f"{noted} cannot be read"]
            else:
                options = then["options"]
                changed = [
                    f"{k} was {options.get(k)}, is {v}" for k, v in now["options"].items() if options.get(k) != v
                ]
                changed += ["the manifest has changed"] if then["manifest"] != now["manifest"] else []
            changed = changed or ["a media file was changed, added or removed"]
            raise InputError(
                f"{self.path} holds the shards of another command ({'; '.join(changed)}): write somewhere else, or "
                "replace them with --overwrite true"
            )
        tars = [path for path in self.path.iterdir() if TAR.fullmatch(path.name)]
        for path in (*tars, *self.state.glob("*.json")):
            path.unlink()
        for name in ("manifest.jsonl", "shards.json", "errors.csv"):
            (self.path / name).unlink(missing_ok=True)
        write_json(noted, plan.facts)

    def tar(self, number: int) -> Path:
        """A shard."""
        return self.path / f"{number:05d}.tar"

    def note(self, number: int) -> Path:
        """What came of a shard; it is there once the shard is finished."""
        return self.state / f"{number:05d}.json"

    def workplace(self) -> Path:
        """A new folder for what is being made. Runs that were killed may have left some, and workers in them."""
        for left in self.state.glob("members*"):
            shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix="members.", dir=self.state))


def check(folder: Path) -> tuple[int, dict[str, str]]:
    """Compare shards with their checksums; what they were made of is not looked at.

    Args:
        folder: what `vatt prepare` has written, or a copy of it.

    Returns:
        How many there should be, and what is wrong with those that are not whole.

    Raises:
        InputError: there is no list of checksums.
    """
    listed = read_json(folder / "shards.json")
    if listed is None:
        raise InputError(f"{folder / 'shards.json'}, the list of checksums, is not there or cannot be read")
    problems = {}
    for shard in tqdm(listed["shards"], desc="checking", unit="shard", disable=None):
        tar = folder / shard["name"]
        size = tar.stat().st_size if tar.is_file() else None
        if size is None:
            problems[tar.name] = "gone"
        elif size != shard["bytes"]:
            problems[tar.name] = f"has {size} bytes, had {shard['bytes']}"
        elif digest(tar) != shard["sha256"]:
            problems[tar.name] = "its content has changed"
    return len(listed["shards"]), problems


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None if it is not there, or was damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    put(unfinished, path)


def put(unfinished: Path, path: Path) -> None:
    """Give a file its name, once all of it is on the disk: else a crash of the system could leave the name alone."""
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
