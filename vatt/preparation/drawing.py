"""Clips that are drawn and written, in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from vatt.datasets.loading.workers import interrupts_blocked
from vatt.structures import Clip

Job = TypeVar("Job")


def draw_all(draw: Callable[[Job], Clip], jobs: Sequence[Job], num_workers: int | None) -> list[Clip]:
    """Draw and write clips, in several processes; one per CPU unless given, and none beside this one for 1."""
    workers = num_workers or os.cpu_count() or 1
    show: dict[str, Any] = {"total": len(jobs), "desc": "drawing clips", "unit": "clip", "disable": None}
    if workers == 1:
        return [draw(job) for job in tqdm(jobs, **show)]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            with interrupts_blocked():
                futures = [pool.submit(draw, job) for job in jobs]
            return [future.result() for future in tqdm(futures, **show)]
        except BaseException:  # Ctrl-C or SIGTERM: cancel the remaining jobs
            pool.shutdown(cancel_futures=True)
            raise
