"""Files through worker processes, in order: one that hangs or crashes a decoder is one failure, not the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from pebble import ProcessExpired, ProcessFuture, ProcessPool

from vatt.datasets.media.container import first_line
from vatt.datasets.media.facts import MediaError
from vatt.errors import VattError

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
        context = multiprocessing.get_context("spawn")  # forked threads of torch and FFmpeg hang
        pool = ProcessPool(max_workers=self.num_workers, initializer=_start, context=context)
        waiting: deque[tuple[Task, ProcessFuture]] = deque()
        try:
            for task in tasks:
                waiting.append((task, pool.schedule(self.function, args=(task,), timeout=self.time_limit_s)))
                if len(waiting) > self.ahead:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            pool.stop()
            pool.join()

    def _result(self, task: Task, future: ProcessFuture) -> tuple[Task, Result | Failure]:
        try:
            return task, future.result()
        except TimeoutError:
            return task, Failure("timeout", f"not done within {self.time_limit_s:g} s")
        except ProcessExpired as error:
            code = error.exitcode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            how += ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return task, Failure("crashed", f"the process that read it {how}")
        except BrokenProcessPool as error:
            raise VattError("the worker processes end before they begin; see what they printed above") from error
        except MediaError as error:
            return task, Failure("unreadable", error.reason)
        except Exception as error:
            if self.fatal(error):
                raise
            return task, Failure("unreadable", f"{type(error).__name__}: {first_line(error)}")


def _start() -> None:
    """One CPU thread, and all imports done before a clock runs."""
    torch.set_num_threads(1)
