"""Fixtures that stop the processes of apps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from vatt.datasets.loading.processes import Processes


@pytest.fixture(scope="module", autouse=True)
def created_processes() -> Iterator[list[Processes]]:
    """Record the processes of apps, and stop them after the last test of a module."""
    created: list[Processes] = []
    initialize = Processes.__init__

    def record(self: Processes, *args: Any, **options: Any) -> None:
        initialize(self, *args, **options)
        created.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "__init__", record)
        yield created
    for processes in created:
        processes.stop()


@pytest.fixture(autouse=True)
def stop_processes(created_processes: list[Processes]) -> Iterator[None]:
    """Stop the processes of apps created by a test."""
    known = len(created_processes)
    yield
    for processes in created_processes[known:]:
        processes.stop()
