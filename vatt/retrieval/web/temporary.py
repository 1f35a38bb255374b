"""Temporary directories that are also deleted after their process was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

MIN_AGE_S = 60.0  # of directories to delete; a younger one may not be locked yet


class TemporaryFolder:
    """Private temporary directory that is deleted when the process exits.

    The process holds a lock (``flock``) on it. Directories of killed processes are not locked. They are deleted when
    the next directory with the same prefix is created.

    Args:
        prefix: Beginning of its name.

    Attributes:
        path: The directory.
    """

    def __init__(self, prefix: str) -> None:
        _delete_abandoned(prefix)
        self._directory = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        self.path = Path(self._directory.name)
        self._lock = _lock(self.path)
        if self._lock is not None:
            self._closing = weakref.finalize(self, os.close, self._lock)

    def delete(self) -> None:
        """Delete the directory."""
        self._directory.cleanup()


def _lock(path: Path) -> int | None:
    """Lock a directory of this user. Return its descriptor, or None if it cannot be locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:  # locked by another process, or not supported
        pass
    os.close(descriptor)
    return None


def _delete_abandoned(prefix: str) -> None:
    """Delete unlocked directories with a prefix, which killed processes have left."""
    latest = time.time() - MIN_AGE_S
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        descriptor = _lock(path)
        if descriptor is None:
            continue
        try:
            if os.fstat(descriptor).st_mtime <= latest:
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
