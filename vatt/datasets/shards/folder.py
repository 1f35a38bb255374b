"""A folder of shards: what belongs to whom in it, and the notes about the shards that are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vatt.datasets.shards.plan import Plan
from vatt.errors import InputError


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
        if Path(source).resolve() == (path / "manifest.jsonl").resolve():
            raise InputError(f"{source} would be overwritten: write somewhere else")
        if path.exists() and not self.state.is_dir() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} holds other things: write into a folder of its own")

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

        Raises:
            InputError: it did not, and must not be removed.
        """
        noted = self.state / "plan.json"
        if noted.is_file():
            then, now = json.loads(noted.read_text(encoding="utf-8")), plan.facts
            if then == now:
                return
            if not overwrite:
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
        for path in (*self.path.glob("[0-9]*.tar*"), *self.state.glob("*.json")):
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(unfinished, path)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
