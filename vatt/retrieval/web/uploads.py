"""Uploads to the search page: kept in a private directory, encoded once, and deleted."""

from __future__ import annotations

import asyncio
import shutil
import stat
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vatt.datasets.loading.batches import Sample
from vatt.datasets.loading.processes import Failure, Processes
from vatt.datasets.windows import Windows
from vatt.errors import InputError
from vatt.media.types import MediaError
from vatt.models.encoding import FileVectors, encode_file
from vatt.models.vatt import VATT
from vatt.retrieval.web.reading import MAX_PIXELS, read_info, read_windows
from vatt.retrieval.web.temporary import TemporaryFolder
from vatt.structures import Clip

MIB = 2**20
MAX_AGE_S = 600.0  # of an unused upload
SWEEP_S = 60.0  # interval of deleting unused uploads
MAX_WINDOWS = 64  # encoded windows of an upload
REMEMBERED = 128  # uploads whose vectors are kept for further queries
# Queries that wait for uploads, in total and for the same upload. They occupy slots of Gradio's queue.
MAX_WAITING, MAX_WAITING_PER_UPLOAD = 10, 3
BUSY = "the server is busy: try again in a moment"


class Busy(InputError):
    """Too many calls are waiting."""


class Workers:
    """Thread pool with a bounded queue.

    Args:
        name: Name of the threads.
        threads: Number of concurrent calls.
        waiting: Maximum number of waiting calls.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(threads + waiting)

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function in a thread. A call that has not started can be cancelled.

        Raises:
            Busy: Too many calls are waiting.
        """
        if not self._free.acquire(blocking=False):
            raise Busy(BUSY)
        future = self._pool.submit(function, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future

    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function in a thread and return its result. See `submit`."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))


class Uploads:
    """Private upload directory, with Gradio's layout ``<hash of the content>/<name>``.

    Args:
        quota: Size of the directory in bytes at which uploads are refused.

    Attributes:
        folder: The directory. It is deleted when the process exits.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self._directory = TemporaryFolder("vatt-uploads-")
        self.folder = self._directory.path.resolve()

    def check(self, path: Any) -> Path:
        """Return the path of an upload, which may have been deleted.

        Raises:
            ValueError: The path is not that of an upload, for example relative, a URL or a symbolic link.
        """
        if not isinstance(path, str) or "\0" in path or len(path) > 4096:
            raise ValueError("not the path of an upload")
        parts = Path(path).parts
        if parts[:-2] != self.folder.parts or ".." in parts or str(Path(path)) != path:
            raise ValueError("not the path of an upload")
        if Path(path).resolve() != Path(path):
            raise ValueError("not the path of an upload")
        return Path(path)

    def file(self, path: str) -> Path | None:
        """Return the upload at a path, or None."""
        try:
            checked = self.check(path)
            return checked if stat.S_ISREG(checked.lstat().st_mode) else None
        except (ValueError, OSError):
            return None

    def has_room(self) -> bool:
        """Return whether the size of the directory is below the quota."""
        return sum(_size(path) for path in self.folder.rglob("*")) < self.quota

    def delete(self, path: Path) -> None:
        """Delete an upload."""
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: the same content under another name
            path.parent.rmdir()

    def delete_partial(self) -> None:
        """Delete the files of interrupted uploads. No upload may be running."""
        for path in self.folder.iterdir():
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def delete_old(self, age_s: float = MAX_AGE_S) -> None:
        """Delete uploads that are at least ``age_s`` seconds old."""
        latest = time.time() - age_s
        for path in self.folder.iterdir():
            try:
                is_old = path.lstat().st_mtime <= latest
            except OSError:
                continue
            if is_old and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif is_old:
                path.unlink(missing_ok=True)

    async def sweep(self) -> None:
        """Delete old uploads periodically."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await asyncio.to_thread(self.delete_old)


class Examples:
    """Vectors of uploads. Each upload is encoded once and then deleted, also after an error.

    Args:
        model: The model.
        uploads: Upload directory.
        workers: Threads for encoding.
        limit_s: Time limit for one upload, in seconds.
        processes: Processes that read uploads, so that one which crashes a decoder fails alone.
    """

    def __init__(self, model: VATT, uploads: Uploads, workers: Workers, limit_s: float, processes: Processes) -> None:
        self.model, self.uploads, self.workers, self.limit_s = model, uploads, workers, limit_s
        self.processes = processes
        self._known: OrderedDict[Path, Future[tuple[FileVectors, bool]]] = OrderedDict()
        self._waiting: Counter[Path] = Counter()  # queries by upload

    async def vectors(self, path: Path) -> tuple[FileVectors, bool]:
        """Return the vectors of an upload, and whether they cover all of its windows and not only `MAX_WINDOWS`.

        Raises:
            InputError: The upload cannot be read, takes too long, or was deleted.
            Busy: Too many uploads are waiting, or too many queries wait for them.
        """
        future = self._known.get(path)
        is_done = future is not None and future.done()
        if future is not None and is_done and future.exception() is None:
            self._known.move_to_end(path)
            return future.result()
        if self._waiting.total() >= MAX_WAITING or self._waiting[path] >= MAX_WAITING_PER_UPLOAD:
            raise Busy(BUSY)
        if future is None or is_done:
            future = self._submit(path)
        self._waiting[path] += 1
        try:
            result = asyncio.wrap_future(future)
            # If this query has timed out until then, asyncio would log an error as one that nobody retrieved.
            result.add_done_callback(lambda result: result.cancelled() or result.exception())
            return await asyncio.shield(result)  # other queries may wait for it
        except Exception:
            self._known.pop(path, None)  # retried after the next upload
            raise
        finally:
            self._waiting[path] -= 1
            self._waiting += Counter()  # removes zeros

    def _submit(self, path: Path) -> Future[tuple[FileVectors, bool]]:
        """Start to encode an upload."""
        if self.uploads.file(str(path)) is None:
            raise InputError(f"the upload {path.name} has expired: upload it again")
        try:
            future = self.workers.submit(self._encode, path, time.monotonic() + self.limit_s)
        except Busy:
            self.uploads.delete(path)
            raise
        self._known[path] = future
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return future

    def is_busy(self, path: Path) -> bool:
        """Return whether an upload is waiting or being encoded. It is deleted after that."""
        future = self._known.get(path)
        return future is not None and not future.done()

    def _encode(self, path: Path, deadline: float) -> tuple[FileVectors, bool]:
        try:
            # A read may start just before the limit and take as long as the limit, so the limit is half of the time.
            limit_s = (deadline - time.monotonic()) / 2
            if limit_s <= 0:
                raise Busy(BUSY)
            info = self._read(path, deadline, read_info, str(path), limit_s)
            if info.width * info.height > MAX_PIXELS:
                raise InputError(f"{path.name}: its frames have more than {MAX_PIXELS} pixels")
            is_long = info.duration_s > MAX_WINDOWS * self.model.format.duration_s
            limit_s = max((deadline - time.monotonic()) / 2, 0.1)
            windows = MAX_WINDOWS if is_long else None

            def read(source: Windows, clip: Clip) -> Iterator[Sample]:
                for sample in self._read(path, deadline, read_windows, source, clip):
                    yield {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in sample.items()}

            options = {"windows": windows, "time_limit_s": limit_s, "read_windows": read}
            return encode_file(self.model, path, **options), not is_long
        finally:
            self.uploads.delete(path)

    def _read(self, path: Path, deadline: float, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that reads an upload in another process.

        Raises:
            MediaError: The upload cannot be read, takes too long, or crashes the process.
        """
        result = self.processes.run(function, *args, time_limit_s=max(deadline - time.monotonic(), 0.1))
        if isinstance(result, Failure):
            raise MediaError(path, result.reason)
        return result


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
