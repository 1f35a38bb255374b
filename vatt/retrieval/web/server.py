"""Server of the search page."""

from __future__ import annotations

import socket

import uvicorn

from vatt.retrieval.web.clips import Clips


class PageServer(uvicorn.Server):
    """Uvicorn server that cancels unfinished clips when it stops, so that it does not wait for them.

    Args:
        config: Configuration of Uvicorn.
        clips: Cache of transcoded segments of the application.
    """

    def __init__(self, config: uvicorn.Config, clips: Clips) -> None:
        super().__init__(config)
        self.clips = clips

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, cancel unfinished clips, and end the application."""
        self.clips.cancel()
        await super().shutdown(sockets)
