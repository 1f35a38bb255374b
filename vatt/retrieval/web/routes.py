"""Routes for thumbnails, media files and clips of the index, uploads, and the script of the page."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vatt.media.types import MediaError
from vatt.retrieval.web.clips import MAX_CLIP_S, Clips
from vatt.retrieval.web.library import Library
from vatt.retrieval.web.media_types import media_type
from vatt.retrieval.web.messages import shortened, without_directories
from vatt.retrieval.web.uploads import Busy, Uploads, Workers

FRAME_WAIT_S = 15.0  # time limit of a thumbnail
MAX_TIME_S = 1e9  # beyond it, timestamps overflow
CACHED = {"Cache-Control": "private, max-age=600"}

Result = TypeVar("Result")


class ClipRoute:
    """ASGI application that sends a segment of a media file as MP4: ``/clip/NUMBER?t=START,END``, in seconds.

    Args:
        library: Media files by number.
        clips: Cache of transcoded segments.
    """

    def __init__(self, library: Library, clips: Clips) -> None:
        self.library, self.clips = library, clips

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        number = _number(request, self.library)
        start_s, end_s = _segment(request)
        source = await asyncio.to_thread(self.library.source, number)
        if source is None:
            raise HTTPException(404, self.library.problem(number) or "not found")
        try:
            async with AsyncExitStack() as stack:
                opening = stack.enter_async_context(self.clips.clip(source, start_s, end_s))
                file = await _while_connected(receive, opening)
                await FileResponse(file, media_type="video/mp4", headers=CACHED)(scope, receive, send)
        except Busy as error:
            raise HTTPException(503, f"The {str(error).removeprefix('the ')}.", {"Retry-After": "10"}) from None
        except MediaError as error:
            reason = without_directories(error.reason, self.library.folders).rstrip(".")
            raise HTTPException(415, f"The clip cannot be played: {shortened(reason)}.") from None
        except OSError as error:
            reason = (error.strerror or "the file cannot be read").lower()
            raise HTTPException(503, f"The clip cannot be played: {reason}.") from None


def routes(library: Library, uploads: Uploads, clips: Clips, script: str) -> list[Route]:
    """Return the routes that are not Gradio's.

    Args:
        library: Media files by number.
        uploads: Upload directory.
        clips: Cache of transcoded segments.
        script: JavaScript of the page.
    """
    frames = Workers("frame", 2, waiting=256)

    async def frame(request: Request) -> Response:
        number = _number(request, library)
        try:
            time_s = float(request.query_params.get("time_s", "0")[:32])
            if not 0 <= time_s < math.inf:
                raise ValueError(time_s)
        except ValueError:
            raise HTTPException(400, "time_s must be a number of seconds, at least 0") from None
        try:
            async with asyncio.timeout(FRAME_WAIT_S):
                image = await _while_connected(request.receive, frames.run(library.frame, number, time_s))
        except LookupError:
            raise HTTPException(404, "no frame at this time") from None
        except (TimeoutError, Busy):
            raise HTTPException(503, "reading the file takes too long", {"Retry-After": "10"}) from None
        return Response(image, media_type="image/jpeg", headers=CACHED)

    def media(request: Request) -> Response:
        number = _number(request, library)
        if (url := library.source(number)) is not None and url.startswith(("http://", "https://")):
            return RedirectResponse(url)
        problem = library.problem(number)
        if problem is not None:
            raise HTTPException(404, problem)
        return _file_response(library.file(number))

    def upload(request: Request) -> Response:
        """Serve an upload. This replaces Gradio's route, which also serves other directories."""
        return _file_response(uploads.file("/" + request.path_params["path"].lstrip("/")))

    def page_script(request: Request) -> Response:
        return Response(script, media_type="text/javascript")

    return [
        Route("/frame/{number:int}", frame),
        Route("/media/{number:int}", media),
        Route("/clip/{number:int}", ClipRoute(library, clips)),
        Route("/gradio_api/file={path:path}", upload),
        Route("/search.js", page_script),
    ]


async def _while_connected(receive: Receive, call: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a call. The call is cancelled if the client closes the connection.

    Raises:
        ClientDisconnect: The client has closed the connection.
    """
    running, disconnect = asyncio.create_task(call), asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((running, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ClientDisconnect
        return running.result()
    finally:
        running.cancel()  # has no effect on a finished one
        disconnect.cancel()
        await asyncio.gather(running, disconnect, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _number(request: Request, library: Library) -> int:
    number = request.path_params["number"]
    if number >= len(library.paths):
        raise HTTPException(404, "not found")
    return number


def _segment(request: Request) -> tuple[float, float]:
    """Return start and end in seconds of a request for a clip; by default the beginning of the file."""
    try:
        start_s, end_s = map(float, request.query_params.get("t", f"0,{MAX_CLIP_S}")[:64].split(","))
        if not 0 <= start_s < end_s < MAX_TIME_S:
            raise ValueError(start_s)
    except ValueError:
        raise HTTPException(400, "t must be the start and the end of a segment in seconds") from None
    return start_s, end_s


def _file_response(file: Path | None) -> Response:
    """Return a response with a media type that is determined by the content of the file, not by its name."""
    try:
        kind = None if file is None else media_type(file)
    except OSError:
        file = kind = None
    if file is None:
        raise HTTPException(404, "not found")
    if kind is None:
        raise HTTPException(415, "not a playable media file")
    return FileResponse(file, media_type=kind, headers=CACHED)
