"""A web page that searches an index: words, a clip or a sound in; thumbnails, spans and scores out, played on the spot.

Gradio makes the page. Pictures and media come from two routes beside it, which know files by their number in the index:
nothing else is served, whatever is asked for.
"""

from __future__ import annotations

import html
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.facts import MediaError
from vatt.datasets.media.pictures import Square
from vatt.errors import VattError
from vatt.models.vatt import VATT
from vatt.retrieval.hits import Hit
from vatt.retrieval.index import Index
from vatt.retrieval.search import Answers, opened, search

FRAME, STRIP = 180, 3  # pixels of a thumbnail, and how many a span has
ANSWERS = 12
NAMES = {"video": "Videos", "audio": "Sounds", "text": "Captions"}
STYLE = """
.answers {display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; align-items: start}
.answer {border: 1px solid #8884; border-radius: 8px; overflow: hidden; padding-bottom: .5rem}
.answer .strip {display: flex; gap: 2px; cursor: pointer}
.answer .strip img {width: 33.33%; aspect-ratio: 1; object-fit: cover; background: #8882}
.answer video {width: 100%; height: 14rem; display: block; background: #000}
.answer video[hidden] {display: none}
.answer p {margin: .4rem .8rem 0; overflow-wrap: anywhere; font-size: .9rem}
.answer .score {opacity: .7}
"""
# A click on the pictures puts the player in their place and plays the span.
PLAY = "const m=this.nextElementSibling;m.hidden=false;m.src=m.dataset.src;m.play();this.style.display='none'"


class Library:
    """The files of an index by number, and what is known of it.

    Args:
        index: that is searched.
        model: that made it.
    """

    def __init__(self, index: Index, model: VATT) -> None:
        self.index, self.model = index, model
        paths = {path for part in index.parts.values() for path in pc.unique(part.rows.column("path")).to_pylist()}
        self.paths = sorted(paths)
        self.numbers = {path: number for number, path in enumerate(self.paths)}

    @property
    def answers(self) -> list[Answers]:
        """What can be looked for."""
        there = {modality for modality, _ in self.index.parts}
        return [modality for modality in NAMES if modality in there]

    def facts(self) -> str:
        """Markdown: model, index and corpus."""
        lines = [
            f"- **model** `{self.index.model}`, {', '.join(self.model.backbone.modalities)}, "
            f"windows of {self.model.format.duration_s:g} s",
            f"- **index** `{self.index.name}`: {len(self.index):,} vectors of {len(self.paths):,} files",
        ]
        for (modality, space), part in sorted(self.index.parts.items()):
            removed = part.total - len(part)
            gone = f", {removed:,} removed" if removed else ""
            lines.append(f"- {len(part):,} {modality} in {space.replace('_', '-')} ({part.kind}, {part.width}{gone})")
        return "\n".join(lines)

    @lru_cache(maxsize=2048)  # noqa: B019 (there is one library, as long as the page)
    def frame(self, number: int, time_s: float) -> bytes:
        """A JPEG of a file at a time; grey where it has no picture there.

        Raises:
            IndexError: no such file.
        """
        try:
            with open_media(self.paths[number]) as media:
                picture = media.frames([time_s], Square(FRAME)).frames[0].permute(1, 2, 0).contiguous().numpy()
        except MediaError:
            picture = np.full((FRAME, FRAME, 3), 200, np.uint8)
        written = io.BytesIO()
        Image.fromarray(picture).save(written, "JPEG", quality=80)
        return written.getvalue()

    def card(self, hit: Hit) -> str:
        """HTML of an answer."""
        number, span = self.numbers[hit.path], f"{hit.start_s:.1f} to {hit.end_s:.1f} s"
        times_s = np.linspace(hit.start_s, hit.end_s, STRIP + 2)[1:-1]
        strip = "".join(f'<img loading="lazy" alt="" src="frame/{number}?time_s={t:.2f}">' for t in times_s)
        media = f'data-src="media/{number}#t={hit.start_s:.2f},{hit.end_s:.2f}"'
        said = f"<p>“{html.escape(hit.text)}”</p>" if hit.text else ""
        return (
            f'<div class="answer"><div class="strip" title="play" onclick="{PLAY}">{strip}</div>'
            f"<video controls playsinline hidden {media}></video>{said}"
            f"<p><b>{hit.rank}. {html.escape(Path(hit.path).name)}</b></p>"
            f'<p class="score">{span} · score {hit.score:.3f} · {html.escape(hit.id)}</p></div>'
        )


def make_app(index: str | Path, model: VATT | str | Path | None = None) -> Any:
    """The page, as an ASGI application (FastAPI).

    Args:
        index: folder of an index.
        model: that made it, or its folder; where the index was built from is taken unless given.

    Raises:
        ImportError: Gradio is not installed.
        StoreError, IndexMismatch: see `vatt.retrieval.search.search`.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
        from fastapi import FastAPI, HTTPException
        from fastapi.responses import FileResponse, RedirectResponse, Response
    except ImportError as error:
        raise ImportError('the page needs Gradio: pip install "vatt[app]"') from error
    library = Library(*opened(index, model))
    app = FastAPI(title="vatt", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/frame/{number}")
    def frame(number: int, time_s: float = 0.0) -> Response:
        if not 0 <= number < len(library.paths):
            raise HTTPException(404)
        return Response(
            library.frame(number, time_s), media_type="image/jpeg", headers={"Cache-Control": "max-age=600"}
        )

    @app.get("/media/{number}")
    def media(number: int) -> Response:
        if not 0 <= number < len(library.paths):
            raise HTTPException(404)
        path = library.paths[number]
        if path.startswith(("http://", "https://")):
            return RedirectResponse(path)
        if not Path(path).is_file():
            raise HTTPException(404, "the file is not where it was when it was embedded")
        return FileResponse(path)

    def ask(
        words: str | None, clip: str | None, sound: str | None, wanted: Answers | None, most: float | None,
        path: str | None, where: str | None, join: bool | None,
    ) -> str:  # fmt: skip
        # What lies in a folded part and was not touched is None.
        said, files, column = ((text or "").strip() or None for text in (words, path, where))
        k, answers = int(most or ANSWERS), wanted or library.answers[0]
        try:
            hits = search(
                library.index, said, k, library.model, clip, sound, answers, files, column, spans=join is not False
            )
        except (VattError, MediaError, FileNotFoundError) as error:
            raise gr.Error(str(error)) from error
        if not hits:
            return "<p>Nothing: no clip of the index matches the filters.</p>"
        return f'<div class="answers">{"".join(map(library.card, hits))}</div>'

    with gr.Blocks(title="vatt: search your videos", analytics_enabled=False) as page:
        gr.Markdown("# Search your videos\nDescribe them, or give a clip or a sound that they should be like.")
        with gr.Row():
            words = gr.Textbox(label="Words", placeholder="a red ring moves left", scale=4, autofocus=True)
            button = gr.Button("Search", variant="primary", scale=1)
        with gr.Accordion("By example, and filters", open=False):
            with gr.Row():
                clip = gr.Video(label="Clip", sources=["upload"], height=200)
                sound = gr.Audio(label="Sound", sources=["upload", "microphone"], type="filepath")
            with gr.Row():
                choices = [(NAMES[kind], kind) for kind in library.answers]
                wanted = gr.Radio(choices, value=library.answers[0], label="Looked for")
                count = gr.Slider(1, 60, ANSWERS, step=1, label="Answers")
            with gr.Row():
                path = gr.Textbox(label="Only files that match (* and ?)", placeholder="*/holiday/*")
                where = gr.Textbox(label="Only clips with", placeholder="labels=dog")
                spans = gr.Checkbox(True, label="Join windows that follow each other")
        found = gr.HTML(elem_id="found")
        with gr.Accordion("Model, index and corpus", open=False):
            gr.Markdown(library.facts())
        asked = [words, clip, sound, wanted, count, path, where, spans]
        # A question put while another is being answered is answered after it, not dropped.
        gr.on([button.click, words.submit], ask, asked, found, trigger_mode="always_last")
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from elsewhere
    return gr.mount_gradio_app(app, page, path="/", css=STYLE, theme=plain)
