from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vatt.retrieval.embeddings import embed
from vatt.retrieval.hits import Hit
from vatt.retrieval.index import Index
from vatt.retrieval.search import opened

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from vatt.retrieval.app import Library, make_app

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def index(model_folder: Path, video_file: Path, sound_file: Path, tmp_path: Path) -> Path:
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(video_file, media / "film <b>.mp4")
    shutil.copy(sound_file, media / "sound.m4a")
    (media / "secret.txt").write_text("not media")
    embed(media, model_folder, tmp_path / "embeddings", num_workers=0)
    Index.build([tmp_path / "embeddings"]).save(tmp_path / "index")
    return tmp_path / "index"


def test_only_files_of_the_index_are_served(index: Path, video_file: Path) -> None:
    client = TestClient(make_app(index))
    library = Library(*opened(index, None))
    assert [Path(path).name for path in library.paths] == ["film <b>.mp4", "sound.m4a"]
    assert client.get("/media/0").content == video_file.read_bytes()
    part = client.get("/media/0", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, video_file.read_bytes()[10:20])
    picture = client.get("/frame/0?time_s=0.5")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content[:2] == b"\xff\xd8"
    assert client.get("/frame/1").status_code == 200  # a sound: grey
    outside = ("media/2", "media/-1", "media/secret.txt", "media/..%2fsecret.txt", "frame/9")
    for path in outside:
        assert client.get(f"/{path}").status_code in (404, 422), path
    secret = index.parent / "media" / "secret.txt"
    assert client.get(f"/gradio_api/file={secret}").status_code in (403, 404)
    assert client.get("/").status_code == 200
    Path(library.paths[1]).unlink()
    gone = client.get("/media/1")
    assert (gone.status_code, gone.json()["detail"]) == (404, "the file is not where it was when it was embedded")


def test_what_is_known_is_shown_and_names_are_no_markup(index: Path) -> None:
    library = Library(*opened(index, None))
    facts = library.facts()
    assert library.index.model in facts
    assert "of 2 files" in facts
    assert "3 video in video-text (flat" in facts
    card = library.card(Hit(1, 0.5, "<i>", library.paths[0], 0.0, 2.0, "a <script>"))
    assert "film &lt;b&gt;.mp4" in card
    assert "&lt;i&gt;" in card
    assert "“a &lt;script&gt;”" in card
    assert 'data-src="media/0#t=0.00,2.00"' in card


@pytest.fixture
def address(index: Path) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(make_app(index), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.1)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The page in a headless Chromium; nothing may come from elsewhere."""
    playwright = pytest.importorskip("playwright.sync_api")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)  # ms; other tests may run beside
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
        browser.close()


@pytest.mark.slow
def test_a_browser_searches_and_plays(page: Page, video_file: Path) -> None:
    """Each wait is for what was not there before, so that no answer to an earlier question passes for it."""
    press = page.get_by_role("button", name="Search").click
    page.get_by_label("Words").fill("a red ring")
    press()
    page.wait_for_selector(".answer")
    assert "film <b>.mp4" in page.locator(".answer").first.inner_text()
    page.wait_for_function("document.querySelector('.answer img').naturalWidth > 0")
    assert not page.locator(".answer video").first.is_visible()
    page.locator(".answer .strip").first.click()
    page.wait_for_function("document.querySelector('.answer video').currentTime > 0")
    page.get_by_text("By example, and filters").click()
    page.get_by_label("Only files that match").fill("*.nothing")
    press()
    page.get_by_text("no clip of the index matches the filters").wait_for()
    page.get_by_label("Only files that match").fill("")
    page.get_by_label("Only clips with").fill("labels=ring")
    press()
    page.get_by_text("no clip has a column 'labels'").wait_for()
    page.get_by_label("Only clips with").fill("")
    page.get_by_label("Sounds").check()
    page.locator("input[type=file]").first.set_input_files(str(video_file))
    page.get_by_role("button", name="Clear").first.wait_for()
    page.get_by_label("Words").fill("")
    press()
    page.wait_for_selector(".answer")
    page.get_by_role("button", name="Clear").first.click()
    page.get_by_label("Words").fill("")
    press()
    page.get_by_text("ask for something: words, a video or a sound").wait_for()


@pytest.mark.slow
def test_a_question_put_while_another_is_answered_is_answered_too(
    page: Page, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, asked = threading.Event(), threading.Event(), []
    film = str(index.parent / "media" / "film <b>.mp4")

    def slow(_: Index, words: str, *rest: object, **how: object) -> list[Hit]:
        asked.append(words)
        begun.set()
        assert go_on.wait(30)
        return [Hit(1, 0.5, "video-text", film, 0.0, 2.0, words)]

    monkeypatch.setattr("vatt.retrieval.app.search", slow)
    press = page.get_by_role("button", name="Search").click
    page.get_by_label("Words").fill("first")
    press()
    assert begun.wait(30)
    for words in ("second", "third"):
        page.get_by_label("Words").fill(words)
        press()
    go_on.set()
    page.get_by_text("“third”").wait_for()
    assert (asked[0], asked[-1]) == ("first", "third")
