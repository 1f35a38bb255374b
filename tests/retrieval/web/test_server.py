"""Stopping the server of the page."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn")

from tests.retrieval.web.test_routes import FakeLibrary
from vatt.retrieval.web.clips import Clips
from vatt.retrieval.web.guard import Guard
from vatt.retrieval.web.routes import ClipRoute
from vatt.retrieval.web.server import PageServer


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """Collect warnings and errors of Uvicorn, whose loggers may not pass them on."""
    records: list[logging.LogRecord] = []
    log, handler = logging.getLogger("uvicorn.error"), logging.Handler(logging.WARNING)
    handler.emit = records.append
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)


def run_until_stopped(
    app: Any, clips: Clips, path: str, is_running: Callable[[], bool]
) -> tuple[httpx.Response, float]:
    """Request a path, stop the server during the request, and return the response and the time that stopping took."""
    options = {"port": 0, "log_config": None, "lifespan": "off", "timeout_graceful_shutdown": 2}
    server, responses = PageServer(app, clips, **options), list[httpx.Response]()
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    client = threading.Thread(target=lambda: responses.append(httpx.get(address + path, timeout=20)), daemon=True)
    client.start()
    while not is_running():
        time.sleep(0.01)
    begin_s = time.monotonic()
    server.should_exit = True
    thread.join(20)
    seconds = time.monotonic() - begin_s
    client.join(5)
    return responses[0], seconds


def test_requests_for_clips_end_when_the_server_stops(
    cache: Clips, source: Callable[[str], str], lines: list[logging.LogRecord]
) -> None:
    path = source("waits")
    route = ClipRoute(FakeLibrary(path), cache)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await route(scope | {"path_params": {"number": 0}}, receive, send)

    guard = Guard(app, None, {}, lambda _: True)
    response, seconds = run_until_stopped(guard, cache, "/clip/0?t=0,1", lambda: bool(Path(path).read_text()))
    assert (response.status_code, response.text) == (503, "The server is stopping.")
    assert seconds < 1.5
    assert lines == []


def test_other_requests_are_refused_without_a_traceback(cache: Clips, lines: list[logging.LogRecord]) -> None:
    running = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        await asyncio.sleep(30)

    guard = Guard(app, None, {}, lambda _: True)
    response, _ = run_until_stopped(guard, cache, "/frame/0", running.is_set)
    assert (response.status_code, response.text) == (503, "the server is stopping")
    assert {record.getMessage() for record in lines} == {"Cancel 1 running task(s), timeout graceful shutdown exceeded"}
    assert all(record.exc_info is None for record in lines)
