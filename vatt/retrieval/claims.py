"""Rights of processes to write embeddings to a directory.

Only one process at a time writes a part (``--part 3/8``) of embeddings, and all processes use the same number of parts
of the same plan. Locks are files that begin with a dot; the operating system releases the locks of a process that ends.
"""

from __future__ import annotations

import re
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vatt.errors import DirectoryInUse, WriteError
from vatt.locks import DirectoryLock
from vatt.retrieval.store import ERRORS, FILE, NOTES, POOLED, read_notes, tidy, write_notes
from vatt.retrieval.tables import StoreError

CLAIM, WAIT_S = ".claim.lock", 60.0  # lock that is held during `claim`, and its timeout
_PART_LOCK = re.compile(r"\.part-(\d+)-of-(\d+)\.lock")


def claim(
    folder: str | Path, plan: dict[str, Any], notes: dict[str, Any], overwrite: bool = False, busy: bool = False
) -> None:
    """Prepare a directory for new embeddings, or resume interrupted ones.

    Args:
        folder: Directory of the embeddings.
        plan: Everything that the vectors depend on, and the number of ``shards``.
        notes: Other metadata.
        overwrite: Delete existing embeddings.
        busy: Other processes are writing parts of the same embeddings.

    Raises:
        StoreError: The directory has other embeddings.
        DirectoryInUse: Other embeddings are being written to it.
        WriteError: The disk is full or read-only.
    """
    folder = Path(folder)
    known = read_notes(folder).get("plan", {})
    other = sorted(key for key in {*known, *plan} if known.get(key) != plan.get(key))
    if other and busy:
        raise DirectoryInUse(
            f"another process is writing other embeddings to {folder} ({', '.join(other)} differ): choose another "
            "--output"
        )
    if other and not overwrite and (folder / FILE).exists():
        raise StoreError(
            f"{folder} has other embeddings ({', '.join(other)} differ): choose another --output, or give "
            "--overwrite true"
        )
    if not busy:
        tidy(folder)
    if other or overwrite:
        # Embeddings are deleted last: while some exist, no others are started in the directory.
        for name in (NOTES, ERRORS, POOLED, FILE):
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        write_notes(folder, {"plan": plan, "complete": False, **notes})


class PartLock:
    """Exclusive right to write a part of embeddings, held until `release` or the end of the process.

    Args:
        folder: Directory of the embeddings.
        part: (3, 8) is the third of eight parts.
    """

    def __init__(self, folder: Path, part: tuple[int, int]) -> None:
        self.folder, self.name = folder, f".part-{part[0]}-of-{part[1]}.lock"
        self._lock = DirectoryLock(folder, self.name)

    def acquire(self) -> None:
        """Take the lock while the claim lock is held. Raises `DirectoryInUse` if another process has it."""
        self._lock.acquire()

    def release(self) -> None:
        """Release the lock and delete its file."""
        with _claim_lock(self.folder):
            self.drop()

    def drop(self) -> None:
        """Release the lock while the claim lock is held, which protects its file."""
        self._lock.release()
        (self.folder / self.name).unlink(missing_ok=True)

    def __enter__(self) -> PartLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim_part(
    folder: str | Path, part: tuple[int, int], plan: dict[str, Any], notes: dict[str, Any], overwrite: bool = False
) -> PartLock:
    """Lock a part of the embeddings for this process, and prepare the directory as `claim` does.

    Args:
        folder: Directory of the embeddings.
        part: (3, 8) is the third of eight parts; the other seven may be written at the same time.
        plan, notes, overwrite: See `claim`.

    Returns:
        The lock, which is held until it is released or the process ends.

    Raises:
        DirectoryInUse: Another process is writing this part, or uses a different number of parts.
        StoreError, WriteError: See `claim`.
    """
    folder = Path(folder)
    lock = PartLock(folder, part)
    with _claim_lock(folder):
        others = [file for file in _part_locks(folder) if file.name != lock.name]
        busy = [file for file in others if _is_held(file)]
        if any(int(_PART_LOCK.fullmatch(file.name)[2]) != part[1] for file in busy):  # type: ignore[index]
            raise DirectoryInUse(
                f"another process is writing to {folder} with a different number of parts than {part[1]} (--part): "
                "wait until it has ended, or choose another --output"
            )
        lock.acquire()
        with ExitStack() as stack:
            stack.callback(lock.drop)
            claim(folder, plan, notes, overwrite, busy=bool(busy))
            stack.pop_all()
    return lock


def is_being_written(folder: str | Path) -> bool:
    """Return whether a process is writing embeddings to a directory."""
    try:
        with _claim_lock(Path(folder)):
            return any(map(_is_held, _part_locks(Path(folder))))
    except (WriteError, PermissionError):  # the directory is not writable
        return False


def _claim_lock(folder: Path) -> DirectoryLock:
    """Take the lock for locking parts; others hold it only briefly."""
    lock, end = DirectoryLock(folder, CLAIM), time.monotonic() + WAIT_S
    while True:
        try:
            return lock.acquire()
        except DirectoryInUse:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _part_locks(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(".part-*.lock") if _PART_LOCK.fullmatch(file.name))


def _is_held(lock: Path) -> bool:
    try:
        DirectoryLock(lock.parent, lock.name).acquire().release()
    except DirectoryInUse:
        return True
    return False
