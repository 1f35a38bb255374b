"""Atomic file writes, directory locks, hashes, and reading small files of directories that are not trusted.

Every file that replaces another one is written to a temporary file in the same directory and renamed: after an
interruption or on a full disk the previous file is intact, and no partial file carries the final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from vatt.errors import InputError, VattError

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
UNFINISHED = ".part"  # in the name of every temporary file
LOCK = ".lock"
PENDING = ".pending"  # directory of files that are complete, and have not all been put in place yet


class WriteError(VattError, OSError):
    """A file that cannot be written, because the disk is full or read-only."""

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}"


class DirectoryInUse(InputError):
    """The directory is locked by another process that is writing to it."""


@contextmanager
def atomic_path(path: str | Path, keep_suffix: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, for libraries that open files by name; rename it when the block ends.

    The temporary file is removed if the block raises.

    Args:
        path: Final path. Missing parent directories are created.
        keep_suffix: Give the temporary file the suffix of ``path``, by which libraries choose the format. Without it, a
            file that a killed process leaves behind is not taken for one of its kind.

    Raises:
        WriteError: The disk is full or read-only.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{UNFINISHED}{path.suffix if keep_suffix else ''}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:  # a file system that became read-only keeps it
            pass
        code = write_errno(error)
        if code is None or isinstance(error, WriteError):  # of another file, which is written in this block
            raise
        raise WriteError(code, os.strerror(code), str(path)) from error


@contextmanager
def replace_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Yield an empty directory; when the block ends, its files replace those of the same names in ``folder`` at once.

    The directory is renamed to ``folder/.pending`` once all its files are on the disk. Then each of them gets a hard
    link in ``folder``, and ``.pending`` is removed. A process that is killed before the rename leaves the old files;
    after it, `current_directory` returns ``.pending`` with the new ones until the next call finishes the replacement.
    Subdirectories are replaced as a whole. Other files in ``folder`` stay.

    Args:
        folder: Directory. It is created if it does not exist.
        last: Name of the file that gets its link last.

    Raises:
        DirectoryInUse: Another process replaces files in the directory.
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
    _finish_replacement(folder, last)
    temporary = folder / f".{uuid.uuid4().hex[:12]}{UNFINISHED}"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if (folder / PENDING).exists():
            raise DirectoryInUse(f"another process is writing to {folder}: wait until it has ended")
        os.rename(temporary, folder / PENDING)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        code = write_errno(error)
        if code is None:
            raise
        path = Path(error.filename) if isinstance(error, WriteError) else temporary
        if path.is_relative_to(temporary):
            path = folder / path.relative_to(temporary)
        raise WriteError(code, os.strerror(code), str(path)) from error
    _finish_replacement(folder, last)


def current_directory(folder: str | Path) -> Path:
    """Return the directory that holds the current files: ``folder``, or its ``.pending`` (see `replace_files`)."""
    pending = Path(folder) / PENDING
    return pending if pending.is_dir() and not pending.is_symlink() else Path(folder)


def _finish_replacement(folder: Path, last: str) -> None:
    pending = current_directory(folder)
    if pending == folder:
        return
    for path in sorted(pending.iterdir(), key=lambda path: (path.name == last, path.name)):
        _put_in_place(path, folder / path.name)
    temporary = folder / f".{uuid.uuid4().hex[:12]}{UNFINISHED}"
    os.rename(pending, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(path: Path, target: Path) -> None:
    """Make a file or a directory equal to one of the same file system, which stays where it is."""
    if not path.is_dir():
        if not (target.exists() and path.samefile(target)):  # renaming one link of a file to another has no effect
            with atomic_path(target) as temporary:
                _link(path, temporary)
        return
    if target.is_symlink() or target.is_file():
        target.unlink()
    for inner in sorted(path.iterdir()):
        _put_in_place(inner, target / inner.name)
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


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file next to ``path`` for writing; rename it to ``path`` when the block ends.

    Args:
        path: Final path. Missing parent directories are created.
        mode: ``"wb"`` or ``"w"``.
        options: Passed to `open`; the encoding of text is UTF-8 by default.

    Raises:
        WriteError: The disk is full or read-only.
    """
    if "b" not in mode:
        options = {"encoding": "utf-8", **options}
    with atomic_path(path) as temporary, temporary.open(mode, **options) as file:
        yield file


def write_errno(error: BaseException) -> int | None:
    """Return the error number if an exception, or one of its causes, says that a disk is full or read-only.

    Libraries report a failed write as an `OSError`, or as a `RuntimeError` with the message of the system.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in WRITE_ERRORS:
            return cause.errno
        text = str(cause)
        for code in WRITE_ERRORS:
            if os.strerror(code) in text:
                return code
        if isinstance(cause, OSError) and "requested and" in text and "written" in text:  # NumPy drops the number
            return errno.ENOSPC
        cause = cause.__cause__ or cause.__context__
    return None


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


def short_hash(*parts: str | bytes) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 of the parts and their boundaries."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inner_file(folder: str | Path, name: str) -> Path:
    """Return the path of a regular file that lies directly in a directory.

    Directories are not trusted: a name may lead out of them by ``..`` or a symbolic link, and opening a named pipe
    would block. Links into the blobs of a Hugging Face cache are followed.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The name is not a plain file name, or the file is a link to another directory or not a regular file.
    """
    folder = Path(folder)
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise InputError(f"{folder}: {name[:100]!r} is not a plain file name")
    path, real_folder = folder / name, folder.resolve()
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is a broken symbolic link") from error
    blobs = [parent.parent / "blobs" for parent in real_folder.parents if parent.name == "snapshots"]
    if real.parent not in (real_folder, *blobs):
        raise InputError(f"{path} is a link to {real}, outside its directory: replace the link with the file")
    if not stat.S_ISREG(real.stat().st_mode):
        raise InputError(f"{path} is not a regular file")
    return path


def read_json(path: str | Path, max_bytes: int = 2**20) -> dict[str, Any]:
    """Read a file with one JSON object.

    Args:
        path: File.
        max_bytes: Larger files are refused.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is too large, is not UTF-8, or is not a JSON object.
    """
    with Path(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes / 2**20:g} MiB, the limit for this file")
    try:
        value = json.loads(data.decode("utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves of surrogate pairs could not be printed
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise InputError(f"{path} is damaged: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}")
    return value
