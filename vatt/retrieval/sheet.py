"""Answers for people: a contact sheet, and a list that a player plays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vatt.datasets.loading.isolated import frames_in_workers
from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write
from vatt.media.sources.remote import is_url
from vatt.retrieval.paths import is_member, is_missing
from vatt.retrieval.results import Result

FRAME = 144  # pixels of a picture in a contact sheet
STRIP = 4  # pictures for each answer
PLAYED = ("http://", "https://", "ftp://", "file://")  # URLs that players open
URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"  # have a meaning in a URL, or are quoted already
INK, PAPER, RIGHT, DIM, RED = (30, 30, 30), (255, 255, 255), (20, 150, 60), (110, 110, 110), (170, 30, 30)


def draw_sheet(query: str, hits: Sequence[Result], output: str | Path, right_id: str | None = None) -> dict[str, str]:
    """A contact sheet: for each hit some frames of its span, its score and its file; the right answer is framed.

    Other processes decode the files, so that one which crashes a decoder has no frames in the sheet.

    Args:
        query: the title, as it is.
        hits: in the order to be drawn.
        output: PNG file.
        right_id: id of the clip that the query describes.

    Returns:
        Reasons by path of files that have no frames in the sheet, except those of hits that are marked as missing.

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
    frames, problems = frames_in_workers([(hit.path, _times_s(hit)) for hit in hits], FRAME), dict[str, str]()
    for position, (hit, result) in enumerate(zip(hits, frames, strict=True)):
        x = margin + (position % columns) * cell_width
        y = 64 + (position // columns) * cell_height
        if not isinstance(result, str):
            for number, image in enumerate(_images(result)):
                sheet.paste(image, (x + number * FRAME, y))
        else:
            is_gone = hit.missing or is_missing(hit.path)
            sheet.paste(_placeholder("file not found" if is_gone else "file cannot be read"), (x, y))
            if not hit.missing:
                problems[hit.path] = result
        good = hit.id == right_id
        if good:
            draw.rectangle((x - 5, y - 5, x + STRIP * FRAME + 4, y + FRAME + 4), outline=RIGHT, width=5)
        span = f"   {hit.start_s:.1f} to {hit.end_s:.1f} s" if hit.has_span else ""
        head = f"{hit.rank}.  score {hit.score:.3f}{span}"
        draw.text((x, y + FRAME + 7), head + ("   right answer" if good else ""), RIGHT if good else INK, small)
        draw.text((x, y + FRAME + 25), _shortened(Path(hit.path).name, 70), DIM, small)
    with atomic_path(output) as path:
        sheet.save(path, "PNG")
    return problems


def check_sheet(output: str | Path) -> None:
    """Check that a contact sheet can be written, before the search.

    Raises:
        InputError: The name does not end in .png, or no such file can be written.
    """
    _check(output, (".png",), "--sheet writes a PNG file")


def check_playlist(output: str | Path) -> None:
    """Check that a playlist can be written, before the search.

    Raises:
        InputError: The name does not end in .m3u or .m3u8, or no such file can be written.
    """
    _check(output, (".m3u", ".m3u8"), "--play writes an M3U playlist")


class _Writable(Exception):
    """Ends the test of `_check`."""


def _check(output: str | Path, suffixes: Sequence[str], kind: str) -> None:
    """Create a temporary file beside ``output``, and delete it together with the directories that were created."""
    path = Path(output).absolute()
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{kind}, not {output}")
    created: list[Path] = []
    try:
        if path.is_dir():
            raise InputError(f"cannot write {output}: it is a directory")
        created = [parent for parent in path.parents if not parent.exists()]
        if not (parent := path.parents[len(created)]).is_dir():
            raise InputError(f"cannot write {output}: {parent} is not a directory")
        with suppress(_Writable), atomic_path(path) as temporary:
            temporary.touch()
            raise _Writable
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from error
    finally:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()


def _times_s(hit: Result) -> list[float]:
    return np.linspace(hit.start_s, hit.end_s, STRIP + 2)[1:-1].tolist()


def _images(frames: Tensor) -> list[Image.Image]:
    squares = frames[..., :-2]  # a white line between them
    return [Image.fromarray(square.permute(1, 2, 0).contiguous().numpy()) for square in squares]


def _placeholder(reason: str) -> Image.Image:
    """Return a gray image with the reason why there are no frames."""
    image = Image.new("RGB", (STRIP * FRAME - 2, FRAME), (200, 200, 200))
    font = ImageFont.load_default(22)
    ImageDraw.Draw(image).text((image.width / 2, image.height / 2), reason, RED, font, anchor="mm")
    return image


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[-length + 1 :]


def write_playlist(hits: Sequence[Result], output: str | Path) -> Counter[str]:
    """Write an extended M3U playlist of the segments. VLC plays each from its start to its end.

    Args:
        hits: Results.
        output: Path of the M3U file.

    Returns:
        Number of results that are left out, by the reason: a missing file, a clip inside a shard, or a URL that players
        cannot open.

    Raises:
        InputError: see `check_playlist`.
        WriteError: The disk is full or read-only.
    """
    check_playlist(output)
    lines, left_out = ["#EXTM3U"], Counter[str]()
    for hit in hits:
        if reason := _obstacle(hit):
            left_out[reason] += 1
            continue
        name = "".join(letter if letter.isprintable() else " " for letter in Path(hit.path).name)
        duration = math.ceil(hit.end_s - hit.start_s) if hit.has_span else -1  # unknown
        lines.append(f"#EXTINF:{duration},{hit.rank}. {name} ({hit.score:.3f})")
        if hit.has_span:
            lines += [f"#EXTVLCOPT:start-time={hit.start_s:.2f}", f"#EXTVLCOPT:stop-time={hit.end_s:.2f}"]
        lines.append(_entry(hit.path))
    with atomic_write(output, "w", errors="surrogateescape") as file:
        file.write("\n".join(lines) + "\n")
    return left_out


def _obstacle(hit: Result) -> str | None:
    """Return why players cannot open a result, or None if they can."""
    if hit.missing:
        return "missing"
    if is_member(hit.path):
        return "inside shards, which players cannot open"
    if is_url(hit.path) and (not hit.path.startswith(PLAYED) or "::" in hit.path):
        return "at URLs that players cannot open"
    return None


def _entry(path: str) -> str:
    """Return a path for a playlist. A line break in it would begin another entry."""
    if path.isprintable():
        return path
    return quote(path, safe=URL_CHARACTERS) if is_url(path) else Path(path).as_uri()
