"""Signals that reach worker processes of data loaders."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event

import pytest

from vatt.datasets.loading.workers import (
    describe_exit,
    interrupts_blocked,
    leave_interrupts_to_main,
    leave_signals_to_main,
)


def work(initialize: Callable[[int], None], ready: Event) -> None:
    initialize(0)
    ready.set()
    while True:
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(("initialize", "terms"), [(leave_interrupts_to_main, 1), (leave_signals_to_main, 2)])
def test_worker_exits_after_the_given_number_of_signals(initialize: Callable[[int], None], terms: int) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work, args=(initialize, ready), daemon=True)
    worker.start()
    assert ready.wait(30)
    for number in (signal.SIGINT, signal.SIGHUP, *[signal.SIGTERM] * (terms - 1)):
        os.kill(worker.pid, number)
        worker.join(0.2)
        assert worker.is_alive()
    worker.terminate()  # as Python does when it exits
    worker.join(30)
    assert worker.exitcode == (0 if terms == 1 else -signal.SIGTERM)


def test_processes_that_are_started_while_interrupts_are_blocked_do_not_receive_them() -> None:
    code, outputs = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still alive')", []

    def start() -> None:
        with interrupts_blocked():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            outputs.append(subprocess.check_output([sys.executable, "-c", code], text=True))

    with pytest.raises(KeyboardInterrupt):
        start()
    assert outputs == ["still alive\n"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_exits_by_signals_with_and_without_a_name() -> None:
    assert describe_exit(-signal.SIGSEGV) == "was killed by SIGSEGV"
    assert describe_exit(-(signal.SIGRTMIN + 6)) == f"was killed by signal {signal.SIGRTMIN + 6}"
