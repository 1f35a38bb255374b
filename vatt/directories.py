"""Atomic replacement of several files of a directory, and advisory locks on directories."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vatt.errors import DirectoryInUse, WriteError
from vatt.io import UNFINISHED, atomic_path, write_errno

PENDING = ".pending"  # directory of complete files that are about to replace others
LOCK_TIMEOUT_S = 60.0
LOCK_POLL_S = 0.01


@contextmanager
def replace_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Yield an empty directory; when the block ends, its files replace those of the same names in ``folder`` at once.

    The directory is renamed to ``folder/.pending`` once all its files are on the disk. Then each of them gets a hard
    link in ``folder``, and ``.pending`` is removed. A process that is killed before the rename leaves the old files;
    after it, `current_directory` returns ``.pending`` with the new ones until the next call finishes the replacement.
    Subdirectories are replaced completely. Other files in ``folder`` are kept. The directory is locked while its files
    are replaced; programs that read several files of it hold a shared lock (`lock_directory`).

    Args:
        folder: Directory. It is created if it does not exist.
        last: Name of the file that gets its link last.

    Raises:
        DirectoryInUse: Other processes read or replace files in the directory for more than a minute.
        WriteError: The disk is full or read-only.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replace_files(folder, last="b.txt") as temporary:
        ...     _ = (temporary / "a.txt").write_text("1"), (temporary / "b.txt").write_text("2")
        >>> sorted(path.name for path in folder.iterdir())
        ['a.txt', 'b.txt']
    """
    folder = Path(folder)
    temporary = folder / f".{uuid.uuid4().hex[:12]}{UNFINISHED}"
    try:
        temporary.mkdir(parents=True)
        with lock_directory(folder):
            _finish_replacement(folder, last)  # finish the replacement of a killed process
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        with lock_directory(folder):
            _finish_replacement(folder, last)
            os.rename(temporary, folder / PENDING)
            _finish_replacement(folder, last)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        code = write_errno(error)
        if code is None:
            raise
        path = Path(error.filename) if isinstance(error, WriteError) else temporary
        if path.is_relative_to(temporary):
            path = folder / path.relative_to(temporary)
        raise WriteError(code, os.strerror(code), str(path)) from error


@contextmanager
def lock_directory(folder: str | Path, shared: bool = False) -> Iterator[None]:
    """Hold an advisory lock (``flock``) on a directory until the block ends; no lock file is created.

    Nothing is locked if the directory does not exist or cannot be opened, or if its file system has no such locks.

    Args:
        folder: Directory.
        shared: Allow other shared locks, for reading. A process must not lock a directory exclusively while it holds
            another lock on it.

    Raises:
        DirectoryInUse: Other processes hold the lock for more than a minute.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        descriptor = None
    try:
        if descriptor is not None:
            _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, folder)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _flock(descriptor: int, kind: int, folder: str | Path) -> None:
    """Lock an open directory, unless its file system has no locks.

    Raises:
        DirectoryInUse: See `lock_directory`.
    """
    end = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise DirectoryInUse(f"another process is using {folder}: wait until it has ended") from None
            time.sleep(LOCK_POLL_S)
        except OSError:  # not supported
            return None


def current_directory(folder: str | Path) -> Path:
    """Return the directory that holds the current files: ``folder``, or its ``.pending`` (see `replace_files`)."""
    pending = Path(folder) / PENDING
    return pending if pending.is_dir() and not pending.is_symlink() else Path(folder)


def _finish_replacement(folder: Path, last: str) -> None:
    """Link the files of ``.pending`` into the directory, then remove ``.pending``."""
    pending = current_directory(folder)
    if pending == folder:
        return
    for path in sorted(pending.iterdir(), key=lambda path: (path.name == last, path.name)):
        _replace_by_links(path, folder / path.name)
    temporary = folder / f".{uuid.uuid4().hex[:12]}{UNFINISHED}"
    os.rename(pending, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _replace_by_links(path: Path, target: Path) -> None:
    """Replace ``target`` by a hard link to the file ``path``, or by a directory of links to the files in it."""
    if not path.is_dir():
        with atomic_path(target) as temporary:
            _link(path, temporary)
        return
    if target.is_symlink() or target.is_file():
        target.unlink()
    for inner in sorted(path.iterdir()):
        _replace_by_links(inner, target / inner.name)
    for other in set(os.listdir(target)) - set(os.listdir(path)):
        old = target / other
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def _link(path: str | Path, target: str | Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def remove_leftovers(folder: str | Path, older_than_s: float = 3600.0) -> None:
    """Delete temporary files and directories that killed processes left in a directory.

    Args:
        folder: Directory; it need not exist.
        older_than_s: Younger files may belong to a process that is still writing.
    """
    for path in Path(folder).glob(f".*{UNFINISHED}*"):
        try:
            changed = max(inner.stat().st_mtime for inner in (path, *path.rglob("*")))
            if time.time() - changed > older_than_s:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # already deleted, or no permission
            pass
