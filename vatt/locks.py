"""Locks of directories, so that only one process writes to each."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from vatt.errors import DirectoryInUse, WriteError
from vatt.io import write_errno

LOCK = ".lock"


class DirectoryLock:
    """Exclusive right to write to a directory, held until `release` or the end of the process.

    Args:
        folder: Directory; it is created if it does not exist.
        name: Name of the lock file in it.
    """

    def __init__(self, folder: str | Path, name: str = LOCK) -> None:
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / name, timeout=0)

    def acquire(self) -> DirectoryLock:
        """Take the lock without waiting.

        Raises:
            DirectoryInUse: Another process holds it.
            WriteError: The directory cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise DirectoryInUse(
                f"another process is writing to {self.folder}: wait until it has ended, or choose another directory"
            ) from None
        except OSError as error:
            code = write_errno(error)
            if code is None:
                raise
            raise WriteError(code, os.strerror(code), str(self.folder)) from error
        return self

    def release(self) -> None:
        """Release the lock; without effect if it is not held."""
        self._lock.release()

    def __enter__(self) -> DirectoryLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
