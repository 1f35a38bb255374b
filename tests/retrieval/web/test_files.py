"""Queries, uploads and routes of the page cannot read files of the server."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.retrieval.pages import INPUTS, META, make_site, post, query, result, serve, upload, values

pytest.importorskip("gradio")
from vatt.retrieval.app import _uploads, make_app

SECRET = "a secret that no visitor may see"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, video_file: Path, sound_file: Path) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), video_file, sound_file)


@pytest.fixture(scope="module")
def addresses(index: Path) -> Iterator[dict[str, str]]:
    """Serve the page with the guard and without it, where only the checks of Gradio and of `Searcher` apply."""
    bare = make_app(index)
    bare.user_middleware.clear()
    with serve(make_app(index)) as guarded, serve(bare) as unguarded:
        yield {"guarded": guarded, "unguarded": unguarded}


@pytest.fixture(params=["guarded", "unguarded"])
def client(addresses: dict[str, str], request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=addresses[request.param], timeout=30) as client:
        yield client


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """Start a server that no query may reach. Yield its address and the list of requested paths."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.fixture
def secrets(tmp_path: Path, canary: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return names of server files that an attacker might try."""
    (tmp_path / "secret.mp4").write_text(SECRET)
    (tmp_path / ".secret").write_text(SECRET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VATT_TEST_SECRET", SECRET)
    folder = _uploads().folder
    link = folder / "linked" / "link.mp4"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret.mp4")
    up = "../" * 12
    return [
        str(tmp_path / "secret.mp4"),
        "secret.mp4",
        ".secret",
        str(tmp_path / ".secret"),
        f"{folder}/../{os.path.relpath(tmp_path, folder.parent)}/secret.mp4",
        f"{folder}/{up}{tmp_path}/secret.mp4",
        f"{up}{tmp_path}/secret.mp4",
        str(link),
        "/proc/self/environ",
        "/proc/self/cwd/secret.mp4",
        "/etc/passwd",
        f"file://{tmp_path}/secret.mp4",
        f"{canary[0]}/secret.mp4",
        str(folder),
        "~/.bashrc",
        "\0/etc/passwd",
    ]


def variants(name: str, host: str) -> list[Any]:
    """Return a file name in all forms that Gradio might treat as a file."""
    return [
        {"path": name, "meta": META},
        {"path": name, "url": name, "orig_name": name, "size": 1, "meta": META},
        {"path": name, "is_stream": True, "meta": META},
        {"path": "x.mp4", "url": name, "meta": META},
        {"path": f"/gradio_api/file={name}", "url": f"{host}/gradio_api/file={name}", "meta": META},
        {"path": name},
        [[{"path": name, "meta": META}]],
        {"video": {"path": name, "meta": META}, "subtitles": {"path": name, "meta": META}},
        name,
    ]


def leaked() -> list[Path]:
    """Return the files in the upload directory that contain a secret."""
    files = [path for path in _uploads().folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(s in path.read_bytes() for s in (SECRET.encode(), b"root:", b"PATH="))]


@pytest.mark.parametrize("component", INPUTS)
def test_no_component_accepts_a_file_of_the_server(
    client: httpx.Client, component: str, secrets: list[str], canary: tuple[str, list[str]]
) -> None:
    """Fails if a Gradio release stops checking paths, with and without the guard in front of it."""
    for name in secrets:
        # Gradio treats all other components in the same way.
        forms = variants(name, str(client.base_url))[: None if component in ("text", "clip") else 2]
        for value in forms:
            answer, session = post(client, values(**{component: value}))
            assert answer.status_code in (200, 400, 422), (answer.status_code, name)
            text = answer.text
            if answer.status_code == 200:
                text += json.dumps(result(client, session))
            assert SECRET not in text
            assert "root:" not in text
            assert leaked() == [], (component, value)
    assert canary[1] == []


def test_no_route_serves_a_file_of_the_server(
    client: httpx.Client, secrets: list[str], canary: tuple[str, list[str]], index: Path
) -> None:
    names = [*secrets, str(index.parent / "media" / "secret.txt"), str(index / "index.json")]
    for name in (name for name in names if "\0" not in name):
        for route in ("file=", "file/", "proxy=", "stream/", "custom_component/0/client/component/"):
            for quoted in (name, name.replace("/", "%2F"), "//" + name, name.replace("/", "\\")):
                answer = client.get(f"/gradio_api/{route}{quoted}")
                assert answer.status_code >= 400, (route, quoted)
                assert SECRET not in answer.text
        for route in ("static/", "assets/", "svelte/", "media/", "frame/", ""):
            answer = client.get(f"/{route}{name.replace('/', '%2F')}")
            assert SECRET not in answer.text
            assert "root:" not in answer.text
    assert canary[1] == []


@pytest.mark.parametrize("route", ["run/answer", "api/answer", "call/answer", "call/v2/answer", "run/predict"])
def test_queue_cannot_be_bypassed(client: httpx.Client, route: str, secrets: list[str]) -> None:
    for value in variants(secrets[0], str(client.base_url)):
        for name in ("clip", "text"):
            body = {"data": values(**{name: value}), "fn_index": 0, "session_hash": "abc"}
            # Gradio closes the connection after an internal error.
            answer = client.post(f"/gradio_api/{route}", json=body, headers={"Connection": "close"})
            assert answer.status_code >= 400 or "event_id" in answer.text
            assert SECRET not in answer.text
    assert leaked() == []


def test_uploads_still_work_and_are_deleted_after_the_query(client: httpx.Client, video_file: Path) -> None:
    folder = _uploads().folder
    for name in ("clip", "audio"):
        example = upload(client, video_file, f"of the {name}.mp4")
        path = Path(example["path"])
        assert path.is_relative_to(folder)
        preview = client.get(f"/gradio_api/file={path}", headers={"Range": "bytes=4-7"})
        assert (preview.status_code, preview.content, preview.headers["content-type"]) == (206, b"ftyp", "video/mp4")
        assert "film &lt;b&gt;.mp4" in query(client, **{name: example})
        assert not path.exists()
        assert client.get(f"/gradio_api/file={path}").status_code == 404
        assert "film &lt;b&gt;.mp4" in query(client, text="a red ring", **{name: example})  # its vectors are cached


def test_unreadable_upload_is_deleted_and_reported_without_its_directory(
    client: httpx.Client, tmp_path: Path, sound_file: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    example = upload(client, page)
    served = client.get(f"/gradio_api/file={example['path']}")
    assert served.status_code == 415
    message = query(client, clip=example)
    assert 'class="note error"' in message
    assert "page.html" in message
    assert "/tmp" not in message.replace("</p>", "")
    assert not Path(example["path"]).exists()
    assert "upload it again" in query(client, clip=example)
    silent = query(client, clip=upload(client, sound_file))
    assert "The example file has no video track" in silent
    unused = upload(client, page, "unused.html")
    assert "longer than" in query(client, text="x" * 5000, clip=unused)
    assert not Path(unused["path"]).exists()


def test_unused_uploads_are_deleted(client: httpx.Client, video_file: Path) -> None:
    path = Path(upload(client, video_file, "unused.mp4")["path"])
    _uploads().delete_old()
    assert path.exists()
    os.utime(path.parent, (1, 1))
    _uploads().delete_old()
    assert not path.exists()
