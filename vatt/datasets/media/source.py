"""Where the bytes of a media file are: a file, a member of a shard, or an object behind a URL.

A path is one of

- ``clips/a.mp4``: a file;
- ``shards/00000.tar#512+90112``: the 90,112 bytes from byte 512 on of a file, which is how a clip in a shard is named;
- ``s3://bucket/a.mp4``, ``https://host/00000.tar#512+90112``, …: the same behind any URL that fsspec opens.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 2**18  # bytes fetched at once from behind a URL
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
    """A file, or what is behind a URL, open as by `open`."""
    if not is_url(path):
        return Path(path).open(mode, **options)
    import fsspec

    return fsspec.open(path, mode, **options)


def exists(path: str) -> bool:
    """Whether there is a file at a path, and, for a member, whether it reaches that far. URLs are not looked at."""
    if is_url(path):
        return True
    file, offset, size = split_member(path)
    return Path(file).is_file() and (size is None or Path(file).stat().st_size >= offset + size)


def state(path: str) -> tuple[int, int]:
    """Bytes, and the time of the last change in nanoseconds, 0 behind a URL.

    Raises:
        OSError: there is no such file, or it is too short for the member.
    """
    file, offset, size = split_member(path)
    if is_url(file):
        return size if size is not None else _filesystem(file).size(file), 0
    found = Path(file).stat()
    if size is not None and found.st_size < offset + size:
        raise OSError(f"the shard has {found.st_size} bytes, the clip ends at {offset + size}")
    return found.st_size if size is None else size, found.st_mtime_ns


def av_input(path: str) -> str | BinaryIO:
    """What PyAV opens: a name that FFmpeg reads by itself, or, behind a URL, a file object."""
    file, offset, size = split_member(path)
    if is_url(file):
        opened = _filesystem(file).open(file, "rb", block_size=BLOCK)
        return opened if size is None else Window(opened, offset, size)
    return file if size is None else f"subfile,,start,{offset},end,{offset + size},,:{file}"


def _filesystem(url: str) -> Any:
    import fsspec

    return fsspec.url_to_fs(url)[0]


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
