"""Data loaders that skip files whose decoding crashes the process, such as by a segmentation fault.

Each worker writes the path of its current file to shared memory. If the worker dies, or hangs and is killed, the
loader excludes that file and starts new workers at the first batch that was not delivered. An excluded file is handled
as an unreadable one, so batches are those of a run in which the file was unreadable from the beginning.

Without workers the main process reads, and a crash ends it. A small second process then prints the path of the file.
"""

from __future__ import annotations

import math
import pickle
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from ctypes import c_char, c_double
from functools import partial
from itertools import islice
from multiprocessing import connection
from multiprocessing.sharedctypes import RawArray
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler
from torch.utils.data._utils import worker as torch_worker

from vatt.datasets.loading.workers import describe_exit, interrupts_blocked
from vatt.errors import VattError
from vatt.media.types import MediaError

PATH_BYTES = 2**13  # space for the path that a worker reads
HANG_FACTOR = 5.0  # a worker is killed if a read takes this many times its time limit
TICK_S = 1.0
END_S = 10.0  # time limit for the end of a worker whose connection has broken; it may be writing a core dump
WATCH = """
import sys
path = ""
for line in sys.stdin:
    path = line.strip()
if path:
    print(f"vatt: the process ended while it read {path}; with num_workers 1 or more such files are skipped", file=sys.stderr)
"""  # noqa: E501


class CrashedFile(MediaError):
    """A file that is excluded because a process ended while it read it."""

    kind = "crashed"


_record_read: Callable[[str, float], None] | None = None  # stores the path of the file that this process reads
_excluded: dict[str, str] = {}


def begin_reading(path: str, time_limit_s: float = math.inf) -> None:
    """Record that this process is about to read a part of a file.

    Args:
        path: See `vatt.media.sources.files`; empty at the end of reading.
        time_limit_s: Time limit of the read. A worker that does not return after `HANG_FACTOR` times as long is killed.

    Raises:
        CrashedFile: A process ended while it read the file.
    """
    if path in _excluded:
        raise CrashedFile(path, _excluded[path])
    if _record_read is not None:
        _record_read(path, time_limit_s)


class CrashTolerantLoader(DataLoader, ABC):
    """A `DataLoader` that excludes files that crash or hang a worker.

    Subclasses implement `delivered`. Iteration starts at the first batch that was not delivered.

    Args:
        dataset: Dataset that calls `begin_reading` before it reads a file, as `vatt.datasets.clip_reader.ClipReader`
            does.
        crashed: Excluded files and the reasons. Updated in place; several loaders may share the dictionary.
        initialize: Called in every worker with its number.
        options: Passed to `torch.utils.data.DataLoader`.
    """

    def __init__(
        self, dataset: Dataset, crashed: dict[str, str], initialize: Callable[[int], None], **options: Any
    ) -> None:
        self.crashed, self.initialize = crashed, initialize
        num_workers = max(1, options.get("num_workers", 0))
        self._paths = RawArray(c_char, num_workers * PATH_BYTES)
        # Per worker: number of reads so far, and time limit of the current read in seconds.
        self._reads = RawArray(c_double, num_workers * 2)
        self._hung: dict[str, str] = {}  # files of workers that were killed because they hung, and the reasons
        init = partial(_initialize, shared=(self._paths, self._reads), crashed=crashed, initialize=initialize)
        super().__init__(dataset, **({"worker_init_fn": init} | options))

    @abstractmethod
    def delivered(self, batch: Any) -> None:
        """Record that a batch is about to be delivered. After a restart, iteration begins with the batch after it."""

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0:
            global _excluded
            _excluded = self.crashed
            _watch()
            error = yield from self._deliver(super().__iter__())
            if error is not None:
                raise error
            return
        while True:
            batches, stop = self._start(), threading.Event()
            threading.Thread(target=self._kill_hanging, args=(batches._workers, stop), daemon=True).start()
            try:
                error = yield from self._deliver(batches)
            finally:
                stop.set()
            if error is None:
                return
            if _is_of_connection(error):
                _wait_for_end(batches._workers)
            files = self._crashed_files(batches)
            if not files:
                raise self._error_outside_files(error, batches)
            self.crashed |= files
            batches = self._iterator = None  # dropping the last reference shuts down the remaining workers

    def _deliver(self, batches: Iterator[Any]) -> Generator[Any, None, Exception | None]:
        """Yield batches. Return the error that ended them, or None."""
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return None
            except Exception as error:
                return error
            self.delivered(batch)
            yield batch

    def _start(self) -> Iterator[Any]:
        """Start the workers, without PyTorch's SIGCHLD handler, which raises errors anywhere in the main process."""
        self._paths[:], self._reads[:] = bytes(len(self._paths)), [0.0] * len(self._reads)
        batches = super().__iter__()
        handler = signal.getsignal(signal.SIGCHLD)
        if threading.current_thread() is threading.main_thread() and _is_of_torch(handler):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches

    def _crashed_files(self, batches: Any) -> dict[str, str]:
        """Return the files that dead workers were reading, with the reasons."""
        files = {}
        for number, worker in enumerate(batches._workers):  # PyTorch 2.14
            path = self._current_path(number)
            if worker.exitcode is not None and path:
                files[path] = f"the process that read it {describe_exit(worker.exitcode)}"
        return files | self._hung

    def _current_path(self, worker: int) -> str:
        """Return the path of the file that a worker reads, or an empty string."""
        path, _, _ = self._paths[worker * PATH_BYTES : (worker + 1) * PATH_BYTES].partition(b"\0")
        return path.decode(errors="surrogateescape")

    def _kill_hanging(self, workers: Sequence[Any], stop: threading.Event) -> None:
        """Kill workers whose decoders hang, until ``stop`` is set.

        Time is counted in polls instead of read from a clock, so that time in which the whole process is suspended does
        not count.
        """
        counts, ticks = [0.0] * len(workers), [0] * len(workers)
        self._hung.clear()
        while not stop.wait(TICK_S):
            for number, worker in enumerate(workers):
                count, limit_s = self._reads[2 * number : 2 * number + 2]
                ticks[number] = ticks[number] + 1 if count == counts[number] else 0
                counts[number] = count
                path = self._current_path(number)
                if path and ticks[number] * TICK_S > HANG_FACTOR * limit_s and worker.is_alive():
                    self._hung[path] = f"the process that read it hung for {HANG_FACTOR * limit_s:g} s and was killed"
                    worker.kill()

    def _error_outside_files(self, error: Exception, batches: Any) -> Exception:
        """Return the error to raise if no worker has ended while it read a file."""
        codes = [worker.exitcode for worker in batches._workers if worker.exitcode is not None]
        has_ended = "exited unexpectedly" in str(error) or (bool(codes) and _is_of_connection(error))  # PyTorch 2.14
        if not has_ended:
            return error
        code = next(filter(None, codes), 0)
        cause = f"a data worker process {describe_exit(code)} outside of reading a file"
        return VattError(f"{cause}: run the command again")


class SequentialLoader(CrashTolerantLoader):
    """A loader of all items of a dataset, in order.

    Args:
        dataset, crashed, initialize, options: See `CrashTolerantLoader`.
        batch_size: Number of items in a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        crashed: dict[str, str],
        initialize: Callable[[int], None],
        **options: Any,
    ) -> None:
        self._remaining = _RemainingBatches(SequentialSampler(dataset), batch_size, drop_last=False)
        super().__init__(dataset, crashed, initialize, batch_sampler=self._remaining, **options)

    def __iter__(self) -> Iterator[Any]:
        self._remaining.first = 0
        return super().__iter__()

    def delivered(self, batch: Any) -> None:
        self._remaining.first += 1


class _RemainingBatches(BatchSampler):
    """Sampler of the batches from index `first` on."""

    first = 0

    def __iter__(self) -> Iterator[list[int]]:
        return islice(super().__iter__(), self.first, None)


class _OriginalError(ExceptionWrapper):
    """Wrapper that raises the original exception of a worker in the main process.

    The traceback of the worker is its cause. PyTorch's `ExceptionWrapper` raises a new exception of the same class with
    the traceback as its message.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.error: Exception | None = None
        with suppress(Exception):  # exceptions that cannot be pickled fall back to PyTorch's wrapper
            self.error = pickle.loads(pickle.dumps(sys.exception()))

    def reraise(self) -> None:
        if self.error is None:
            super().reraise()
        raise self.error from RuntimeError(self.exc_msg)


def _watch() -> None:
    """Start the process that prints which file this process was reading when it ended, unless it runs."""
    global _record_read
    if _record_read is not None:
        return
    with interrupts_blocked():
        command = [sys.executable, "-IS", "-c", WATCH]
        pipe = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).stdin

    def record_read(path: str, _: float) -> None:
        with suppress(OSError):  # it was killed
            pipe.write(path.encode(errors="backslashreplace") + b"\n")
            pipe.flush()

    _record_read = record_read


def _initialize(worker: int, shared: Any, crashed: dict[str, str], initialize: Callable[[int], None]) -> None:
    global _record_read, _excluded
    initialize(worker)
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # PyTorch's handler prints a line without the name of the file
    torch_worker.ExceptionWrapper = _OriginalError  # PyTorch 2.14
    _record_read, _excluded = partial(_write_path, *shared, worker), crashed


def _write_path(paths: Any, reads: Any, worker: int, path: str, time_limit_s: float) -> None:
    reads[2 * worker : 2 * worker + 2] = reads[2 * worker] + 1, time_limit_s
    data = path.encode(errors="surrogateescape")[: PATH_BYTES - 1]
    paths[worker * PATH_BYTES : worker * PATH_BYTES + len(data) + 1] = data + b"\0"


def _is_of_connection(error: Exception) -> bool:
    """Return whether an error is of the connection to a worker, which may be about to end, and not of its dataset.

    A worker keeps the memory of its batches open until they are received.
    """
    return isinstance(error, OSError | EOFError) and error.__cause__ is None


def _wait_for_end(workers: Sequence[Any]) -> None:
    """Wait up to `END_S` until a worker has ended and its exit status is known."""
    ending = connection.wait([worker.sentinel for worker in workers], END_S)
    for worker in workers:
        if worker.sentinel in ending:  # its descriptors are closed
            worker.join(END_S)


def _is_of_torch(handler: Any) -> bool:
    return getattr(handler, "__module__", "").startswith("torch.")
