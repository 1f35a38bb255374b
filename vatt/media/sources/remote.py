"""Files behind URLs that fsspec opens, with retries and time limits."""

from __future__ import annotations

import errno
import io
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from vatt.errors import VattError
from vatt.media.sources.local import regular_file
from vatt.media.types import MediaError

BLOCK = 2**18  # bytes fetched at once from behind a URL
PAUSES_S = (0.5, 2.0)  # before a server that failed is asked again
ASK_AGAIN = (408, 425, 429)  # status codes from 400 to 499 that are retried
ANSWER_LIMIT_S = 60.0  # for one block of a URL, including retries
COPY_LIMIT_S = 3600.0  # for opening files that fsspec copies completely first
LOCAL = ("file://", "local://")  # URLs of local files
COPIES = re.compile(r"^(simplecache|filecache)::")


def is_url(path: str) -> bool:
    """Whether a path leads behind a URL."""
    return "://" in path


class RemoteError(VattError, OSError):
    """A server that fails or refuses."""


def local_path(path: str) -> str:
    """Return the path of a local file that is given as a URL. Other paths and URLs are unchanged."""
    if not path.startswith(LOCAL):
        return path
    from fsspec.core import strip_protocol

    return strip_protocol(path)


def open_url(url: str, time_limit_s: float = ANSWER_LIMIT_S) -> Remote:
    """Open a file behind a URL.

    Args:
        url: URL that fsspec opens.
        time_limit_s: Time limit for opening, at most `ANSWER_LIMIT_S`. Files that fsspec copies have `COPY_LIMIT_S`.

    Raises:
        FileNotFoundError: There is no such file.
        RemoteError: The server fails or refuses.
    """
    innermost = url.rpartition("::")[2].removeprefix("file://").removeprefix("local://")
    if not is_url(innermost) and os.path.exists(innermost) and not os.path.isdir(innermost):
        regular_file(innermost)  # fsspec would block on a pipe, and copy a device endlessly

    def open_file(files: Any, name: str) -> Remote:
        file = files.open(name, "rb", block_size=BLOCK)
        size = getattr(file, "size", None)
        return Remote(url, file, files, files.info(name).get("size") if size is None else size)

    return ask_server(url, open_file, COPY_LIMIT_S if COPIES.match(url) else min(time_limit_s, ANSWER_LIMIT_S))


def ask_server(url: str, ask: Callable[[Any, str], Any], time_limit_s: float = ANSWER_LIMIT_S) -> Any:
    """Call ``ask`` with the file system and the name of the file in it, and return its result. See `_insist`."""
    import fsspec

    return _insist(url, lambda: ask(*fsspec.url_to_fs(url)), time_limit_s)


def _insist(url: str, ask: Callable[[], Any], time_limit_s: float) -> Any:
    """Call ``ask`` and return its result, with retries if a server fails.

    Raises:
        FileNotFoundError: there is no such file.
        RemoteError: anything else; the errors of the libraries below have no base in common, and some cannot be
            sent from a process to another.
        ImportError: the library for such URLs is not installed.
    """
    until = time.monotonic() + time_limit_s
    for pause_s in (*PAUSES_S, None):
        answer = _in_thread(ask, until - time.monotonic())
        if not answer.done():
            raise RemoteError(errno.ETIMEDOUT, f"no complete answer within {time_limit_s:.3g} s", url)
        try:
            return answer.result()
        except ImportError:
            raise
        except Exception as error:
            while error.__cause__ is not None:  # what happened first
                error = error.__cause__
            status = getattr(error, "status", None)
            if isinstance(error, FileNotFoundError | KeyError) or status in (404, 410):  # archives raise KeyError
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
            if isinstance(status, int):
                reason = f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
                is_final = 400 <= status < 500 and status not in ASK_AGAIN
            else:
                message = str(getattr(error, "strerror", None) or error)
                reason = " ".join([f"{type(error).__name__}:", *message.split()])  # in one line
                is_final = isinstance(error, PermissionError | ValueError | TypeError | AttributeError)
            if is_final or pause_s is None or time.monotonic() + pause_s > until:
                raise RemoteError(errno.EIO, reason, url) from None
        time.sleep(pause_s)
    raise AssertionError


def _in_thread(ask: Callable[[], Any], time_limit_s: float) -> Future[Any]:
    """Call a function in a thread and wait for it until the time limit. The thread itself is not stopped.

    The file systems of fsspec have no common timeout, and a slow server may keep a connection open for hours.
    """
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        answer.exception(max(0.0, time_limit_s))
    return answer


class Remote(io.RawIOBase):
    """A file behind a URL; a read that fails is tried again.

    Args:
        url: of the file.
        file: of fsspec; closed with this one.
        files: its file system, which an archive needs to stay open.
        size: Number of bytes; None if the server does not report it.

    Attributes:
        time_limit_s: Bound on each read.
    """

    def __init__(self, url: str, file: Any, files: Any, size: int | None) -> None:
        self._url, self._file, self._files, self.size = url, file, files, size
        self.time_limit_s = ANSWER_LIMIT_S

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
        count = len(buffer) if size is None else max(0, min(len(buffer), size - begin))

        def read() -> bytes:
            self._file.seek(begin)
            data = self._file.read(len(buffer))
            if len(data) < count and size is not None:
                raise EOFError(f"{len(data)} bytes came of {count} from {begin} on")
            return data

        try:
            data = _insist(self._url, read, self.time_limit_s)
        except OSError as error:
            raise MediaError(self._url, str(error.strerror)) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with suppress(Exception):  # some file systems of fsspec fail here, which is harmless
            self._file.close()
        super().close()
