"""Questions to an index: a text in, ranked files with time spans out, and a picture of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.facts import MediaError
from vatt.datasets.media.pictures import Square
from vatt.errors import InputError
from vatt.models.vatt import VATT
from vatt.retrieval.index import Hit, Index
from vatt.retrieval.store import StoreError
from vatt.retrieval.texts import encode_texts, model_vocabulary

FRAME = 144  # pixels of a picture in a contact sheet
STRIP = 4  # pictures for each answer
INK, PAPER, RIGHT, DIM = (30, 30, 30), (255, 255, 255), (20, 150, 60), (110, 110, 110)


def search(index: Index | str | Path, query: str, k: int = 10, model: VATT | str | Path | None = None) -> list[Hit]:
    """Find the stretches of video that a text describes.

    Args:
        index: the index, or its folder.
        query: what to look for.
        k: number of answers.
        model: the model that made the index, or its folder; where the index was built from is taken unless given.

    Returns:
        Hits, best first; windows that mostly overlap with a better one are left out.

    Raises:
        StoreError: the model is not where it was, or the index cannot be read.
        IndexMismatch: the model is not the one the index was made with.
        ValueError: the query is empty.
    """
    return search_texts(index, [query], k, model)[0]


def search_texts(
    index: Index | str | Path, queries: Sequence[str], k: int = 10, model: VATT | str | Path | None = None
) -> list[list[Hit]]:
    """`search` for several texts at once."""
    if not isinstance(index, Index):
        index = Index.load(index)
    if model is None:
        if index.model_folder is None or not index.model_folder.is_dir():
            raise StoreError(f"the model of this index is not at {index.model_folder}; give it with --model DIR")
        model = index.model_folder
    if not isinstance(model, VATT):
        model = VATT.from_pretrained(model)
    with torch.inference_mode():
        vectors, _ = encode_texts(model, queries, model_vocabulary(model))
    return index.search(vectors.numpy(), model.fingerprint(), k, distinct=True)


def draw_sheet(query: str, hits: Sequence[Hit], output: str | Path, right_id: str | None = None) -> None:
    """A contact sheet: for each hit some frames of its span, its score and its file; the right answer is framed.

    Args:
        query: the title.
        hits: in the order to be drawn.
        output: PNG file.
        right_id: id of the clip that the query describes.

    Raises:
        InputError: not a PNG file by its name.
    """
    if Path(output).suffix.lower() != ".png":
        raise InputError(f"a contact sheet is a PNG file, not {output}")
    title, small = ImageFont.load_default(22), ImageFont.load_default(15)
    margin, label, columns = 16, 44, 2
    cell_width, cell_height = STRIP * FRAME + margin, FRAME + label + margin
    rows = math.ceil(len(hits) / columns)
    sheet = Image.new("RGB", (columns * cell_width + 2 * margin, rows * cell_height + 64 + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 18), f"“{query}”", INK, title)
    for place, hit in enumerate(hits):
        x = margin + (place % columns) * cell_width
        y = 64 + (place // columns) * cell_height
        for number, frame in enumerate(_frames(hit)):
            sheet.paste(frame, (x + number * FRAME, y))
        good = hit.id == right_id
        if good:
            draw.rectangle((x - 5, y - 5, x + STRIP * FRAME + 4, y + FRAME + 4), outline=RIGHT, width=5)
        head = f"{hit.rank}.  score {hit.score:.3f}   {hit.start_s:.1f} to {hit.end_s:.1f} s"
        draw.text((x, y + FRAME + 7), head + ("   right answer" if good else ""), RIGHT if good else INK, small)
        draw.text((x, y + FRAME + 25), _shortened(Path(hit.path).name, 70), DIM, small)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output)


def _frames(hit: Hit) -> list[Image.Image]:
    """Squares from the span of a hit; a grey one where the file cannot be read any more."""
    times_s = np.linspace(hit.start_s, hit.end_s, STRIP + 2)[1:-1]
    try:
        with open_media(hit.path) as media:
            frames = media.frames(times_s.tolist(), Square(FRAME)).frames
    except MediaError:
        return [Image.new("RGB", (FRAME - 2, FRAME), (200, 200, 200))] * STRIP
    squares = frames[..., :-2]  # a white line between them
    return [Image.fromarray(square.permute(1, 2, 0).contiguous().numpy()) for square in squares]


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[-length + 1 :]
