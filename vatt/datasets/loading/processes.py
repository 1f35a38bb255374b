"""Files through worker processes, in order: one that hangs or crashes a decoder is one failure, not the end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic, Literal, TypeVar

import torch
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from vatt.datasets.loading.workers import describe_exit, interrupts_blocked
from vatt.errors import VattError
from vatt.media.demuxing import first_line
from vatt.media.types import MediaError

TRIES = 2  # of a task when the pool breaks
EXIT_ZERO = 256  # replaces exit status 0
_END = object()

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why there is no result.

    Args:
        kind: what happened.
        reason: in words.
    """

    kind: Literal["unreadable", "timeout", "crashed"]
    reason: str


class Isolated(Generic[Task, Result]):
    """Runs a function on one task after the other, in processes of their own.

    Args:
        function: takes a task; it and its arguments are sent to other processes.
        num_workers: processes, one thread each; one per CPU unless given.
        time_limit_s: for one task; after it the process is killed and replaced.
        ahead: tasks that may be done before the first that is not; bounds the memory.
        fatal: an error that ends it all instead of being the failure of one task.
    """

    def __init__(
        self,
        function: Callable[[Task], Result],
        num_workers: int | None,
        time_limit_s: float,
        ahead: int,
        fatal: Callable[[Exception], bool] = lambda error: isinstance(error, ImportError),
    ) -> None:
        self.function, self.time_limit_s, self.ahead, self.fatal = function, time_limit_s, ahead, fatal
        self.num_workers = num_workers or os.cpu_count() or 1

    def __call__(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | Failure]]:
        """Every task with its result, in order.

        Raises:
            VattError: the processes cannot be started.
        """
        pool, waiting = _make_pool(self.num_workers), deque[tuple[Task, ProcessFuture]]()
        left, ended, tries, any_done = iter(tasks), False, 0, False
        try:
            while waiting or not ended:
                while not ended and len(waiting) <= self.ahead:
                    task = next(left, _END)
                    ended = task is _END
                    if not ended:
                        waiting.append((task, self._schedule(pool, task)))
                if not waiting:
                    return
                task, future = waiting[0]
                try:
                    result = self._result(future)
                except (BrokenProcessPool, CancelledError) as error:
                    # A process that ends before the pool knows what it was at takes the pool with it.
                    tries += 1
                    if tries > TRIES and not any_done:
                        message = "the worker processes exit on startup: see their output above"
                        raise VattError(message) from error
                    pool.stop()
                    pool.join()
                    pool = _make_pool(self.num_workers)
                    if tries <= TRIES:
                        waiting = deque((each, self._again(pool, each, future)) for each, future in waiting)
                        continue
                    result = Failure("crashed", "the process that read it ended, again and again")
                    waiting = deque((each, self._again(pool, each, future)) for each, future in list(waiting)[1:])
                else:
                    waiting.popleft()
                    any_done = any_done or not isinstance(result, Failure)
                tries = 0
                yield task, result
        finally:
            pool.stop()
            pool.join()

    def _schedule(self, pool: ProcessPool, task: Task) -> ProcessFuture:
        try:
            with interrupts_blocked():  # processes may be started
                return pool.schedule(self.function, args=(task,), timeout=self.time_limit_s)
        except RuntimeError as error:  # the pool is broken, which is detected when the result is requested
            future = ProcessFuture()
            future.set_exception(BrokenProcessPool(str(error)))
            return future

    def _again(self, pool: ProcessPool, task: Task, future: ProcessFuture) -> ProcessFuture:
        """The result that a task has, or another try of it."""
        if future.done() and not future.cancelled() and not isinstance(future.exception(), BrokenProcessPool):
            return future
        return self._schedule(pool, task)

    def _result(self, future: ProcessFuture) -> Result | Failure:
        return _result(future, self.time_limit_s, self.fatal)


class Processes:
    """Processes that call functions on request. If one hangs or crashes, only its call fails.

    Args:
        num_workers: Number of processes.
        time_limit_s: Time limit of one call, in seconds. After it, the process is killed and replaced.
        fatal: Returns whether an error is raised instead of being returned as a `Failure`.
    """

    def __init__(self, num_workers: int, time_limit_s: float, fatal: Callable[[Exception], bool]) -> None:
        self.num_workers, self.time_limit_s, self.fatal = num_workers, time_limit_s, fatal
        self._pool: ProcessPool | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the processes, unless they run. They are ready some seconds later."""
        with self._lock:
            if self._pool is None or not self._pool.active:  # a process that exits on startup may break the pool
                self._pool = _make_pool(self.num_workers)
                with interrupts_blocked():
                    self._pool.schedule(os.getpid)

    async def call(self, function: Callable[..., Result], *args: Any) -> Result | Failure:
        """Call a function in a process. If the call is cancelled, the process is killed.

        Raises:
            BrokenProcessPool: Another call has stopped all processes. The next call starts them again.
        """
        self.start()
        future = self._pool.schedule(function, args=args, timeout=self.time_limit_s)
        await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
        return _result(future, self.time_limit_s, self.fatal)

    def run(self, function: Callable[..., Result], *args: Any, time_limit_s: float | None = None) -> Result | Failure:
        """Call a function in a process and wait for its result. May be called in any thread.

        Args:
            function: Function to call.
            args: Its arguments.
            time_limit_s: Time limit of this call in seconds. Defaults to `time_limit_s` of the pool.

        Raises:
            Exception: The function raised an exception for which ``fatal`` returns True.
        """
        limit_s = time_limit_s or self.time_limit_s
        for _ in range(TRIES):
            self.start()
            try:
                return _result(self._pool.schedule(function, args=args, timeout=limit_s), limit_s, self.fatal)
            except (BrokenProcessPool, CancelledError, RuntimeError) as error:
                if self._pool.active:  # the error was raised by the function, not by the pool
                    raise
                broken = error
        return Failure("crashed", f"the process that read it ended: {first_line(broken)}")

    def stop(self) -> None:
        """Kill the processes."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()


def _result(future: ProcessFuture, time_limit_s: float, fatal: Callable[[Exception], bool]) -> Any:
    """Return the result of a call, or its failure.

    Raises:
        BrokenProcessPool, CancelledError: All processes were stopped.
    """
    try:
        return future.result()
    except TimeoutError:
        return Failure("timeout", f"not done within {time_limit_s:g} s")
    except ProcessExpired as error:
        code = 0 if error.exitcode == EXIT_ZERO else error.exitcode
        return Failure("crashed", f"the process that read it {describe_exit(code)}")
    except (BrokenProcessPool, CancelledError):
        raise
    except MediaError as error:
        return Failure("unreadable", error.reason)
    except Exception as error:
        if fatal(error):
            raise
        return Failure("unreadable", f"{type(error).__name__}: {first_line(error)}")


def _make_pool(num_workers: int) -> ProcessPool:
    """Return a pool whose processes have one CPU thread each, and end with this process. The first task starts them."""
    # Spawn instead of fork: thread pools of torch and FFmpeg deadlock in a forked process.
    return ProcessPool(max_workers=num_workers, initializer=_start, context=_Context())


class _Process(SpawnProcess):
    @property
    def exitcode(self) -> int | None:
        """Exit status, with `EXIT_ZERO` instead of 0: pebble does not report tasks of processes that end with 0."""
        code = super().exitcode
        return EXIT_ZERO if code == 0 else code


class _Context(SpawnContext):
    Process = _Process


def _start() -> None:
    """One CPU thread, all imports done before a clock runs, and no life after the process that gives the tasks."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
