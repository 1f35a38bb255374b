"""Where the bytes of a media file are: a file, a member of a shard, or an object behind a URL.

A path is one of

- ``clips/a.mp4``: a file;
- ``shards/00000.tar#512+90112``: the 90,112 bytes from byte 512 on of a file, which is how a clip in a shard is named;
- ``s3://bucket/a.mp4``, ``https://host/00000.tar#512+90112``, …: the same behind any URL that fsspec opens.

FFmpeg gets an open file and never a path, so that it cannot interpret a name as a URL, a protocol or a pattern.
"""

from __future__ import annotations

import io
import os
import re
import time
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from vatt.media.sources.local import open_local, regular_file
from vatt.media.sources.remote import ANSWER_LIMIT_S, BLOCK, COPIES, Remote, ask_server, is_url, open_url
from vatt.media.types import MediaError

SHORTEST_OPEN_S, OPEN_LIMIT_S = 1.0, 60.0  # bounds of the time limit of opening a file
# Under these names servers tell one state of a file from another.
STATES = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "last_modified", "mtime", "created")
_CACHES = re.compile(r"^(\w+cache::)+")  # of fsspec; some cannot say what is behind them
_MEMBER = re.compile(r"(.+)#(\d+)\+(\d+)")
# Suffixes that are passed to FFmpeg, which detects some formats by them. For ".y" it opens the files of other planes.
_SUFFIX = re.compile(r"\.(?!y$)[a-z0-9]{1,8}", re.IGNORECASE)


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
    file = io.BufferedReader(open_url(path), BLOCK)
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
        facts = ask_server(_CACHES.sub("", file), lambda files, name: files.info(name))
        told = next((str(facts[name]) for name in STATES if facts.get(name)), "")
        return facts["size"], int.from_bytes(blake2b(told.encode(), digest_size=6).digest()) if told else 0
    status = regular_file(file)
    return _check_size(status.st_size, offset, size), status.st_mtime_ns


def _check_size(file_size: int, offset: int, size: int | None) -> int:
    """Return the size of a member, or of the file without a member.

    Raises:
        OSError: The file is too short for the member.
    """
    if size is not None and file_size < offset + size:
        raise OSError(f"the shard has {file_size} bytes, the clip ends at {offset + size}")
    return file_size if size is None else size


def read_bytes(path: str, offset: int, count: int) -> bytes:
    """At most so many bytes of what is at a path, from ``offset`` on.

    Raises:
        OSError: there is no such file.
    """
    with MediaFile(path, ANSWER_LIMIT_S) as file:
        file.seek(offset)
        return file.read(count)


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
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class MediaFile(io.RawIOBase):
    """A file, a member of a shard or an object at a URL, opened for PyAV with a time limit for all reads.

    Args:
        path: See the head of this module.
        time_limit_s: Time limit for opening and all reads together, until `limit` is called. Files that fsspec copies
            completely first (``simplecache::``, ``filecache::``) have one hour for that.

    Attributes:
        name: "media" and the suffix of the file, which is passed to FFmpeg.
        size: Number of bytes; None if the server does not report it.
        is_remote: Whether the path is a URL.

    Raises:
        OSError: There is no regular file, it is too short for the member, or the server fails.
        MediaError: Opening takes longer than the limit.
    """

    def __init__(self, path: str, time_limit_s: float) -> None:
        self.path = path
        self.limit(time_limit_s)
        file, offset, size = split_member(path)
        self.is_remote = is_url(file)
        self.name = "media"
        self._remote: Remote | None = None
        if self.is_remote:
            self._remote = open_url(file, time_limit_s)
            if COPIES.match(file):  # the copy may have taken longer
                self.limit(time_limit_s)
            self._file: Any = io.BufferedReader(self._remote, BLOCK)
            self.size = self._remote.size if size is None else size
        else:
            self._file, file_size = open_local(file)
            try:
                self.size = _check_size(file_size, offset, size)
            except OSError:
                self._file.close()
                raise
            suffix = _SUFFIX.fullmatch(os.path.splitext(file)[1]) if size is None else None
            self.name += suffix[0] if suffix else ""
        if size is not None:
            self._file = Window(self._file, offset, size)

    def limit(self, time_limit_s: float) -> None:
        """Set the time limit of all further reads together, in seconds from now."""
        self._time_limit_s, self._until = time_limit_s, time.monotonic() + time_limit_s
        self._has_failed = False

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes. After an error, nothing is read until `limit` is called.

        Raises:
            MediaError: The time limit is exceeded, or a server fails.
        """
        if self._has_failed:  # FFmpeg continues to read; PyAV raises the first error and would print others
            return b""
        left_s = self._until - time.monotonic()
        try:
            if left_s < 0:
                raise MediaError(self.path, f"reading took longer than {self._time_limit_s:.3g} s")
            if self._remote is not None:
                self._remote.time_limit_s = min(left_s, ANSWER_LIMIT_S)
            return self._file.read(size)
        except (OSError, MediaError):
            self._has_failed = True
            raise

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
