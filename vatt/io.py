"""Atomic file writes, and hashes of files.

Every file that replaces another one is written to a temporary file in the same directory and renamed: after an
interruption or on a full disk the previous file is intact, and no partial file carries the final name.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vatt.errors import DirectoryInUse, InputError, WriteError

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
UNFINISHED = ".part"  # in the name of every temporary file
PENDING = ".pending"  # directory of complete files that are about to replace others
UMASK = os.umask(0o077)  # can be read only by setting it, which other threads would notice later
os.umask(UMASK)
LOCK_TIMEOUT_S = 60.0
LOCK_POLL_S = 0.01


@contextmanager
def atomic_path(path: str | Path, keep_suffix: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to ``path``, for libraries that open files by name; rename it when the block ends.

    The temporary file is removed if the block raises. The file gets the permissions of the file that it replaces, or
    those of an ordinary new file, whatever permissions the library gives it.

    Args:
        path: Final path. Missing parent directories are created.
        keep_suffix: Give the temporary file the suffix of ``path``, by which libraries choose the format. Without it,
            programs that look for the suffix ignore what a killed process leaves behind.

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
            _set_permissions(written.fileno(), path)
            os.fsync(written.fileno())
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)  # replacing a file by a hard link to it has no effect
    except BaseException as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:  # the file system has become read-only
            pass
        code = write_errno(error)
        if code is None or isinstance(error, WriteError):  # raised for another file in the block
            raise
        raise WriteError(code, os.strerror(code), str(path)) from error


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
            _finish_replacement(folder, last)  # of a process that was killed
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


def _set_permissions(descriptor: int, path: Path) -> None:
    """Give an open file the permissions of the file at ``path``. Without one, make a private file an ordinary one.

    Some libraries create private files. Nothing changes on file systems with fixed permissions.
    """
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    try:
        target = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        target = mode if mode & 0o077 else 0o666 & ~UMASK
    if target != mode:
        with suppress(OSError):
            os.fchmod(descriptor, target)


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


def read_lines(path: str | Path) -> list[str]:
    r"""Read the lines of a text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Only ``\n``, ``\r\n`` and ``\r`` end a line. `str.splitlines` also splits at characters that may be part of a name,
    such as U+2028 (line separator) and U+0085 (next line).

    Args:
        path: File.

    Returns:
        Lines without their ends. An empty line after the last end is not included.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is in another encoding, or contains NUL characters.
    """
    content = Path(path).read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        if is_utf16:
            raise InputError(f"{path} is not valid UTF-16: save the file as UTF-8") from error
        number = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        raise InputError(f"{path} is not UTF-8 (line {number}): save the file as UTF-8") from error
    lines = re.split(r"\r\n|\r|\n", text)
    if "\0" in text:
        number = next(number for number, line in enumerate(lines, start=1) if "\0" in line)
        raise InputError(f"{path} contains NUL characters (line {number}): save the file as UTF-8")
    return lines if lines[-1] else lines[:-1]


def write_errno(error: BaseException) -> int | None:
    """Return the error number if an exception or one of its causes reports a full or read-only disk, else None.

    Libraries report a failed write as an `OSError`, or as a `RuntimeError` with the message of the system.
    """
    cause, visited = error, set[int]()
    while cause is not None and id(cause) not in visited:  # a chain may be circular
        visited.add(id(cause))
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


def short_hash(*parts: str | bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the parts and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
