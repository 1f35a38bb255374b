"""The guard of the search page (hosts, origins, tokens, routes and sizes), and the files that the page serves."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.retrieval.pages import make_site, post, query, serve, upload, values, with_files
from vatt.errors import InputError

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from vatt.retrieval.app import _uploads, make_app
from vatt.retrieval.paths import absolute
from vatt.retrieval.web.guard import Guard
from vatt.retrieval.web.headers import page_policy
from vatt.retrieval.web.hosts import is_loopback, normal_host

TOKEN = "t0ken-of.the_tests~"
MB = 2**20


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, video_file: Path, sound_file: Path) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), video_file, sound_file)


@pytest.fixture(scope="module")
def open_address(index: Path) -> Iterator[str]:
    with serve(make_app(index, allowed_hosts=["videos.example.org"], max_upload_mb=1)) as address:
        yield address


@pytest.fixture
def client(open_address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=open_address, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def locked(index: Path) -> Iterator[str]:
    with serve(make_app(index, token=TOKEN)) as address:
        yield address


# ---- hosts and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("localhost:8000", 200),  # behind a tunnel
        ("[::1]:{port}", 200),
        ("videos.example.org", 200),
        ("Videos.Example.org:443", 200),
        ("evil.example.org", 421),
        ("evil.example.org:{port}", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("videos.example.org.evil.org", 421),
        ("notvideos.example.org", 421),
        ("127.0.0.1@evil.example.org", 421),
        ("evil.example.org#localhost", 421),
        ("localhost:7860:80", 421),
        ("127.0.0.2", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("2130706433", 421),
        ("", 421),
        ("*", 421),
    ],
)
def test_only_known_hosts_are_accepted(client: httpx.Client, host: str, status: int) -> None:
    headers = {"Host": host.format(port=client.base_url.port)}
    for path in ("/", "/media/0", "/frame/0", "/search.js", "/nothing"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == (404 if path == "/nothing" and status == 200 else status), path
        assert status == 200 or host == "" or host not in answer.text
    body = {"data": values(text="a red ring"), "fn_index": 0, "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=body, headers=headers).status_code == status


def test_forwarded_and_repeated_hosts_are_checked(client: httpx.Client) -> None:
    assert client.get("/", headers={"X-Forwarded-Host": "evil.example.org"}).status_code == 421
    assert client.get("/", headers={"X-Forwarded-Host": "videos.example.org"}).status_code == 200
    port = client.base_url.port
    for lines in ("", "Host: localhost\r\nHost: evil.example.org\r\n"):
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.sendall(f"GET / HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
            assert raw.recv(64).startswith(b"HTTP/1.1 400")


def test_address_of_the_connection_is_accepted(index: Path) -> None:
    """With 0.0.0.0, the address of the connection is accepted, but not a host name that resolves to it."""
    app = make_app(index)
    for server, host, status in (
        ("10.1.2.3", "10.1.2.3", 200),
        ("10.1.2.3", "10.1.2.4", 421),
        ("10.1.2.3", "localhost", 421),
        ("127.0.0.5", "127.0.0.5", 200),
        ("127.0.0.5", "localhost", 200),
        ("::1", "[::1]", 200),
        ("::1", "[0:0:0:0:0:0:0:1]:7860", 200),
        ("::ffff:127.0.0.1", "127.0.0.1", 200),
        ("fe80::1", "[fe80::1]", 200),
        ("fe80::1", "[fe80::2]", 421),
    ):
        name = f"[{server}]" if ":" in server else server
        client = TestClient(app, base_url=f"http://{name}:7860")
        assert client.get("/search.js", headers={"Host": host}).status_code == status, (server, host)


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example:80", "*", "*.example", "a/b", "", "a b", "[::1]:80", "::zz"]
)
def test_invalid_allowed_hosts_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="an allowed host must be a host name or an address"):
        Guard(None, None, {}, bool, [name])


def test_addresses_are_normalized() -> None:
    assert normal_host("[0:0::1]") == "::1"
    assert normal_host("::ffff:10.0.0.1") == "10.0.0.1"
    assert normal_host("Example.ORG") == "example.org"
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")] == [True] * 5
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", "")] == [False] * 5


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://{host}"}, 200),
        ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://videos.example.org"}, 200),  # a proxy that names another host
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example.org"}, 403),
        ({"Origin": "http://localhost:1"}, 403),  # another service on this machine
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://videos.example.org:8080"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "http://{host}.evil.example.org"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_cannot_send_requests(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    host = client.base_url.netloc.decode()
    headers = {name: value.format(host=host) for name, value in headers.items()}
    body = {"data": values(text="a red ring"), "fn_index": 0, "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=body, headers=headers).status_code == status
    answer = client.post("/gradio_api/upload", files={"files": ("a.mp4", b"x")}, headers=headers)
    assert answer.status_code == status
    answer = client.get("/media/0", headers=headers)
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_link_on_another_site_opens_the_page_and_nothing_else(client: httpx.Client) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/media/0", headers=link).status_code == 403
    preflight = {"Origin": "http://evil.example.org", "Access-Control-Request-Method": "POST"}
    assert client.options("/gradio_api/queue/join", headers=preflight).status_code == 405


# ---- token -----------------------------------------------------------------------------------------------------------

PATHS = ("/", "/media/0", "/frame/0", "/search.js", "/theme.css", "/config", "/gradio_api/info", "/nothing")


def test_without_the_token_everything_is_refused(locked: str) -> None:
    with httpx.Client(base_url=locked) as client:
        for path in (*PATHS, "/?token=", "/?token=wrong", f"/?token={TOKEN}x", f"/?tokens={TOKEN}", "/?token=%C3%A9"):
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert "set-cookie" not in answer.headers
            assert TOKEN not in answer.text
        assert client.get("/", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
        assert client.get("/", headers={"Cookie": f"token={TOKEN}"}).status_code == 401
        assert client.get("/", headers={"Host": "evil.example.org"}).status_code == 421
        assert post(client, values(text="a red ring"))[0].status_code == 401
        assert client.post("/gradio_api/upload", files={"files": ("a.mp4", b"x")}).status_code == 401


def test_token_in_the_url_sets_a_cookie(locked: str) -> None:
    with httpx.Client(base_url=locked, timeout=30) as client:
        first = client.get(f"/?token={TOKEN}")
        assert first.status_code == 200
        cookie = first.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert TOKEN not in first.text
        assert [client.get(path).status_code for path in PATHS] == [200, 200, 200, 200, 200, 404, 404, 404]
        assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")


def test_token_in_a_header_is_accepted(locked: str) -> None:
    with httpx.Client(base_url=locked, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.get("/media/0")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", ["", "two words", "semi;colon", "é", "new\nline"])
def test_tokens_that_are_invalid_in_cookies_are_refused(token: str) -> None:
    with pytest.raises(InputError, match="a token must consist of"):
        Guard(None, None, {}, bool, token=token)


# ---- routes and sizes ------------------------------------------------------------------------------------------------


def test_only_routes_of_the_page_are_served(client: httpx.Client) -> None:
    for path in (
        "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/startup-events", "/gradio_api/app_id",
        "/gradio_api/heartbeat/abc", "/gradio_api/proxy=http://127.0.0.1", "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/runs", "/gradio_api/deep_link", "/gradio_api/token", "/gradio_api/user", "/monitoring",
        "/gradio_api/custom_component/a/b/c/d", "/gradio_api/call/answer/1", "/gradio_api/queue/status", "/docs",
        "/openapi.json", "/robots.txt", "/login", "/logout", "/svelte/x", "/assets/../../config", "/media/0/x",
        "/gradio_api/vibe-code/", "/gradio_api/mcp/sse", "/media/secret.txt", "/media/-1", "/media/٣",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    for path in (
        "/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/cancel", "/gradio_api/reset",
        "/gradio_api/run/answer", "/gradio_api/call/answer", "/gradio_api/api/answer", "/gradio_api/stream/1",
        "/gradio_api/vibe-edit", "/login", "/", "/media/0", "/gradio_api/file=/etc/passwd",
    ):  # fmt: skip
        assert client.post(path, json={}).status_code == 404, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/").status_code == 405


def test_a_large_query_is_refused(client: httpx.Client) -> None:
    answer, _ = post(client, values(text="x" * MB))
    assert answer.status_code == 413
    chunks = iter([b'{"data": ["', *[b"x" * 2**16] * 32, b'"]}'])  # without Content-Length
    headers = {"Content-Type": "application/json"}
    answer = client.post("/gradio_api/queue/join", content=chunks, headers=headers)
    assert answer.status_code == 413
    assert "xxx" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"data": []}',
        b"[" * 100_000,
        b'{"data": ' + b"[" * 100_000,
        b'{"data": [NaN, 1, 1, 1, 1, 1, 1, 1], "fn_index": 0, "session_hash": "a"}',
        b'{"data": [' + b"9" * 5000 + b', 1, 1, 1, 1, 1, 1, 1], "fn_index": 0, "session_hash": "a"}',
        json.dumps({"data": values(), "fn_index": 7, "session_hash": "a"}).encode(),
        json.dumps({"data": values(), "fn_index": True, "session_hash": "a"}).encode(),
        json.dumps({"data": values(), "fn_index": 0, "session_hash": "a" * 1000}).encode(),
        json.dumps({"data": values(), "fn_index": 0, "session_hash": ["a"]}).encode(),
        json.dumps({"data": values(), "fn_index": 0, "session_hash": "a", "trigger_id": "x"}).encode(),
        json.dumps({"data": values()[:3], "fn_index": 0, "session_hash": "a"}).encode(),
        json.dumps({"data": [{}] * 8, "fn_index": 0, "session_hash": "a"}).encode(),
    ],
)
def test_invalid_queries_are_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/gradio_api/queue/join", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.text) == (400, "invalid query")


def test_a_session_without_a_query_is_refused(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    url = "/gradio_api/queue/data"
    for parameters in ("", "?session_hash=", "?session_hash=unknown", "?session_hash=a&session_hash=b"):
        answer = client.get(url + parameters)
        assert (answer.status_code, answer.text) == (404, "unknown session")
    assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
DISPOSITION = b"--b\r\nContent-Disposition: form-data; name=files"


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (DISPOSITION + b"\r\n\r\nx\r\n--b--\r\n", FORM),
        (DISPOSITION + b"; filename=a\r\n\r\nx\r\n--b--\r\n", {"Content-Type": "multipart/form-data"}),
        (DISPOSITION + b"; filename=a\r\n\r\nx\r\n--b--\r\n", {}),
        (DISPOSITION + b"; filename=a\r\nContent-Disposition: \xff\r\n\r\nx\r\n--b--\r\n", FORM),
        (DISPOSITION + b"; filename=..\r\n\r\nx\r\n--b--\r\n", FORM),
        (b"--b\r\n\r\nx\r\n--b--\r\n", FORM),
        (b"x", FORM),
        (b"{}", {"Content-Type": "application/json"}),
    ],
)
def test_a_malformed_upload_is_refused_without_a_traceback(
    client: httpx.Client, content: bytes, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/gradio_api/upload", content=content, headers=headers)
    assert answer.status_code == 400
    assert len(answer.text) < 200
    assert [record for record in caplog.records if record.exc_info] == []


def test_an_unexpected_exception_is_one_line_of_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("vatt.retrieval.web.library.Library.frame", broken)
    answer = client.get("/frame/0")
    assert (answer.status_code, answer.text) == (500, "internal error; see the server log")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().startswith("GET '/frame/0' failed: RuntimeError: two lines (test_guard.py, line ")
    assert record.exc_info is None


def test_size_of_uploads_is_limited(client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(_uploads().folder.rglob("*"))
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(MB + 1))
    with large.open("rb") as file:
        answer = client.post("/gradio_api/upload", files={"files": ("large.mp4", file)})
    assert answer.status_code == 413

    def parts(count: int) -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        yield from [bytes(2**16)] * count
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for count in (17, 200):  # without Content-Length
        assert client.post("/gradio_api/upload", content=parts(count), headers=headers).status_code == 413
    many = [("files", (f"{number}.mp4", bytes(2**18))) for number in range(12)]
    assert client.post("/gradio_api/upload", files=many).status_code == 413
    assert sorted(_uploads().folder.rglob("*")) == before
    monkeypatch.setattr(_uploads(), "quota", 0)
    answer = client.post("/gradio_api/upload", files={"files": ("a.mp4", b"x")})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def test_number_of_concurrent_uploads_is_limited(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vatt.retrieval.web.guard.MAX_UPLOADS_PER_CLIENT", 2)
    head = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 1000\r\n\r\n--b\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\nabc"
    )
    slow = [socket.create_connection(("127.0.0.1", client.base_url.port), 5) for _ in range(2)]
    for connection in slow:
        connection.sendall(head)
    for _ in range(100):
        answer = client.post("/gradio_api/upload", files={"files": ("b.mp4", b"x")})
        if answer.status_code == 503:
            break
    assert answer.status_code == 503
    assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")  # other requests are not blocked
    for connection in slow:
        connection.close()
    for _ in range(100):
        answer = client.post("/gradio_api/upload", files={"files": ("b.mp4", b"x")})
        if answer.status_code == 200:
            break
    assert answer.status_code == 200
    assert [path for path in _uploads().folder.iterdir() if path.is_file()] == []  # aborted uploads leave no files


def test_websockets_are_refused(index: Path) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), TestClient(make_app(index)).websocket_connect("/gradio_api/queue/join"):
        pass


# ---- files of the index ----------------------------------------------------------------------------------------------

SCRIPTS = {
    "page.html": b"<!doctype html><script>alert(1)</script>",
    "page.mp4": b"<html><script>alert(1)</script>",
    "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "picture.png": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "page.xhtml": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>',
    "paper.webm": b"%PDF-1.7\n",
    "code.mp3": b"alert(1)",
    "code.js": b"alert(1)",
    "text.wav": b"RIFF <script>alert(1)</script>",
    "utf16.mp3": "<script>alert(1)</script>".encode("utf-16"),
    "list.m3u8": b"#EXTM3U\n#EXTINF:1\n/etc/passwd\n",
    "list.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "empty.mp4": b"",
}
POLYGLOTS = {
    "a.html": (b"GIF89a/*<script>alert(1)</script>*/", "image/gif"),
    "b.svg": (b"\x89PNG\r\n\x1a\n<svg onload=alert(1)>", "image/png"),
    "c.html": (b"\0\0\0\x18ftypisom<script>alert(1)</script>", "video/mp4"),
    "d.js": (b"RIFF\0\0\0\0WAVE/*alert(1)*/", "audio/wav"),
}


def test_only_media_are_served_regardless_of_names(
    index: Path, tmp_path: Path, video_file: Path, sound_file: Path
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name, content in {**SCRIPTS, **{name: content for name, (content, _) in POLYGLOTS.items()}}.items():
        (media / name).write_bytes(content)
    shutil.copy(video_file, media / "film.html")
    shutil.copy(sound_file, media / "sound.svg")
    names = [*SCRIPTS, *POLYGLOTS, "film.html", "sound.svg"]
    app = make_app(with_files(index, [str(media / name) for name in names], tmp_path / "hostile"))
    client, numbers = TestClient(app), app.state.library.numbers
    types = {}
    for name in names:
        answer = client.get(f"/media/{numbers[str(media / name)]}")
        types[name] = answer.headers["content-type"] if answer.status_code == 200 else answer.status_code
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; sandbox")
        assert answer.status_code == 200 or b"alert(1)" not in answer.content
    expected = dict.fromkeys(SCRIPTS, 415) | {name: kind for name, (_, kind) in POLYGLOTS.items()}
    assert types == expected | {"film.html": "video/mp4", "sound.svg": "audio/mp4"}


def test_only_files_in_the_indexed_directories_are_served(index: Path, tmp_path: Path, video_file: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    for folder in (root, outside):
        shutil.copy(video_file, folder / "film.mp4")
    (root / "link.mp4").symlink_to(outside / "film.mp4")
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "folder.mp4").mkdir()
    os.mkfifo(root / "fifo.mp4")
    paths = {
        str(root / "film.mp4"): None,
        str(root / "gone.mp4"): "file not found",
        str(root / "folder.mp4"): "file not found",
        str(root / "fifo.mp4"): "file not found",
        str(root / "loop.mp4"): None,  # the reason depends on the Python version
        str(root / "link.mp4"): "outside the indexed directories",
        str(root / "../outside/film.mp4"): "outside the indexed directories",
        str(outside / "film.mp4"): "outside the indexed directories",
        f"{outside}/film.mp4#0+100": "outside the indexed directories",
        "/dev/zero": "outside the indexed directories",
        "/proc/self/environ": "outside the indexed directories",
        "film.mp4": "outside the indexed directories",
        "http://127.0.0.1:1/film.mp4": "URLs are disabled; start with --urls true",
        "file:///etc/passwd": "URLs are disabled; start with --urls true",
        "zip://film.mp4::file:///a.zip": "URLs are disabled; start with --urls true",
        "x" * 5000: "outside the indexed directories",
    }
    with pytest.raises(InputError, match="not a directory: /nonexistent"):
        make_app(index, roots=[root, "/nonexistent"])
    app = make_app(with_files(index, list(paths), tmp_path / "mixed"), roots=[root])
    client, library = TestClient(app), app.state.library
    for path, problem in paths.items():
        number = library.numbers[absolute(path)]
        media, frame = client.get(f"/media/{number}", follow_redirects=False), client.get(f"/frame/{number}")
        if path.endswith("root/film.mp4"):
            assert (media.status_code, frame.status_code, library.problem(number)) == (200, 200, None)
            continue
        assert (media.status_code, frame.status_code) == (404, 404), path
        assert library.file(number) is None
        if "loop" not in path:
            assert media.json()["detail"] == library.problem(number) == problem, path
            assert frame.json()["detail"] == "no frame at this time"
        assert str(tmp_path) not in media.text + frame.text


def test_urls_are_opened_only_if_enabled(index: Path, tmp_path: Path, video_file: Path) -> None:
    paths = [
        "http://127.0.0.1:1/film.mp4",
        "file:///etc/passwd",
        f"local://{video_file}",
        f"filecache::file://{video_file}",
    ]
    app = make_app(with_files(index, paths, tmp_path / "remote"), urls=True)
    client, library = TestClient(app, follow_redirects=False), app.state.library
    answer = client.get(f"/media/{library.numbers[paths[0]]}")
    assert (answer.status_code, answer.headers["location"]) == (307, paths[0])
    assert "media-src 'self' data: blob: http: https:;" in client.get("/").headers["content-security-policy"]
    for path in paths[1:]:
        number = library.numbers[path]
        assert library.problem(number) == "unsupported URL"
        assert (client.get(f"/media/{number}").status_code, client.get(f"/frame/{number}").status_code) == (404, 404)


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=0-99999999999", 206, slice(0, None)),
        ("bytes=99999999999-", 416, None),
        ("bytes=20-10", 400, None),
        ("bytes=a-b", 400, None),
        ("bytes=-", 400, None),
        ("bytes", 400, None),
        ("lines=0-1", 400, None),
    ],
)
def test_byte_ranges_are_served(
    client: httpx.Client, video_file: Path, header: str, status: int, expected: slice | None
) -> None:
    answer = client.get("/media/0", headers={"Range": header})
    assert answer.status_code == status
    if expected is not None:
        assert answer.content == video_file.read_bytes()[expected]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_multiple_byte_ranges_are_served(client: httpx.Client, video_file: Path) -> None:
    answer = client.get("/media/0", headers={"Range": "bytes=0-3,8-11"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    content = video_file.read_bytes()
    assert content[:4] in answer.content
    assert content[8:12] in answer.content
    many = client.get("/media/0", headers={"Range": "bytes=" + ",".join(["0-"] * 5000)})
    assert len(many.content) <= 2 * len(content)


@pytest.mark.parametrize("time_s", ["nan", "inf", "-inf", "-1", "1e999", "x", "", "9" * 1000])
def test_invalid_times_are_refused(client: httpx.Client, time_s: str) -> None:
    answer = client.get(f"/frame/0?time_s={time_s}")
    assert answer.status_code in (400, 404)
    assert len(answer.text) < 100


def test_frames_at_times_of_a_file(client: httpx.Client) -> None:
    answer = client.get("/frame/0?time_s=0.5")
    assert (answer.headers["content-type"], answer.content[:2]) == ("image/jpeg", b"\xff\xd8")
    assert client.get("/frame/0?time_s=2.5").content != answer.content
    assert client.get("/frame/0?time_s=3.5").status_code == 404  # the film has 3 s
    assert client.get("/frame/1").status_code == 404  # has no frames
    assert client.get("/frame/2").status_code == 404
    assert client.get("/media/2").status_code == 404


# ---- headers ---------------------------------------------------------------------------------------------------------


def test_every_response_has_security_headers(client: httpx.Client, video_file: Path) -> None:
    answers = [client.get(path) for path in ("/", "/media/0", "/frame/0", "/search.js", "/nothing", "/theme.css")]
    answers += [client.get("/", headers={"Host": "evil.example.org"}), client.post("/gradio_api/queue/join")]
    path = upload(client, video_file)["path"]
    answers.append(client.get(f"/gradio_api/file={path}"))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff", answer.url
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        if answer.url.path != "/" or answer.status_code != 200:
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; sandbox")


def test_page_policy_allows_only_its_own_scripts_and_host(client: httpx.Client) -> None:
    answer = client.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    scripts = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", answer.text, re.DOTALL)
    assert len(scripts) > 2
    digests = {"'sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() + "'" for s in scripts}
    assert set(policy["script-src"].split()) == {"'self'", *digests}
    assert not [word for value in policy.values() for word in value.split() if "//" in word or "*" in word]
    assert "https:" not in policy["media-src"]
    assert page_policy(b"").count("sha256") == 0
