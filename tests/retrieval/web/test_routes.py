"""Requests whose clients close the connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from vatt.retrieval.web.clips import Clips
from vatt.retrieval.web.routes import ClipRoute, routes

LIMIT_S = 20.0


class FakeLibrary:
    """A library of one file, whose frames are never done.

    Args:
        path: The file.
    """

    folders = ()

    def __init__(self, path: str) -> None:
        self.paths = [path]

    def source(self, number: int) -> str:
        return self.paths[number]


class Connection:
    """A client that sends one request.

    Args:
        query: Query string of the request.
    """

    def __init__(self, query: bytes) -> None:
        self.scope = {
            "type": "http", "method": "GET", "path": "/clip/0", "path_params": {"number": 0}, "query_string": query,
            "headers": [],
        }  # fmt: skip
        self.closed = asyncio.Event()
        self.sent: list[Any] = []
        self._messages: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self.closed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def test_a_closed_connection_cancels_the_clip(cache: Clips, source: Callable[[str], str]) -> None:
    """The only process is free for the next clip, and waiting clips are not transcoded."""
    path = source("waits")
    route = ClipRoute(FakeLibrary(path), cache)

    async def run() -> None:
        connections = [Connection(b"t=0,1"), Connection(b"t=1,2")]
        requests = []
        for connection in connections:
            requests.append(asyncio.create_task(route(connection.scope, connection.receive, connection.send)))
            while not Path(path).read_text():  # the first clip is being transcoded, so the second one waits
                await asyncio.sleep(0.01)
        for connection, request in zip(reversed(connections), reversed(requests), strict=True):
            connection.closed.set()
            with pytest.raises(ClientDisconnect):
                await request
            assert connection.sent == []
        async with cache.clip(source("good"), 0.0, 1.0) as file:
            assert file.exists()

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert Path(path).read_text().split() == ["0-1"]


def test_a_clip_is_finished_for_the_remaining_requests(cache: Clips, source: Callable[[str], str]) -> None:
    path = source("waits")
    route = ClipRoute(FakeLibrary(path), cache)

    async def run() -> None:
        first, second = Connection(b"t=0,1"), Connection(b"t=0,1")
        requests = [asyncio.create_task(route(c.scope, c.receive, c.send)) for c in (first, second)]
        while not Path(path).read_text():
            await asyncio.sleep(0.01)
        first.closed.set()
        with pytest.raises(ClientDisconnect):
            await requests[0]
        Path(f"{path}.go").touch()
        await requests[1]
        assert second.sent[0]["status"] == 200
        assert sum(len(message.get("body", b"")) for message in second.sent) == 100

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert Path(path).read_text().split() == ["0-1"]


def test_a_closed_connection_cancels_a_waiting_frame(cache: Clips) -> None:
    """Frames occupy two threads; further ones wait and are not read if their clients have gone."""
    go_on, read = threading.Event(), list[float]()
    library = FakeLibrary("a.mp4")

    def frame(number: int, time_s: float) -> bytes:
        read.append(time_s)
        assert go_on.wait(LIMIT_S)
        return b"image"

    library.frame = frame
    (route,) = [route for route in routes(library, None, cache, "") if route.path == "/frame/{number:int}"]

    async def run() -> None:
        connections = [Connection(f"time_s={number}".encode()) for number in range(4)]
        requests = [asyncio.create_task(route.app(c.scope, c.receive, c.send)) for c in connections]
        while len(read) < 2:
            await asyncio.sleep(0.01)
        connections[2].closed.set()
        with pytest.raises(ClientDisconnect):
            await requests[2]
        go_on.set()
        for number in (0, 1, 3):
            await requests[number]
            assert connections[number].sent[0]["status"] == 200

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))
    assert sorted(read) == [0.0, 1.0, 3.0]
