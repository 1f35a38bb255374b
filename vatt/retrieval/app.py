"""Web page that searches an index by text, an example clip or example audio, and plays the results in place.

Gradio renders the page. Media files are served by separate routes (`vatt.retrieval.web.routes`), by their number in the
index. `vatt.retrieval.web.guard.Guard` filters all requests.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from vatt.errors import InputError, VattError
from vatt.media.types import MediaError
from vatt.models.encoding import FileVectors
from vatt.models.vatt import VATT
from vatt.retrieval.filters import RelativePattern
from vatt.retrieval.search import Answers, opened, search
from vatt.retrieval.web.clips import Clips
from vatt.retrieval.web.library import Library
from vatt.retrieval.web.messages import shortened, summary, without_directories
from vatt.retrieval.web.results import SCRIPT, STYLE, results
from vatt.retrieval.web.uploads import MAX_WINDOWS, MIB, Examples, Uploads, Workers

log = logging.getLogger(__name__)

RESULTS, MAX_RESULTS = 12, 60
SLOTS = 32  # concurrent queries; most are left to text queries, see `vatt.retrieval.web.uploads.MAX_WAITING`
MAX_TEXT, MAX_PATTERN = 2000, 300  # characters of a query and of a filter
MAX_MESSAGE = 300  # characters of an error
QUOTA = 5  # size of the upload directory, in uploads of the maximum size
NAMES = {"video": "Videos", "audio": "Audio", "text": "Captions"}


@dataclass(frozen=True)
class Query:
    """A validated query.

    Args:
        text: Text to search for.
        clip, audio: Uploaded examples.
        answers: Modality of the results.
        k: Number of results.
        path, where: Filters, see `vatt.retrieval.search.search`.
        spans: Whether to join adjacent windows.
    """

    text: str | None
    clip: Path | None
    audio: Path | None
    answers: Answers
    k: int
    path: str | None
    where: str | None
    spans: bool


class Searcher:
    """Answers queries with HTML. Each query has a time limit, and slow queries do not block others.

    Args:
        library: Index and media files.
        uploads: Upload directory.
        clips: Cache of transcoded segments.
        limit_s: Time limit of one query, in seconds.
    """

    def __init__(self, library: Library, uploads: Uploads, clips: Clips, limit_s: float) -> None:
        self.library, self.uploads, self.clips, self.limit_s = library, uploads, clips, limit_s
        # Reading uploads is slow and has its own threads, so that text queries do not wait for it.
        self.examples = Examples(library.model, uploads, Workers("example", 2, waiting=8), limit_s, library.processes)
        self.workers = Workers("search", 4, waiting=64)

    async def answer(self, *values: Any) -> str:
        """Return the results, or an error message, as HTML.

        Args:
            values: Values of the inputs in the order of `Query`, unchecked. None means the default.
        """
        files: list[Path] = []
        try:
            async with asyncio.timeout(self.limit_s):
                files += self._files(values[1:3])
                html = await self._answer(self._query(*values))
        except TimeoutError:
            html = _error(f"the query took longer than {self.limit_s:g} s and was stopped")
        except Exception as error:
            html = _error(self.public(error))
        finally:
            for file in files:  # those that are being encoded are deleted after that
                if not self.examples.is_busy(file):
                    self.uploads.delete(file)
        return " ".join(html.split())  # in Markdown, an empty line would end the HTML block

    async def _answer(self, query: Query) -> str:
        if query.text is None and query.clip is None and query.audio is None:
            return ""
        notes = []
        vectors: dict[str, FileVectors] = {}
        for name, file in (("video", query.clip), ("audio", query.audio)):
            if file is not None:
                vectors[name], is_whole = await self.examples.vectors(file)
                if not is_whole:
                    notes.append(f"Of {file.name}, {MAX_WINDOWS} evenly spaced windows were compared.")
        html = await self.workers.run(self._search, query, vectors, notes)
        if 'src="clip/' in html:
            self.clips.processes.start()  # before the first clip is requested
        return html

    def _search(self, query: Query, vectors: dict[str, FileVectors], notes: list[str]) -> str:
        library = self.library
        path = None if query.path is None else RelativePattern(query.path, library.index.roots)
        hits = search(
            library.index, query.text, query.k, library.model, vectors.get("video"), vectors.get("audio"),
            query.answers, path, query.where, spans=query.spans,
        )  # fmt: skip
        notes += [_sentence(self.public(InputError(notice))) for notice in hits.notices]
        if not hits and not hits.notices:
            notes.append("No clips match the query.")
        return results(library, hits, notes)

    def _files(self, values: Sequence[Any]) -> list[Path]:
        try:
            return [self.uploads.check(value["path"]) for value in values if value is not None]
        except (ValueError, TypeError, KeyError):
            raise InputError("invalid upload: upload the file again") from None

    def _query(
        self, text: Any, clip: Any, audio: Any, answers: Any, k: Any, path: Any, where: Any, spans: Any
    ) -> Query:
        modalities = self.library.modalities
        answers = modalities[0] if answers is None else answers
        if answers not in modalities:
            raise InputError(f"results must be one of {', '.join(modalities)}")
        k = RESULTS if k is None else k
        if isinstance(k, bool) or not isinstance(k, int | float) or not 1 <= k <= MAX_RESULTS or math.isnan(k):
            raise InputError(f"the number of results must be between 1 and {MAX_RESULTS}")
        files = [None if value is None else self._files([value])[0] for value in (clip, audio)]
        text = _text(text, "the query", MAX_TEXT)
        path, where = _text(path, "the file pattern", MAX_PATTERN), _text(where, "the filter", MAX_PATTERN)
        return Query(text, *files, answers, int(k), path, where, spans is not False)

    def public(self, error: Exception) -> str:
        """Return an error message without server directories, of at most `MAX_MESSAGE` characters.

        Unexpected exceptions are logged and reported as an internal error.
        """
        if not isinstance(error, VattError | FileNotFoundError):
            log.error("a query failed: %s", summary(error))
            return "internal error; see the server log"
        text = error.strerror or str(error) if type(error) is FileNotFoundError else str(error)
        if isinstance(error, MediaError):
            text = f"{Path(error.path).name}: {error.reason}"
        text = without_directories(text, [*self.library.folders, self.uploads.folder])
        return shortened(text, MAX_MESSAGE)


def make_app(
    index: str | Path,
    model: VATT | str | Path | None = None,
    allowed_hosts: Sequence[str] = (),
    token: str | None = None,
    max_upload_mb: float = 200.0,
    query_limit_s: float = 30.0,
    roots: Sequence[str | Path] | None = None,
    urls: bool = False,
) -> Any:
    """Build the page as an ASGI application (FastAPI).

    Requests are accepted if their ``Host`` is the address of the connection (on a loopback address also localhost), or
    one of ``allowed_hosts``.

    Args:
        index: Directory of an index.
        model: Model of the index, or its directory. Default: the directory that is recorded in the index.
        allowed_hosts: Other host names and addresses under which the page may be opened.
        token: Secret that every request needs; without it, the status is 401. None means no token.
        max_upload_mb: Bound on an upload, in MiB.
        query_limit_s: Bound on one query, in seconds.
        roots: Directories whose files are served. Default: those of the index.
        urls: Open URLs of the index, and let the browser play them.

    Raises:
        ImportError: Gradio is not installed.
        StoreError, IndexMismatch: see `vatt.retrieval.search.search`.
        InputError: A limit is not positive, or a host name or the token is invalid.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # limits the statistics that are computed per query
    uploads = _uploads()  # Gradio reads GRADIO_TEMP_DIR when it is imported
    try:
        import gradio as gr
        from fastapi import FastAPI
    except ImportError as error:
        raise ImportError('the page needs Gradio: pip install "vatt[app]"') from error
    from vatt.retrieval.web.guard import Guard
    from vatt.retrieval.web.routes import routes

    for name, value in (("max_upload_mb", max_upload_mb), ("query_limit_s", query_limit_s)):
        if not 0 < value < math.inf:
            raise InputError(f"--{name} must be positive and finite, not {value}")
    uploads.quota = int(QUOTA * max_upload_mb * MIB)
    library = Library(*opened(index, model), roots=roots, urls=urls)
    clips = Clips()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(uploads.sweep())
        library.processes.start()
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        uploads.delete_old(age_s=0.0)
        await asyncio.to_thread(clips.close)
        await asyncio.to_thread(library.processes.stop)

    app = FastAPI(
        routes=routes(library, uploads, clips, SCRIPT),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.library, app.state.clips = library, clips
    page = _page(gr, library, Searcher(library, uploads, clips, query_limit_s))
    guard = {
        "uploads": uploads, "functions": {f["id"]: len(f["inputs"]) for f in page.get_config_file()["dependencies"]},
        # Private, checked with Gradio 6.31. A browser joins the queue, which makes the session, and then reads from it.
        "has_session": lambda session: session in page._queue.pending_messages_per_session,
        "allowed_hosts": allowed_hosts, "token": token, "max_upload_mb": max_upload_mb, "remote_media": urls,
    }  # fmt: skip
    Guard(app, **guard)  # raises for invalid values now; Starlette constructs middleware at the first request
    app.add_middleware(Guard, **guard)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no external fonts
    mounted = gr.mount_gradio_app(
        app, page, path="/", css=STYLE, theme=theme, head='<script src="search.js"></script>', allowed_paths=[],
        show_error=False, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, max_file_size=int(max_upload_mb * MIB),
    )  # fmt: skip
    # Private, checked with Gradio 6.31: if it is False, `processing_utils._check_allowed` accepts any file of the
    # server as the value of any component. `launch` sets it, `mount_gradio_app` does not.
    page.has_launched = True
    with suppress(OSError):  # of a route that `Guard` refuses
        (uploads.folder / "vibe_edit_history").rmdir()
    return mounted


def _page(gr: Any, library: Library, searcher: Searcher) -> Any:
    """Build the Gradio blocks."""
    clips, files = library.counts()
    placeholder = library.example() or "what happens in the video"
    with gr.Blocks(title="vatt: search your videos", analytics_enabled=False) as page:
        gr.Markdown(
            "# Search your videos\nDescribe a scene, or upload an example. "
            f"Searches {clips:,} clips in {files:,} files."
        )
        with gr.Row(equal_height=True):
            text = gr.Textbox(label="Query", placeholder=placeholder, scale=4, autofocus=True, max_length=MAX_TEXT)
            button = gr.Button("Search", variant="primary", scale=1)
        with gr.Accordion("Examples and filters", open=False):
            with gr.Row():
                clip = gr.Video(label="Clip (deleted after the search)", sources=["upload"], height=220)
                audio = gr.Audio(
                    label="Audio (deleted after the search)", sources=["upload", "microphone"], type="filepath",
                    editable=False, buttons=[],
                )  # fmt: skip
            with gr.Row():
                choices = [(NAMES[modality], modality) for modality in library.modalities]
                answers = gr.Radio(choices, value=library.modalities[0], label="Results")
                count = gr.Slider(1, MAX_RESULTS, RESULTS, step=1, label="Number of results")
            with gr.Row():
                path = gr.Textbox(
                    label="Only files that match (* and ?)", placeholder="*holiday*", max_length=MAX_PATTERN
                )
                where = gr.Textbox(label="Only clips with", placeholder="labels=dog", max_length=MAX_PATTERN)
                spans = gr.Checkbox(True, label="Join adjacent windows")
        # Markdown passes on HTML blocks and sanitizes them in the browser. gr.HTML needs a policy with unsafe-eval.
        output = gr.Markdown(elem_id="results", latex_delimiters=[])
        with gr.Accordion("Model, index and corpus", open=False):
            gr.Markdown("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in library.facts()) + "</ul>")
        inputs = [text, clip, audio, answers, count, path, where, spans]
        # A query submitted while another one is running is answered after it. `Searcher` validates the values, since
        # error messages of Gradio's preprocessing contain them.
        gr.on(
            [button.click, text.submit], searcher.answer, inputs, output, trigger_mode="always_last", preprocess=False,
            concurrency_limit=SLOTS, api_visibility="private",
        )  # fmt: skip
    page.queue(max_size=64, api_open=False)
    return page


@lru_cache(maxsize=1)
def _uploads() -> Uploads:
    """Return the upload directory of this process. Gradio reads it from the environment."""
    uploads = Uploads(quota=0)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)
    return uploads


def _text(value: Any, name: str, limit: int) -> str | None:
    """Return a stripped text, or None if it is empty."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} must be text")
    if len(value) > limit:
        raise InputError(f"{name} is longer than {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} has invalid characters") from None
    return value.replace("\0", "").strip() or None


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:] if re.match(r"[a-z]+ ", text) else text  # a file name stays
    return text.rstrip(".") + "."


def _error(message: str) -> str:
    return f'<p class="note error">{escape(_sentence(message))}</p>'
