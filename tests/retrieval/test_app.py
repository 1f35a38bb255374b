"""Results, errors and time limits of the search page, and its behavior in a browser."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from tests.conftest import tiny_model
from tests.media.zoo import write
from tests.retrieval.fake_transcode import crash
from tests.retrieval.pages import CAPTION, make_site, post, query, result, serve, upload, values, with_files
from vatt.errors import InputError, VattError
from vatt.media.types import MediaError
from vatt.models.encoding import encode_file
from vatt.models.vatt import VATT
from vatt.retrieval.index import Index, IndexMismatch
from vatt.retrieval.results import Result
from vatt.retrieval.search import Results, opened, search
from vatt.retrieval.tables import StoreError
from vatt.retrieval.web.clips import Clips
from vatt.retrieval.web.library import Library, _Cache
from vatt.retrieval.web.reading import read_frame
from vatt.retrieval.web.results import card
from vatt.retrieval.web.uploads import MAX_WAITING_PER_UPLOAD

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from vatt.retrieval.app import SLOTS, Searcher, _uploads, make_app

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, video_file: Path, sound_file: Path) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), video_file, sound_file)


@pytest.fixture(scope="module")
def library(index: Path) -> Library:
    return Library(*opened(index, None))


@pytest.fixture(scope="module")
def address(index: Path) -> Iterator[str]:
    with serve(make_app(index)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def answer(library: Library, limit_s: float = 30.0, **given: Any) -> str:
    return asyncio.run(Searcher(library, _uploads(), Clips(), limit_s).answer(*values(**given)))


# ---- results ---------------------------------------------------------------------------------------------------------


def test_a_page_shows_files_that_moved_with_the_index(index: Path, video_file: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "media").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(video_file, tree / "media" / name)
    paths = [str(tree / "media" / name) for name in ("a.mp4", "b.mp4", "gone.mp4")]
    with_files(index, paths, tree / "index")
    (tmp_path / "elsewhere").mkdir()
    tree = tree.rename(tmp_path / "elsewhere" / "tree")
    shutil.copy(video_file, tmp_path / "elsewhere" / "gone.mp4")  # outside
    app = make_app(tree / "index")
    client, library = TestClient(app), app.state.library
    html = answer(library, text="a red ring")
    assert "1 of 3 results cannot be shown: file not found (1)." in html
    assert html.count('title="Play"') == 2
    content = video_file.read_bytes()
    answers = {Path(path).name: client.get(f"/media/{library.numbers[path]}") for path in paths}
    assert {name: reply.status_code for name, reply in answers.items()} == {"a.mp4": 200, "b.mp4": 200, "gone.mp4": 404}
    assert answers["a.mp4"].content == answers["b.mp4"].content == content
    assert library.numbers[str(tree / "media" / "a.mp4")] == library.numbers[paths[0]]


def test_patterns_match_the_paths_that_the_page_shows(library: Library) -> None:
    """Otherwise visitors could guess directories of the server letter by letter."""
    html = answer(library, text="a red ring", path="*.nothing")
    example = unescape(html).split("for example, ")[1].split(" and ")[0].rstrip(".</p>")
    assert "/" not in example
    assert 'class="result"' in answer(library, text="a red ring", path=example)
    assert 'class="result"' in answer(library, text="a red ring", path="*")
    root = str(library.roots[0])
    assert 'class="result"' not in answer(library, text="a red ring", path=f"{root}/*")
    assert 'class="result"' not in answer(library, text="a red ring", path=f"{root[:4]}*")


def test_ignored_parts_of_a_query_are_reported_above_the_results(library: Library) -> None:
    html = answer(library, text="a red unheardof ring")
    assert "Not in the model&#x27;s vocabulary: &#x27;unheardof&#x27;." in html
    assert 'class="result"' in html
    words = library.model.format.num_words
    html = answer(library, text="ring " * (words + 2))
    assert f"The query has {words + 2} tokens; the last 2 are ignored." in html


def test_results_show_escaped_file_names_without_directories(library: Library) -> None:
    film, sound = library.paths
    html = card(library, Result(1, 0.5, film, film, 0.0, 2.0, "a <script> & '\""))
    assert "<b>1. film &lt;b&gt;.mp4</b>" in html
    assert "“a &lt;script&gt; &amp; &#x27;&quot;”" in html
    assert 'src="media/0#t=0.000,2.000"' in html
    assert [f'src="frame/0?time_s={time_s}"' in html for time_s in ("0.50", "1.00", "1.50")] == [True] * 3
    assert str(library.roots[0]) not in html
    assert "score 0.500</p>" in html  # the id is the name of the file
    html = card(library, Result(1, 0.5, film, film, 0.0, 0.0, "a caption without a time"))
    assert 'src="media/0"' in html
    assert '<p class="score">score 0.500</p>' in html
    html = card(library, Result(2, 0.5, "<i>" + "x" * 1000, sound, 0.0, 2.0), captions=["<u>"])
    assert "♪ audio" in html
    assert "frame/1" not in html
    assert "“&lt;u&gt;”" in html
    assert "&lt;i&gt;xxx" in html
    assert len(html) < 1000
    assert library.short(f"{library.roots[0]}/holiday/1.mp4") == "holiday/1.mp4"
    assert library.short("/elsewhere/1.mp4") == "1.mp4"
    assert library.short("clip 7") == "clip 7"


def test_results_have_the_captions_of_their_clips(library: Library) -> None:
    html = answer(library, text="a red ring")
    assert f"“{CAPTION}”" in html
    assert "film &lt;b&gt;.mp4" in html
    html = answer(library, text="a red ring", answers="text")
    assert html.count(CAPTION) == 1


def test_captions_nearest_in_time_are_shown(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = library.index.parts["text", "video_text"].rows
    film = library.paths[0]
    texts = [("early", 0.0, 1.0), ("late", 8.0, 10.0), ("middle", 4.0, 6.0), ("middle", 5.0, 6.0)]
    table = rows.slice(0, 0).to_pylist() + [
        {**rows.slice(0, 1).to_pylist()[0], "text": text, "start_s": start_s, "end_s": end_s}
        for text, start_s, end_s in texts
    ]

    class Part:
        kept = torch.tensor([True] * 4).numpy()

    Part.rows = rows.from_pylist(table, schema=rows.schema)
    monkeypatch.setitem(library.index.parts, ("text", "video_text"), Part)
    clip = table[0]["id"]
    hits = [Result(1, 0.5, clip, film, 4.0, 6.0), Result(2, 0.4, "other", film, 0.0, 1.0)]
    assert library.captions(hits) == {(clip, library.numbers[film]): ["middle", "late"]}
    assert library.example() == "early"


def test_missing_files_are_listed_and_counted(index: Path, tmp_path: Path, video_file: Path) -> None:
    shutil.copy(video_file, tmp_path / "here.mp4")
    paths = [str(tmp_path / "here.mp4"), str(tmp_path / "gone.mp4"), str(tmp_path / "gone2.mp4"), "https://x.org/a.mp4"]
    library = Library(*opened(with_files(index, paths, tmp_path / "holes"), None))
    html = answer(library, text="a red ring")
    assert "3 of 4 results cannot be shown: file not found (2), URLs are disabled; start with --urls true (1)." in html
    assert html.count('<div class="strip none">file not found</div>') == 2
    assert html.count("<img") == 3
    assert "“" not in html


def test_facts_and_counts(library: Library, index: Path) -> None:
    facts = "\n".join(library.facts())
    assert library.index.model in facts
    assert "of 2 files" in facts
    assert "3 video in video-text (flat" in facts
    assert str(index.parent) not in facts
    assert library.counts() == (2, 2)
    assert library.example() == CAPTION


def test_an_index_without_captions_has_a_placeholder(index: Path, tmp_path: Path, video_file: Path) -> None:
    plain = with_files(index, [str(video_file)], tmp_path / "plain")
    assert Library(*opened(plain, None)).example() is None
    assert "what happens in the video" in TestClient(make_app(plain)).get("/").text
    assert CAPTION in TestClient(make_app(index)).get("/").text


def test_page_does_not_contain_directories(client: httpx.Client, index: Path) -> None:
    page = client.get("/").text
    assert "Searches 2 clips in 2 files" in page
    for folder in (index.parent, Path.cwd(), Path.home(), _uploads().folder):
        assert str(folder) not in page


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "x" * 5000}, "The query is longer than 2000 characters."),
        ({"text": ["a red ring"]}, "The query must be text."),
        ({"text": {"a": 1}}, "The query must be text."),
        ({"text": "\ud800"}, "The query has invalid characters."),
        ({"path": "*" * 1000}, "The file pattern is longer than 300 characters."),
        ({"where": "a=" + "b" * 1000}, "The filter is longer than 300 characters."),
        ({"where": "label"}, "A condition must be COLUMN=VALUE, not &#x27;label&#x27;."),
        ({"where": "nothing=1"}, "No clip has a column &#x27;nothing&#x27;; available columns: labels."),
        *(
            (
                {"path": pattern},
                "The path pattern matches none of 3 rows; patterns are relative to the indexed directories; paths are, "
                "for example, film",
            )
            for pattern in ("/tmp/*", "/*", "/tmp/film*", "*.nothing")
        ),
        ({"answers": "x" * 5000}, "Results must be one of video, audio, text."),
        ({"answers": ["video"]}, "Results must be one of video, audio, text."),
        ({"k": 0}, "The number of results must be between 1 and 60."),
        ({"k": 1e9}, "The number of results must be between 1 and 60."),
        ({"k": float("nan")}, "The number of results must be between 1 and 60."),
        ({"k": True}, "The number of results must be between 1 and 60."),
        ({"k": "12"}, "The number of results must be between 1 and 60."),
        ({"clip": "/etc/passwd"}, "Invalid upload: upload the file again."),
        ({"clip": {"path": "/etc/passwd"}}, "Invalid upload: upload the file again."),
        ({"audio": {"url": "http://127.0.0.1"}}, "Invalid upload: upload the file again."),
        ({"answers": "audio"}, "The index has no audio in the video_text space; it has"),
    ],
)
def test_invalid_queries_are_reported_in_one_sentence(library: Library, given: dict[str, Any], message: str) -> None:
    html = answer(library, **{"text": "a red ring", **given})
    assert message in html
    assert html.count("<p") == 1
    assert len(html) < 400


def test_an_empty_index_has_no_page(index: Path, tmp_path: Path, video_file: Path) -> None:
    with_files(index, [str(video_file)], tmp_path / "empty")
    emptied = Index.load(tmp_path / "empty", mapped=False)
    emptied.remove("*")
    emptied.compact()
    emptied.save(tmp_path / "empty")
    with pytest.raises(StoreError, match="the index is empty"):
        make_app(tmp_path / "empty")


def test_a_page_with_another_model_than_that_of_the_index_is_refused(index: Path) -> None:
    with pytest.raises(IndexMismatch, match=r"the index has vectors of model .*, but the query is of model"):
        make_app(index, tiny_model(shared=True))


def test_an_empty_query_clears_the_results(library: Library) -> None:
    assert answer(library) == answer(library, text="  ") == answer(library, path="*.mp4") == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StoreError("the model of this index is not at {root}/model; give it with --model DIR"), "is not at model;"),
        (MediaError("{root}/a b/film.mp4", "cannot read {root}/a b/film.mp4"), "film.mp4: cannot read a b/film.mp4"),
        (MediaError("/x/y/film.mp4", "'/x/y/film.mp4' is damaged"), "film.mp4: &#x27;film.mp4&#x27; is damaged"),
        (IndexMismatch("the index has no audio"), "The index has no audio."),
        (InputError("no word is known: " + "word " * 1000), "No word is known: word"),
        (InputError("<script>alert(1)</script>"), "&lt;script&gt;alert(1)&lt;/script&gt;."),
        (InputError("a video and/or 24/7 audio"), "A video and/or 24/7 audio."),
        (FileNotFoundError("{root}/model has no vocabulary: trained without texts"), "Model has no vocabulary"),
        (FileNotFoundError(2, "No such file or directory", "{root}/x"), "No such file or directory."),
        (RuntimeError("{root} secret"), "Internal error; see the server log."),
        (PermissionError(13, "Permission denied", "{root}/x"), "Internal error; see the server log."),
        (MemoryError(), "Internal error; see the server log."),
    ],
)
def test_errors_do_not_contain_directories_of_the_server(
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    message: str,
) -> None:
    root = str(library.roots[0])
    raised = type(error)(*(arg.replace("{root}", root) if isinstance(arg, str) else arg for arg in _arguments(error)))

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("vatt.retrieval.app.search", fail)
    with caplog.at_level(logging.ERROR):
        html = answer(library, text="a red ring")
    assert message in html
    assert 'class="note error"' in html
    assert root not in html
    assert "/x/" not in html
    assert len(html) < 500
    is_internal = not isinstance(error, VattError | FileNotFoundError)
    assert ("Internal error" in html) == is_internal == (f"a query failed: {type(error).__name__}: " in caplog.text)
    assert "Traceback" not in caplog.text


def _arguments(error: Exception) -> tuple[Any, ...]:
    return (error.path, error.reason) if isinstance(error, MediaError) else error.__reduce__()[1]


# ---- time ------------------------------------------------------------------------------------------------------------


def test_slow_query_times_out_and_does_not_block_others(
    index: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(model: VATT, path: Path, **options: Any) -> Any:
        assert options["time_limit_s"] <= 1.0
        begun.release()
        assert go_on.wait(30)
        return encode_file(model, path, **options)

    monkeypatch.setattr("vatt.retrieval.web.uploads.encode_file", slow)
    app = make_app(index, query_limit_s=2.0)
    app.state.library.processes.run(os.getpid, time_limit_s=60.0)  # wait until they are ready
    with serve(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        answers: list[str] = []
        examples = [upload(client, video_file, f"{number}.mp4") for number in range(3)]
        threads = [
            threading.Thread(target=lambda example=example: answers.append(query(client, clip=example)))
            for example in examples
        ]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=20) for _ in range(2))  # a third one waits
        begin = time.monotonic()
        assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")
        assert client.get("/frame/0?time_s=0.5").status_code == 200
        assert time.monotonic() - begin < 1.5
        for thread in threads:
            thread.join(30)
        assert answers == ['<p class="note error">The query took longer than 2 s and was stopped.</p>'] * 3
        go_on.set()
        for _ in range(200):
            if not any(Path(example["path"]).exists() for example in examples):
                break
            time.sleep(0.05)
        assert not any(Path(example["path"]).exists() for example in examples)
        monkeypatch.undo()
        assert "film &lt;b&gt;.mp4" in query(client, clip=upload(client, video_file, "again.mp4"))


def test_queries_that_wait_for_one_upload_do_not_hold_up_others(
    index: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More queries than the queue has slots refer to a slow upload: all but a few end at once."""
    go_on = threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        assert go_on.wait(60)
        return encode_file(*args, **options)

    monkeypatch.setattr("vatt.retrieval.web.uploads.encode_file", slow)
    with serve(make_app(index, query_limit_s=60.0)) as address, httpx.Client(base_url=address, timeout=60) as client:
        example = upload(client, video_file, "slow.mp4")
        sessions = [post(client, values(audio=example))[1] for _ in range(SLOTS + 8)]
        busy = '<p class="note error">The server is busy: try again in a moment.</p>'
        later = sessions[MAX_WAITING_PER_UPLOAD:]
        assert [result(client, session)["output"]["data"] for session in later] == [[busy]] * len(later)
        assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")
        assert not go_on.is_set()
        go_on.set()
        for session in sessions[:MAX_WAITING_PER_UPLOAD]:
            assert 'class="result"' in result(client, session)["output"]["data"][0]


def test_long_examples_are_subsampled(client: httpx.Client, video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vatt.retrieval.web.uploads.MAX_WINDOWS", 2)
    monkeypatch.setattr("vatt.retrieval.app.MAX_WINDOWS", 2)
    counts = []

    def counting(*args: Any, **options: Any) -> Any:
        vectors = encode_file(*args, **options)
        counts.append(len(vectors.start_s))
        return vectors

    monkeypatch.setattr("vatt.retrieval.web.uploads.encode_file", counting)
    html = query(client, clip=upload(client, video_file, "long.mp4"))
    assert "Of long.mp4, 2 evenly spaced windows were compared." in html
    assert counts == [2]


def test_uploaded_example_gives_the_results_of_its_file(
    client: httpx.Client, index: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    monkeypatch.setattr("vatt.retrieval.app.results", lambda library, hits, notes: results.append(hits) or "")
    examples = {"clip": upload(client, video_file, "same.mp4"), "audio": upload(client, video_file, "same too.mp4")}
    assert query(client, **examples) == ""
    assert results[0] == search(index, k=12, video=video_file, audio=video_file)


def test_slow_thumbnails_do_not_block_queries(
    client: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr("vatt.retrieval.web.routes.FRAME_WAIT_S", 0.5)
    monkeypatch.setattr(Library, "frame", lambda *_: go_on.wait(30) and b"")
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(httpx.get(f"{address}/frame/0", timeout=30).status_code))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    begin = time.monotonic()
    assert "film &lt;b&gt;.mp4" in query(client, text="a red ring")
    assert client.get("/media/0").status_code == 200
    assert time.monotonic() - begin < 10
    for thread in threads:
        thread.join(30)
    assert codes == [503] * 4
    go_on.set()


def test_thumbnail_cache_has_a_size_limit(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = _Cache(100)
    for number in range(5):
        cache.put(number, bytes(30))
        cache.get(0)
    assert [cache.get(number) is not None for number in range(5)] == [True, False, False, True, True]
    cache.put(9, bytes(1000))
    assert cache.get(9) is None
    first = library.frame(0, 0.5)
    monkeypatch.setattr(library.processes, "run", None)
    assert library.frame(0, 0.501) == first


def test_a_thumbnail_that_crashes_the_decoder_fails_alone(
    library: Library, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vatt.retrieval.web.library.read_frame", crash)
    monkeypatch.setattr("vatt.retrieval.web.library.read_streams", crash)
    assert client.get("/frame/0?time_s=0.7").status_code == 404
    monkeypatch.setattr("vatt.retrieval.web.library.read_frame", read_frame)
    assert client.get("/frame/0?time_s=0.7").status_code == 404  # it is not tried again
    assert client.get("/frame/0?time_s=0.8").status_code == 200
    assert Library(library.index, library.model).delivery(0) == "clip"


def test_a_thumbnail_is_read_again_if_its_file_changes(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    first = library.frame(0, 0.6)
    monkeypatch.setattr(library.processes, "run", lambda *_: b"new")
    assert library.frame(0, 0.6) == first
    path = Path(library.source(0))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    assert library.frame(0, 0.6) == b"new"


# ---- in a browser ----------------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Poll a condition. The content security policy of the page blocks Playwright's own waiting."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def browser_errors() -> list[str]:
    return []


@pytest.fixture
def page(address: str, browser_errors: list[str]) -> Iterator[Page]:
    """Open the page in headless Chromium. No other host may be requested, and no script may fail or be blocked."""
    playwright = pytest.importorskip("playwright.sync_api")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)  # ms; other tests may run beside
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        page.on("console", lambda message: browser_errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: browser_errors.append(str(error)))
        page.on("dialog", lambda dialog: browser_errors.append(dialog.message))
        page.goto(address)
        yield page
        assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []
        assert browser_errors == []
        browser.close()


def first(page: Page, selector: str) -> Locator:
    return page.locator(selector).first


@pytest.mark.slow
def test_a_browser_searches_and_plays(page: Page, video_file: Path) -> None:
    """Each wait is for new content, so that results of an earlier query do not satisfy it."""
    press = page.get_by_role("button", name="Search").click
    assert page.get_by_label("Query").get_attribute("placeholder") == CAPTION
    page.get_by_label("Query").fill("a red ring")
    press()
    page.wait_for_selector(".result")
    assert "film <b>.mp4" in first(page, ".result").inner_text()
    assert f"“{CAPTION}”" in first(page, ".result").inner_text()
    until(lambda: first(page, ".result img").evaluate("image => image.naturalWidth") > 0)
    assert not first(page, ".result video").is_visible()
    first(page, ".result .strip").click()
    until(lambda: first(page, ".result video").evaluate("video => video.currentTime") > 0)
    page.get_by_text("Examples and filters").click()
    page.get_by_label("Only files that match").fill("*.nothing")
    press()
    page.get_by_text("matches none of 3 rows").wait_for()
    page.get_by_label("Only files that match").fill("")
    page.get_by_label("Only clips with").fill("nothing=ring")
    press()
    page.get_by_text("No clip has a column 'nothing'").wait_for()
    page.get_by_label("Only clips with").fill("labels=ring")
    page.get_by_label("Audio", exact=True).check()
    page.locator("input[type=file]").first.set_input_files(str(video_file))
    page.get_by_role("button", name="Clear").first.wait_for()
    page.get_by_label("Query").fill("")
    press()
    page.wait_for_selector(".result")
    assert not list(_uploads().folder.rglob("*.mp4"))
    page.get_by_role("button", name="Clear").first.click()
    page.get_by_label("Query").press("Enter")
    page.locator(".result").first.wait_for(state="detached")  # an empty query clears the results


@pytest.mark.slow
def test_a_browser_plays_transcoded_clips_or_shows_the_reason(
    page: Page, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser_errors: list[str]
) -> None:
    """A file that the browser does not play after all is replaced by a clip."""
    if not page.evaluate(
        """document.createElement("video").canPlayType('video/mp4; codecs="avc1.640028,mp4a.40.2"')"""
    ):
        pytest.skip("this Chromium has no H.264 decoder")
    write(tmp_path / "film.avi", "mpeg4", options={"b": "2000000"}, sound="libmp3lame")
    sources = [str(tmp_path / "film.avi"), str(tmp_path / "broken.avi")]
    (tmp_path / "broken.avi").write_bytes(b"RIFF")
    monkeypatch.setattr("vatt.retrieval.app.search", lambda *_, **__: Results(hits))
    monkeypatch.setattr(Library, "source", lambda _, number: sources[number])
    hits = [Result(n + 1, 0.5, f"clip {n}", path, 1.0, 2.5) for n, path in enumerate(library.paths)]
    for delivery in ("clip", "media"):
        monkeypatch.setattr(Library, "delivery", lambda *_, delivery=delivery: delivery)
        monkeypatch.setattr(Library, "file", lambda _, number: Path(sources[number]))
        page.get_by_label("Query").fill(delivery)
        page.get_by_role("button", name="Search").click()
        page.locator(f".result video[src^={delivery}]").nth(1).wait_for(state="attached")
        for item in page.locator(".result").all():
            item.locator(".strip").click()
        page.get_by_text("The clip cannot be played: no readable media").wait_for()
        video = first(page, ".result video")
        until(lambda video=video: video.evaluate("video => video.currentTime") > 0)
        assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 48]
        assert video.evaluate("video => video.duration") == pytest.approx(1.5, abs=0.05)
    assert all("Failed to load" in error or "status of 404" in error for error in browser_errors)
    browser_errors.clear()


@pytest.mark.slow
def test_query_submitted_during_another_one_is_answered(
    page: Page, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, texts = threading.Event(), threading.Event(), []

    def slow(_: Index, text: str, *rest: object, **options: object) -> Results:
        texts.append(text)
        begun.set()
        assert go_on.wait(30)
        return Results([Result(1, 0.5, "video-text", library.paths[0], 0.0, 2.0, text)])

    monkeypatch.setattr("vatt.retrieval.app.search", slow)
    press = page.get_by_role("button", name="Search").click
    page.get_by_label("Query").fill("first")
    press()
    assert begun.wait(30)
    for text in ("second", "third"):
        page.get_by_label("Query").fill(text)
        press()
    go_on.set()
    page.get_by_text("“third”").wait_for()
    assert (texts[0], texts[-1]) == ("first", "third")


@pytest.mark.slow
def test_index_content_does_not_run_in_the_browser(
    page: Page, library: Library, monkeypatch: pytest.MonkeyPatch, browser_errors: list[str]
) -> None:
    """Markup in names, ids and captions is shown as text. Even unescaped scripts would not run."""
    attacks = [
        "<img src=x onerror=alert(1)>", "<script>alert(2)</script>", "${alert(3)}", "{{constructor}}", "$$x$$",
        "[link](javascript:alert(4))", "\n\n<script>alert(5)</script>\n\n# title", "`code`", "&lt;b&gt;",
    ]  # fmt: skip
    hits = [Result(n, 0.5, text, library.paths[0], 0.0, 2.0, text) for n, text in enumerate(attacks, start=1)]
    monkeypatch.setattr("vatt.retrieval.app.search", lambda *_, **__: Results(hits))
    page.get_by_label("Query").fill("first")
    page.get_by_role("button", name="Search").click()
    page.wait_for_selector(".result")
    shown = page.locator(".caption").all_inner_texts()
    assert [" ".join(text.split()) for text in shown] == [f"“{text}”".replace("\n\n", " ") for text in attacks]
    raw = '<p>raw</p><img src="frame/0" onerror="alert(6)" onload="alert(7)"><script>alert(8)</script>'
    monkeypatch.setattr("vatt.retrieval.app.results", lambda *_: raw)
    page.get_by_label("Query").fill("second")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("raw").wait_for()
    time.sleep(0.3)
    assert all("violates the following Content Security Policy directive" in error for error in browser_errors)
    browser_errors.clear()


@pytest.mark.slow
def test_a_browser_opens_the_page_with_a_token(index: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with serve(make_app(index, token="secret-token")) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        assert page.goto(address).status == 401
        page.goto(f"{address}/?token=secret-token")
        page.get_by_label("Query").fill("a red ring")
        page.get_by_role("button", name="Search").click()
        page.wait_for_selector(".result")
        assert page.url == f"{address}/"
        assert page.evaluate("document.cookie") == ""
        assert page.goto(address).status == 200
        browser.close()


def test_invalid_addresses_are_reported_in_one_sentence(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vatt.cli.main import main
    from vatt.retrieval.web.hosts import bound_socket

    with bound_socket("127.0.0.1", 0) as used:  # as a first `vatt app` that is still loading
        for host, port in (
            ("127.0.0.1", used.getsockname()[1]), ("127.0.0.1", 99_999_999), ("127.0.0.1", -1), ("evil..host", 80),
            ("192.0.2.1", 0), ("\x1b[31m.example", 80),
        ):  # fmt: skip
            assert main(["app", str(index), "--host", host, f"--port={port}"]) == 2
            error = capsys.readouterr().err
            assert error.startswith(
                ("vatt app: error: cannot listen on ", "vatt app: error: --port must lie in [0, 65535]")
            )
            assert len(error.splitlines()) == 1
            assert "\x1b" not in error


def test_the_command_warns_and_prints_the_address(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vatt.cli.main import main

    served: list[dict[str, Any]] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: served.append({"app": server.config.app}))
    monkeypatch.setattr(
        "vatt.cli.retrieval.bound_socket",
        lambda host, port: SimpleNamespace(getsockname=lambda: (socket.gethostbyname(host), port)),
    )
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delenv("VATT_APP_TOKEN", raising=False)
    assert main(["app", str(index), "--port", "1234"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("http://127.0.0.1:1234/  ")
    assert f"serving media in: {index.parent / 'media'}" in out
    assert "warning" not in err
    (tmp_path / "roots").mkdir()
    assert main(["app", str(index), "--roots", f"[{tmp_path / 'roots'}]"]) == 0
    assert f"not shown: to show them, set --roots [{index.parent / 'media'}," in capsys.readouterr().err
    assert main(["app", str(index), "--host", "0.0.0.0", "--allowed_hosts", "[a.example,b.example]"]) == 0
    assert "everyone who can reach 0.0.0.0, port 7860, can search" in capsys.readouterr().err
    client = TestClient(served[-1]["app"], base_url="http://10.0.0.1")
    codes = [client.get("/search.js", headers={"Host": f"{name}.example"}).status_code for name in "abc"]
    assert codes == [200, 200, 421]
    assert main(["app", str(index), "--token", "auto"]) == 0
    token = capsys.readouterr().out.split("?token=")[1].split()[0]
    assert len(token) >= 40
    assert TestClient(served[-1]["app"]).get("/search.js").status_code == 401
    assert TestClient(served[-1]["app"]).get(f"/search.js?token={token}").status_code == 200
    monkeypatch.setenv("VATT_APP_TOKEN", "from-the-environment")
    assert main(["app", str(index), "--host", "192.0.2.1"]) == 0
    out, err = capsys.readouterr()
    assert "http://192.0.2.1:7860/?token=from-the-environment" in out
    assert "with the token" in err
    assert main(["app", str(index), "--host", "127.1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("http://127.0.0.1:7860/?token=")
    assert "warning" not in err
    assert main(["app", str(index), "--host", "0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("http://127.0.0.1:7860/?token=")
    assert "everyone who can reach 0.0.0.0, port 7860" in err
    for option, value in (("--max_upload_mb", "0"), ("--query_limit_s", "0"), ("--roots", "[/nope]")):
        assert main(["app", str(index), option, value]) == 2
        assert option in capsys.readouterr().err
    for option, value in (("--token", "a b"), ("--allowed_hosts", "[a/b]"), ("--max_upload_mb", "0")):
        assert main(["app", str(index), option, value]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
