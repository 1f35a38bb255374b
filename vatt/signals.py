"""Signals that end a command: exit statuses, deferral, and closed terminals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Exit status of a command that a signal stopped, as a shell reports it.
EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def exit_on_signals() -> None:
    """Convert SIGTERM and SIGHUP to `SystemExit`, so that temporary files are deleted.

    A signal that has a handler or is ignored, as SIGHUP is under ``nohup``, stays as it is. Only the main thread can
    set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    terminals = open_terminals()

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # the kernel and the shell both send it
            detach(terminals)
        sys.exit(EXIT_STATUS[signal.Signals(number)])

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of a block. Without effect outside the main thread."""
    received: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        deferrable = [number for number in EXIT_STATUS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in deferrable}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in received[:1]:
            signal.raise_signal(number)


def open_terminals() -> list[int]:
    """Return the descriptors of standard output and standard error that are terminals."""
    return [number for number in (1, 2) if os.isatty(number)]


def detach(terminals: Sequence[int]) -> None:
    """Discard the output to closed terminals: writing to them would raise an error."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for terminal in terminals:
        os.dup2(devnull, terminal)
    os.close(devnull)
