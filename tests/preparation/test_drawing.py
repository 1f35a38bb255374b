from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from vatt.preparation import drawing


def test_an_interruption_cancels_the_remaining_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(job: int) -> Any:
        if job == 1:
            raise KeyboardInterrupt
        time.sleep(0.01)
        drawn.append(job)

    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    with pytest.raises(KeyboardInterrupt):
        drawing.draw_all(draw, range(200), 2)
    assert len(drawn) < 20


def test_clips_are_returned_in_the_order_of_their_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    assert drawing.draw_all(str, range(20), 3) == [str(job) for job in range(20)]
