from __future__ import annotations

import asyncio
import gc
import os
import time

import pytest

from vatt.datasets.loading.processes import Failure, Isolated, Processes


def work(task: int) -> int:
    """Return twice the task. Tasks 3, 4, 5 and 6 crash, hang, raise and exit with status 0."""
    if task == 6:
        os._exit(0)
    if task == 3:
        os._exit(3)
    if task == 4:
        time.sleep(60)
    if task == 5:
        raise RuntimeError("five")
    return 2 * task


def test_results_come_in_order_and_failures_cost_one_task() -> None:
    workers = Isolated(work, 2, time_limit_s=8, ahead=4)
    found = dict(workers([1, 3, 2, 4, 5, 7, 8]))
    assert list(found) == [1, 3, 2, 4, 5, 7, 8]
    assert {task: result for task, result in found.items() if isinstance(result, int)} == {1: 2, 2: 4, 7: 14, 8: 16}
    assert found[3].kind == "crashed"
    assert found[4] == Failure("timeout", "not done within 8 s")
    assert found[5] == Failure("unreadable", "RuntimeError: five")


def test_an_exit_with_status_0_is_a_crash() -> None:
    results = dict(Isolated(work, 1, time_limit_s=60, ahead=4)([1, 6, 2]))
    assert results == {1: 2, 6: Failure("crashed", "the process that read it ended with status 0"), 2: 4}


def test_crashes_in_a_row_do_not_stop_the_rest() -> None:
    results = [result for _, result in Isolated(work, 2, time_limit_s=20, ahead=8)([1, 3, 3, 3, 3, 2])]
    assert results[0] == 2
    assert results[-1] == 4
    assert [result.kind for result in results[1:-1]] == ["crashed"] * 4


def test_an_error_may_be_fatal() -> None:
    with pytest.raises(RuntimeError, match="five"):
        list(Isolated(work, 1, time_limit_s=20, ahead=4, fatal=lambda error: True)([1, 5, 2]))


def test_no_task_is_no_work() -> None:
    assert list(Isolated(work, 1, time_limit_s=20, ahead=4)([])) == []


def test_calls_on_request_fail_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    processes = Processes(1, 60.0, fatal=lambda error: isinstance(error, OSError))

    async def run() -> None:
        assert await processes.call(abs, -3) == 3
        slow = asyncio.create_task(processes.call(time.sleep, 60))
        await asyncio.sleep(0.1)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await processes.call(abs, -4) == 4
        assert (await processes.call(int, "x")).kind == "unreadable"
        with pytest.raises(FileNotFoundError):
            await processes.call(os.stat, "/nonexistent")

    asyncio.run(run())
    processes.stop()
    gc.collect()
    assert "never retrieved" not in caplog.text
