"""Server of the search page."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from vatt.retrieval.web.clips import Clips


class PageServer(uvicorn.Server):
    """Uvicorn server that cancels unfinished clips when it stops, so that it does not wait for them.

    Args:
        app: The application, as `vatt.retrieval.app.make_app` returns it.
        clips: Cache of transcoded segments of the application.
        options: Passed to `uvicorn.Config`.
    """

    def __init__(self, app: Any, clips: Clips, **options: Any) -> None:
        defaults = {"log_level": "warning", "server_header": False, "timeout_graceful_shutdown": 3, "ws": "none"}
        super().__init__(uvicorn.Config(app, **(defaults | options)))
        self.clips = clips

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, cancel unfinished clips, and end the application."""
        self.clips.cancel()
        await super().shutdown(sockets)
