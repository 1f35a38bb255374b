"""Kills a process at one of the points at which it writes: every one of them can be tried."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import pyarrow.parquet as pq

CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile")
WRITERS = ((faiss, "write_index", 1), (pq, "write_table", 1))  # C++, which tells Python nothing; where the file stands


def killed_at(number: int, folder: Path, do: Callable[[], object]) -> bool:
    """Do something in a process of its own that kills itself at one of its writes into a folder.

    A write is a file opened to be written, renamed, deleted or copied, a folder made or deleted, and each file of FAISS
    and Arrow three times: before, half written, and whole.

    Args:
        number: of the write, from 0.
        folder: below which writes are counted.
        do: what is done.

    Returns:
        Whether it came to that: False if it was done before, and all writes have been tried.

    Raises:
        RuntimeError: it failed by itself.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _watch(number, str(folder))
            do()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise RuntimeError(f"it failed before write {number}: wait status {status}")
    return False


def _watch(number: int, folder: str) -> None:
    left = number

    def write(at: Any) -> bool:
        nonlocal left
        if not str(at).startswith(folder):
            return False
        left -= 1
        return left < 0

    def audit(event: str, given: tuple[Any, ...]) -> None:
        writes = event in CHANGES
        if event == "open":
            writes = given[2] & (os.O_WRONLY | os.O_RDWR) if given[1] is None else set(given[1]) & set("wax+")
        if writes and write(given[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    for module, name, place in WRITERS:
        setattr(module, name, _watched(getattr(module, name), place, write))


def _watched(function: Callable[..., Any], place: int, write: Callable[[Any], bool]) -> Callable[..., Any]:
    def watched(*given: Any, **options: Any) -> Any:
        path = given[place]
        before, half, after = write(path), write(path), write(path)
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*given, **options)
        if half:
            os.truncate(path, os.path.getsize(path) // 2)
        if half or after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return watched
