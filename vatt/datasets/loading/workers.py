"""Signals and exits of worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread until the block ends. Processes that are started meanwhile never receive it.

    Ctrl-C reaches a whole process group: workers that are still importing modules would print tracebacks.
    """
    resource_tracker.ensure_running()  # starting it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_interrupts_to_main(worker: int) -> None:
    """Initialize a worker so that Ctrl-C and SIGHUP stop only the main process, which then terminates the worker.

    Args:
        worker: Number of the worker, as `torch.utils.data.DataLoader` passes it to ``worker_init_fn``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # with any other status, PyTorch would report a failure


def leave_signals_to_main(worker: int) -> None:
    """Initialize a worker so that signals which reach a whole process group stop only the main process.

    These are Ctrl-C, SIGTERM and SIGHUP. The main process needs the workers to finish its step, and then terminates
    them: the first SIGTERM is ignored, a second one terminates the worker.

    Args:
        worker: Number of the worker, as `torch.utils.data.DataLoader` passes it to ``worker_init_fn``.
    """
    leave_interrupts_to_main(worker)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def describe_exit(code: int) -> str:
    """Return how a process ended, such as "was killed by SIGSEGV".

    Args:
        code: Exit status as of `multiprocessing.Process`; negative for a signal.
    """
    if code >= 0:
        return f"ended with status {code}"
    hint = ", perhaps out of memory" if code == -signal.SIGKILL else ""
    names = {
        int(known): known.name for known in signal.Signals
    }  # `signal.Signals` has no names for most real-time signals
    return f"was killed by {names.get(-code, f'signal {-code}')}{hint}"
