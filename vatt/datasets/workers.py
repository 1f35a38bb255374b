"""Worker processes of data loaders."""

from __future__ import annotations

import signal


def leave_signals_to_main(worker: int) -> None:
    """Initialize a worker so that signals which reach a whole process group stop the main process alone.

    These are Ctrl-C, SIGTERM and SIGHUP. The main process finishes its step, for which it needs the workers, and ends
    them itself: the first SIGTERM is ignored, a second one ends the worker.

    Args:
        worker: Number of the worker, as `torch.utils.data.DataLoader` passes it to ``worker_init_fn``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
