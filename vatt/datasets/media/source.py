"""Where the bytes of a media file are: a file, a member of a shard, or an object behind a URL.

A path is one of

- ``clips/a.mp4``: a file;
- ``shards/00000.tar#512+90112``: the 90,112 bytes from byte 512 on of a file, which is how a clip in a shard is named;
- ``s3://bucket/a.mp4``, ``https://host/00000.tar#512+90112``, …: the same behind any URL that fsspec opens.
"""

from __future__ import annotations

import errno
import io
import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from vatt.datasets.media.facts import MediaError
from vatt.errors import VattError

BLOCK = 2**18  # bytes fetched at once from behind a URL
PAUSES_S = (0.5, 2.0)  # before a server that failed is asked again
ASK_AGAIN = (408, 425, 429)  # of the answers from 400 to 499, those that may be others a moment later
# Under these names servers tell one state of a file from another.
STATES = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "mtime", "created")
_CACHES = re.compile(r"^(\w+cache::)+")  # of fsspec; some cannot say what is behind them
_MEMBER = re.compile(r"(.+)#(\d+)\+(\d+)")


def is_url(path: str) -> bool:
    """Whether a path leads behind a URL."""
    return "://" in path


def member(file: str, offset: int, size: int) -> str:
    """The path of ``size`` bytes from ``offset`` on of a file."""
    return f"{file}#{offset}+{size}"


def split_member(path: str) -> tuple[str, int, int | None]:
    """File, offset and size of a path; the size of what is no member is None."""
    found = None if Path(path).is_file() else _MEMBER.fullmatch(path)  # a file may be called a#1+2
    return (path, 0, None) if found is None else (found[1], int(found[2]), int(found[3]))


def join(root: str | Path, path: str) -> str:
    """``path`` below ``root``, either of which may be a URL."""
    if is_url(path):
        return path
    return f"{str(root).rstrip('/')}/{path}" if is_url(str(root)) else str(Path(root) / path)


def parent(path: str) -> str:
    """The folder of a file, or what is before the last slash of a URL."""
    return path.rpartition("/")[0] if is_url(path) else str(Path(path).parent)


def open_source(path: str, mode: str, **options: Any) -> AbstractContextManager[Any]:
    """A file, or what is behind a URL, open for reading as by `open`.

    Raises:
        OSError: there is none, or the server fails.
    """
    if not is_url(path):
        return Path(path).open(mode, **options)
    file = io.BufferedReader(_open_url(path), BLOCK)
    return file if "b" in mode else io.TextIOWrapper(file, **options)


def exists(path: str) -> bool:
    """Whether there is a file at a path, and, for a member, whether it reaches that far. URLs are not looked at."""
    if is_url(path):
        return True
    file, offset, size = split_member(path)
    return Path(file).is_file() and (size is None or Path(file).stat().st_size >= offset + size)


def state(path: str) -> tuple[int, int]:
    """Bytes, and the time of the last change in nanoseconds.

    Behind a URL the second is any number that changes with the file, and 0 where the server tells nothing, or for a
    member, for which no server is asked.

    Raises:
        OSError: there is no such file, it is too short for the member, or the server fails.
    """
    file, offset, size = split_member(path)
    if is_url(file):
        if size is not None:
            return size, 0
        facts = _ask(_CACHES.sub("", file), lambda files, name: files.info(name))
        told = next((str(facts[name]) for name in STATES if facts.get(name)), "")
        return facts["size"], int.from_bytes(blake2b(told.encode(), digest_size=6).digest()) if told else 0
    found = Path(file).stat()
    if size is not None and found.st_size < offset + size:
        raise OSError(f"the shard has {found.st_size} bytes, the clip ends at {offset + size}")
    return found.st_size if size is None else size, found.st_mtime_ns


def read_bytes(path: str, offset: int, count: int) -> bytes:
    """At most so many bytes of what is at a path, from ``offset`` on.

    Raises:
        OSError: there is no such file.
    """
    file, begin, size = split_member(path)
    with open_source(file, "rb") as opened:
        opened.seek(begin + offset)
        return opened.read(count if size is None else max(0, min(count, size - offset)))


def av_input(path: str) -> str | BinaryIO:
    """What PyAV opens: a name that FFmpeg reads by itself, or, behind a URL, a file object."""
    file, offset, size = split_member(path)
    if is_url(file):
        opened = _open_url(file)
        return opened if size is None else Window(opened, offset, size)
    file = f"file:{file}"  # else 12:30.mp4 would be a protocol called 12
    return file if size is None else f"subfile,,start,{offset},end,{offset + size},,:{file}"


class RemoteError(VattError, OSError):
    """A server that fails or refuses."""


def _open_url(url: str) -> Remote:
    return Remote(url, *_ask(url, lambda files, name: (files.open(name, "rb", block_size=BLOCK), files)))


def _ask(url: str, ask: Callable[[Any, str], Any]) -> Any:
    """What ``ask``, given the file system and the name of the file in it, returns; see `_insist`."""
    import fsspec

    return _insist(url, lambda: ask(*fsspec.url_to_fs(url)))


def _insist(url: str, ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns. A server that fails is asked a few times.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: anything else; the errors of the libraries below have no base in common, and some cannot be
            sent from a process to another.
        ImportError: the library for such URLs is not installed.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            return ask()
        except ImportError:
            raise
        except Exception as error:
            while error.__cause__ is not None:  # what happened first
                error = error.__cause__
            status = getattr(error, "status", None)
            if isinstance(error, FileNotFoundError) or status in (404, 410):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
            if isinstance(status, int):
                reason = f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
                is_final = 400 <= status < 500 and status not in ASK_AGAIN
            else:
                said = str(getattr(error, "strerror", None) or error)
                reason = " ".join([f"{type(error).__name__}:", *said.split()])  # in one line
                is_final = isinstance(error, PermissionError | ValueError | TypeError | AttributeError)
            if is_final or pause_s is None:
                raise RemoteError(errno.EIO, reason, url) from None
        time.sleep(pause_s)
    raise AssertionError


class Remote(io.RawIOBase):
    """A file behind a URL; a read that fails is tried again.

    Args:
        url: of the file.
        file: of fsspec; closed with this one.
        files: its file system, which an archive needs to stay open.
    """

    def __init__(self, url: str, file: Any, files: Any) -> None:
        self._url, self._file, self._files = url, file, files

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`.

        Raises:
            MediaError: it fails again and again. An OSError would be taken for damage by those who decode.
        """
        begin, size = self._file.tell(), getattr(self._file, "size", None)
        wanted = len(buffer) if size is None else max(0, min(len(buffer), size - begin))

        def read() -> bytes:
            self._file.seek(begin)
            data = self._file.read(len(buffer))
            if len(data) < wanted and size is not None:
                raise EOFError(f"{len(data)} bytes came of {wanted} from {begin} on")
            return data

        try:
            data = _insist(self._url, read)
        except OSError as error:
            raise MediaError(self._url, str(error.strerror)) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class Window(io.RawIOBase):
    """A stretch of a file as a file of its own.

    Args:
        file: seekable and open for reading; closed with the window.
        offset, size: of the stretch, in bytes.
    """

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
