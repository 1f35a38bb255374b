"""ASGI middleware that filters requests to the search page: hosts, token, routes, origins, sizes.

Everything that is not listed here is refused. Routes that a new release of Gradio adds are therefore not reachable.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vatt.errors import InputError
from vatt.retrieval.web.headers import SecuredSend, page_policy
from vatt.retrieval.web.hosts import allowed_host, host_of, is_loopback, normal_host
from vatt.retrieval.web.messages import shortened, summary
from vatt.retrieval.web.uploads import MIB, Uploads

log = logging.getLogger(__name__)

# Requests of a browser that uses the page, recorded with Gradio 6.31.
ROUTES = {
    "GET": re.compile(
        r"/|/(frame|media|clip)/[0-9]{1,9}|/(search\.js|theme\.css|favicon\.ico|manifest\.json)|/(assets|static)/[\w./-]+"
        r"|/gradio_api/(file=.+|queue/data|upload_progress)"
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|upload)"),
}
JSON_LIMIT = MIB  # bytes of a query
JSON_DEPTH = 16
BODY_LIMIT_S = 30.0  # time to receive a query
UPLOAD_LIMIT_S = 600.0  # time to receive an upload
MAX_UPLOADS, MAX_UPLOADS_PER_CLIENT = 8, 3  # at a time
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
FILE_META = {"_type": "gradio.FileData"}


class Guard:
    """Refuses requests that the page does not need, and passes on the others.

    The checks, in this order: ``Host`` is the address of the connection or an allowed host (against DNS rebinding,
    status 421); the token (401); method and route (405, 404); ``Origin`` and ``Sec-Fetch-Site`` are of the page itself
    (403); size and content of the body (400, 413). A query may refer to files only by paths of uploads.

    Args:
        app: The application.
        uploads: Upload directory.
        functions: Number of inputs of each Gradio function, by its id.
        has_session: Returns whether Gradio knows a session.
        allowed_hosts: Host names and addresses that are accepted besides the address of the connection.
        token: Secret that every request needs. None means no token.
        max_upload_mb: Maximum size of an upload, in MiB.
        remote_media: Whether the page may play media of other hosts.

    Raises:
        InputError: A host with a scheme, port or wildcard, or a token with characters that are invalid in a cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        uploads: Uploads,
        functions: Mapping[int, int],
        has_session: Callable[[str], bool],
        allowed_hosts: Sequence[str] = (),
        token: str | None = None,
        max_upload_mb: float = 200,
        remote_media: bool = False,
    ) -> None:
        self.app, self.uploads, self.functions, self.remote_media = app, uploads, functions, remote_media
        self.has_session = has_session
        self.allowed_hosts = {allowed_host(name) for name in allowed_hosts}
        self.token = None if token is None else _checked_token(token)
        self.max_upload = int(max_upload_mb * MIB)
        self._uploading: Counter[str] = Counter()  # by address of the client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page uses no websockets
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        secured = SecuredSend(send, scope["path"])
        scope = dict(scope, headers=list(scope["headers"]), state=dict(scope.get("state", {})))
        try:
            secured.cookie = self._admit(scope)
            if scope["path"] == "/gradio_api/queue/data":
                self._check_session(scope)
            elif scope["path"] == "/gradio_api/queue/join":
                receive = await self._checked_job(scope, receive)
            elif scope["path"] == "/gradio_api/upload":
                await self._upload(scope, receive, secured)
                return
            if scope["path"] == "/":
                await self._page(scope, receive, secured)
            else:
                await self.app(scope, receive, secured)
        except HTTPException as refusal:
            if not secured.started:
                response = PlainTextResponse(refusal.detail, refusal.status_code, headers=refusal.headers)
                await response(scope, receive, secured)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:  # the server is stopping; it would print a traceback
            if not secured.started:
                await PlainTextResponse("the server is stopping", 503)(scope, receive, secured)
        except Exception as error:  # one line, since visitors may cause it as often as they like
            log.error("%s %s failed: %s", scope["method"], shortened(repr(scope["path"])), summary(error))
            if not secured.started:
                await PlainTextResponse("internal error; see the server log", 500)(scope, receive, secured)

    def _admit(self, scope: Scope) -> str | None:
        """Check everything but the body, and remove headers that Gradio must not see.

        Returns:
            Cookie to be set, or None.

        Raises:
            HTTPException: The request is refused.
        """
        request = HTTPConnection(scope)
        self._check_host(scope, request.headers)
        cookie = self._check_token(scope, request)
        path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
        routes = ROUTES.get(method)
        if routes is None:
            raise HTTPException(405, "method not allowed")
        if not routes.fullmatch(path) or ".." in path.split("/"):
            raise HTTPException(404, "not found")
        self._check_origin(scope, request.headers)
        # Gradio allows CORS for some origins, and reads tokens of its own.
        hidden = {b"origin", b"cookie", b"authorization", b"x-gradio-server"}
        if path == "/":  # its scripts are hashed, so it must not be compressed
            hidden.add(b"accept-encoding")
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name.lower() not in hidden]
        return cookie

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        if len(headers.getlist("host")) != 1:
            raise HTTPException(400, "exactly one Host header is required")
        forwarded = [name for value in headers.getlist("x-forwarded-host") for name in value.split(",")]
        for value in (headers["host"], *forwarded):  # Gradio builds URLs from either
            host = host_of(value)
            if host is None or not self._is_allowed(host, scope.get("server")):
                message = "this host name is not allowed: use the address that vatt app printed, or --allowed_hosts"
                raise HTTPException(421, message)

    def _is_allowed(self, host: str, server: Sequence[Any] | None) -> bool:
        if host in self.allowed_hosts:
            return True
        if not server or server[1] is None:  # a Unix socket has no address
            return False
        address = normal_host(str(server[0]))
        return host == address or (host in LOOPBACK and is_loopback(address))

    def _check_token(self, scope: Scope, request: HTTPConnection) -> str | None:
        """Check the token. Return a cookie with it if it was in the URL."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        in_url = [value for name, value in query if name == "token"]
        if in_url:
            others = [(name, value) for name, value in query if name != "token"]
            scope["query_string"] = urlencode(others).encode("ascii")
        if self.token is None:
            return None
        name = "vatt-" + hashlib.sha256(self.token.encode()).hexdigest()[:12]
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        candidates = [*in_url, request.cookies.get(name, ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        expected = self.token.encode()
        if not any(hmac.compare_digest(value.encode("utf-8", "replace"), expected) for value in candidates):
            raise HTTPException(
                401,
                "this page needs a token: open the address that vatt app printed, which ends with ?token=…",
                {"WWW-Authenticate": "Bearer"},
            )
        if not in_url:
            return None
        secure = "; Secure" if scope["scheme"] == "https" else ""
        return f"{name}={self.token}; HttpOnly; SameSite=Strict; Path=/{secure}"

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse requests of other sites, except for links to the page."""
        site, origin = headers.get("sec-fetch-site", "none"), headers.get("origin")
        is_link = scope["path"] == "/" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        same = site in ("same-origin", "none") if origin is None else self._is_own(origin, headers)
        if not same and not is_link:
            raise HTTPException(403, "requests from other sites are refused")

    def _is_own(self, origin: str, headers: Headers) -> bool:
        try:
            parts = urlsplit(origin)
            if parts.port is None and normal_host(parts.hostname or "") in self.allowed_hosts:
                return True  # behind a proxy that changes the Host header
        except ValueError:
            return False
        own = (headers.get("host"), headers.get("x-forwarded-host"))
        return bool(parts.netloc) and parts.netloc.lower() in [host.lower() for host in own if host]

    def _check_session(self, scope: Scope) -> None:
        """Check that a query of the session was accepted. Gradio would begin a response and then fail."""
        sessions = HTTPConnection(scope).query_params.getlist("session_hash")
        if len(sessions) != 1 or not self.has_session(sessions[0]):
            raise HTTPException(404, "unknown session")

    # ---- bodies ----------------------------------------------------------------------------------------------

    async def _checked_job(self, scope: Scope, receive: Receive) -> Receive:
        """Read and validate a query. Return a `receive` with the validated query as the body."""
        request, body = Request(scope, receive), b""
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(415, "the query must be JSON")
        if _length(request.headers) > JSON_LIMIT:
            raise HTTPException(413, "the query is too large")
        try:
            async with asyncio.timeout(BODY_LIMIT_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > JSON_LIMIT:
                        raise HTTPException(413, "the query is too large")
        except TimeoutError:
            raise HTTPException(408, "the query took too long to arrive") from None
        try:
            job = self._job(json.loads(body))
            body = json.dumps(job, allow_nan=False).encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise HTTPException(400, "invalid query") from None
        kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
        scope["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay

    def _job(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the validated fields of a query, without any others."""
        data, function, trigger = body["data"], body["fn_index"], body.get("trigger_id")
        if type(function) is not int or type(trigger) not in (int, type(None)):
            raise ValueError("fn_index")
        if not isinstance(data, list) or len(data) != self.functions[function]:
            raise ValueError("data")
        if not SESSION.fullmatch(body["session_hash"]):
            raise ValueError("session_hash")
        return {
            "data": [self._checked(value, JSON_DEPTH) for value in data],
            "fn_index": function,
            "trigger_id": trigger,
            "session_hash": body["session_hash"],
        }

    def _checked(self, value: Any, depth: int) -> Any:
        """Return a value whose objects are all references to uploads.

        Gradio takes an object with a path for a file, in the value of every component and at any depth, and copies it.

        Raises:
            ValueError: An object refers to another file or to a URL.
        """
        if depth == 0:
            raise ValueError("too deep")
        if isinstance(value, list):
            return [self._checked(item, depth - 1) for item in value]
        if not isinstance(value, dict):
            return value
        path = self.uploads.check(value["path"])
        return {"path": str(path), "orig_name": path.name, "meta": FILE_META}

    async def _upload(self, scope: Scope, receive: Receive, secured: SecuredSend) -> None:
        client = str((scope.get("client") or ("",))[0])
        if _length(Headers(scope=scope)) > self.max_upload + MIB:
            raise HTTPException(413, self._too_large)
        busy = self._uploading.total() >= MAX_UPLOADS or self._uploading[client] >= MAX_UPLOADS_PER_CLIENT
        if busy or not self.uploads.has_room():
            raise HTTPException(503, "too many uploads at a time: try again in a minute", {"Retry-After": "60"})
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_upload + MIB:  # boundaries and other fields
                raise HTTPException(413, self._too_large)
            return message

        self._uploading[client] += 1
        try:
            async with asyncio.timeout(UPLOAD_LIMIT_S):
                start, body = await self._collected(scope, counted)
        except TimeoutError:
            raise HTTPException(408, "the upload took too long") from None
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            log.warning("an upload was refused: %s", summary(error))
            raise HTTPException(400, "invalid upload: it must be a form with named files") from None
        finally:
            self._uploading[client] -= 1
            self._uploading += Counter()  # removes zeros
            if not self._uploading:
                self.uploads.delete_partial()
        await secured(start)
        await secured({"type": "http.response.body", "body": body})

    @property
    def _too_large(self) -> str:
        return f"the upload is larger than {self.max_upload / MIB:g} MB"

    async def _page(self, scope: Scope, receive: Receive, secured: SecuredSend) -> None:
        """Send the page with a policy that allows its inline scripts."""
        start, body = await self._collected(scope, receive)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["Content-Security-Policy"] = page_policy(body, self.remote_media)
        headers["Cache-Control"] = "no-store"
        await secured({**start, "headers": headers.raw})
        await secured({"type": "http.response.body", "body": body})

    async def _collected(self, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
        """Return the start and the body of the response of the application."""
        start: Message = {}
        body = b""

        async def collect(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            else:
                body += message.get("body", b"")

        await self.app(scope, receive, collect)
        return start, body


def _checked_token(token: str) -> str:
    if not TOKEN.fullmatch(token):
        raise InputError("a token must consist of letters, digits and . _ ~ -; 'auto' generates one")
    return token


def _length(headers: Headers) -> int:
    """Return the content length of a request, or 0 if it has none."""
    value = headers.get("content-length", "0")
    return int(value) if value.isascii() and value.isdigit() else 0
