"""Answers for people: a contact sheet, and a list that a player plays."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.facts import MediaError
from vatt.datasets.media.pictures import Square
from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write
from vatt.retrieval.hits import Hit
from vatt.retrieval.paths import is_missing

FRAME = 144  # pixels of a picture in a contact sheet
STRIP = 4  # pictures for each answer
INK, PAPER, RIGHT, DIM, RED = (30, 30, 30), (255, 255, 255), (20, 150, 60), (110, 110, 110), (170, 30, 30)


def draw_sheet(query: str, hits: Sequence[Hit], output: str | Path, right_id: str | None = None) -> None:
    """A contact sheet: for each hit some frames of its span, its score and its file; the right answer is framed.

    Args:
        query: the title, as it is.
        hits: in the order to be drawn.
        output: PNG file.
        right_id: id of the clip that the query describes.

    Raises:
        InputError: see `check_sheet`.
        WriteError: The disk is full or read-only.
    """
    check_sheet(output)
    title, small = ImageFont.load_default(22), ImageFont.load_default(15)
    margin, label, columns = 16, 44, 2
    cell_width, cell_height = STRIP * FRAME + margin, FRAME + label + margin
    rows = math.ceil(len(hits) / columns)
    sheet = Image.new("RGB", (columns * cell_width + 2 * margin, rows * cell_height + 64 + margin), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 18), query, INK, title)
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
    with atomic_path(output) as path:
        sheet.save(path, "PNG")


def check_sheet(output: str | Path) -> None:
    """Check that a contact sheet can be written, before the search.

    Raises:
        InputError: The name does not end in .png, or the directory is not writable.
    """
    _check(output, (".png",), "--sheet writes a PNG file")


def check_playlist(output: str | Path) -> None:
    """Check that a playlist can be written, before the search.

    Raises:
        InputError: The name does not end in .m3u or .m3u8, or the directory is not writable.
    """
    _check(output, (".m3u", ".m3u8"), "--play writes an M3U playlist")


def _check(output: str | Path, suffixes: Sequence[str], kind: str) -> None:
    path = Path(output).absolute()
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{kind}, not {output}")
    parent = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "it is a directory" if path.is_dir() else f"{parent} is not a writable directory"
        raise InputError(f"cannot write {output}: {reason}")


def _frames(hit: Hit) -> list[Image.Image]:
    """Return thumbnails of a result, or a gray placeholder with the reason if there are none."""
    times_s = np.linspace(hit.start_s, hit.end_s, STRIP + 2)[1:-1]
    try:
        with open_media(hit.path) as media:
            frames = media.frames(times_s.tolist(), Square(FRAME)).frames
    except (MediaError, OSError):
        image = Image.new("RGB", (STRIP * FRAME - 2, FRAME), (200, 200, 200))
        reason = "file not found" if hit.missing or is_missing(hit.path) else "file cannot be read"
        font = ImageFont.load_default(22)
        ImageDraw.Draw(image).text((image.width / 2, image.height / 2), reason, RED, font, anchor="mm")
        return [image]
    squares = frames[..., :-2]  # a white line between them
    return [Image.fromarray(square.permute(1, 2, 0).contiguous().numpy()) for square in squares]


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[-length + 1 :]


def write_playlist(hits: Sequence[Hit], output: str | Path) -> list[str]:
    """Write an extended M3U playlist of the segments. VLC plays each from its start to its end.

    Args:
        hits: Results.
        output: Path of the M3U file.

    Returns:
        Missing files, which are left out of the playlist.

    Raises:
        InputError: see `check_playlist`.
        WriteError: The disk is full or read-only.
    """
    check_playlist(output)
    lines = ["#EXTM3U"]
    for hit in hits:
        if hit.missing:
            continue
        name = "".join(letter if letter.isprintable() else " " for letter in Path(hit.path).name)
        # A line break in a name would begin another entry.
        path = hit.path if hit.path.isprintable() else Path(hit.path).as_uri()
        lines.append(f"#EXTINF:{math.ceil(hit.end_s - hit.start_s)},{hit.rank}. {name} ({hit.score:.3f})")
        lines += [f"#EXTVLCOPT:start-time={hit.start_s:.2f}", f"#EXTVLCOPT:stop-time={hit.end_s:.2f}", path]
    with atomic_write(output, "w", errors="surrogateescape") as file:
        file.write("\n".join(lines) + "\n")
    return list(dict.fromkeys(hit.path for hit in hits if hit.missing))
