"""Atomic writing, reading and hashing of single files.

Every file that replaces another one is written to a temporary file in the same directory and renamed: after an
interruption or on a full disk the previous file is intact, and no partial file carries the final name.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vatt.errors import InputError, WriteError

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
UNFINISHED = ".part"  # in the name of every temporary file
UMASK = os.umask(0o077)  # can be read only by setting it, which other threads would notice later
os.umask(UMASK)


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
