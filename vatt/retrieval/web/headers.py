"""Security headers of the responses of the search page."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(self)",
}
CLOSED_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
# Gradio uses inline styles. Its inline scripts are allowed by their hashes, see `page_policy`.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:{media}; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
# Applies to workers: the one in which Gradio trims a clip runs FFmpeg as WebAssembly.
ASSET_POLICY = (
    "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; connect-src 'self' blob:; frame-ancestors 'none'"
)
SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


class SecuredSend:
    """ASGI ``send`` that adds the security headers.

    Args:
        send: Of the server.
        path: Path of the request.

    Attributes:
        cookie: Cookie to be set, or None.
        started: Whether the response has started.
    """

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._path = send, path
        self.cookie: str | None = None
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            for name, value in HEADERS.items():
                headers[name] = value
            is_asset = self._path.startswith(("/assets/", "/static/"))
            headers.setdefault("Content-Security-Policy", ASSET_POLICY if is_asset else CLOSED_POLICY)
            if self.cookie is not None:
                headers.append("Set-Cookie", self.cookie)
        await self._send(message)


def page_policy(page: bytes, remote_media: bool = False) -> str:
    """Return the content security policy of a page, with hashes of its inline scripts.

    Args:
        page: HTML of the page.
        remote_media: Allow media of other hosts.
    """
    digests = [hashlib.sha256(script).digest() for script in SCRIPT.findall(page)]
    hashes = "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in dict.fromkeys(digests))
    return PAGE_POLICY.format(scripts=hashes, media=" http: https:" if remote_media else "")
