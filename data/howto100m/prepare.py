"""Convert the list of videos and the captions of HowTo100M (Miech et al. 2019).

The manifest has one row per video. The captions are one file <video_id>.csv or <video_id>.json each, or one big JSON
such as caption.json or raw_caption.json, which is read piece by piece. The categories, the rank and the task are x_
columns.

Usage:
    vatt manifest howto100m HowTo100M_v1.csv videos --captions raw_caption.json \\
        --output runs/howto100m/clips.jsonl
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import pick, read_json, read_table, to_name
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip, TimedText

COLUMNS = ("category_1", "category_2", "rank", "task_id")
PIECE = 2**24  # characters of a big file that are read at a time
LONGEST = 2**26  # characters of the captions of one video
_BEFORE_KEY, _BEFORE_VALUE = re.compile(r"[\s,{]*"), re.compile(r"[\s:]*")


def read_videos(paths: Sequence[Path], notes: Notes) -> dict[str, Clip]:
    """Lines of "video_id,category_1,category_2,rank,task_id", by the first."""
    videos: dict[str, Clip] = {}
    for place, row in (line for path in paths for line in read_table(path, ("video_id", *COLUMNS))):
        name = to_name(row["video_id"], place, "video_id")
        if name in videos:
            notes.add("Lines left out of a video that comes a second time", place)
            continue
        videos[name] = Clip(id=name, path="", extra={f"x_{column}": row[column] or None for column in COLUMNS})
    return videos


def read_pieces(path: Path, size: int) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            while piece := file.read(size):
                yield piece
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8: {error}") from error


def read_big(path: Path, size: int = PIECE) -> Iterator[tuple[str, Any]]:
    """Keys and values of a JSON object of objects that may be larger than the memory.

    Raises:
        InputError: not such an object, or only the beginning of one; the message tells after which key.
    """
    decoder, text, last, problem = json.JSONDecoder(), "", None, "it ends too early"
    for piece in read_pieces(path, size):
        text, place = text + piece, 0
        if last is None and text.strip() and not text.lstrip().startswith("{"):
            raise InputError(f"{path}: not a JSON object but {text[:20]!r}")
        try:
            while (begin := _BEFORE_KEY.match(text, place).end()) < len(text) and text[begin] != "}":
                key, end = decoder.raw_decode(text, begin)
                if not isinstance(key, str):
                    raise InputError(f"{path}: after the key {last!r}: {str(key)[:40]!r} is no text that can be a key")
                value, place = decoder.raw_decode(text, _BEFORE_VALUE.match(text, end).end())
                yield key, value
                last = key
        except json.JSONDecodeError as error:  # the rest of it is in the next piece, or it is not JSON
            problem = error.msg
        text = text[place:]
        if len(text) > LONGEST:
            break
    if not re.fullmatch(r"[\s{]*\}\s*", text):
        raise InputError(f"{path}: not JSON after the key {last!r}: {problem}")


def to_texts(captions: Any, place: str, notes: Notes) -> tuple[TimedText, ...]:
    """Captions {"start": […], "end": […], "text": […]} by their time; those that cannot be used are left out."""
    starts, ends, words = columns = pick(captions, place, "start", "end", "text")
    if not all(isinstance(column, list) for column in columns) or len(set(map(len, columns))) > 1:
        raise InputError(f"{place}: start, end and text are not lists of one length")
    texts: list[TimedText] = []
    for start, end, text in zip(starts, ends, words, strict=True):
        try:
            start_s, end_s = float(start), float(end)
        except (TypeError, ValueError):
            start_s = end_s = float("nan")
        if not isinstance(text, str) or not text.strip():  # pandas writes an empty text as NaN
            notes.add("Captions left out as empty", place)
        elif not 0 <= start_s <= end_s < float("inf"):
            notes.add("Captions left out as their times cannot be", f"{place}, {start} to {end}")
        else:
            texts.append(TimedText(text.strip(), start_s, end_s))
    texts.sort(key=lambda text: (text.start_s, text.end_s))
    for before, text in pairwise(texts):
        if text.start_s < before.end_s:
            notes.add("Captions that begin before the one before has ended (kept)", place)
    return tuple(texts)


def read_single(path: Path) -> Any:
    """The captions of one video, a CSV "start,end,text" or a JSON with these keys."""
    if path.suffix.lower() == ".json":
        return read_json(path)
    rows = [row for _, row in read_table(path, ("start", "end", "text"))]
    return {column: [row[column] for row in rows] for column in ("start", "end", "text")}


def read(lists: Sequence[Path], captions: Path | None, media: Files, notes: Notes) -> Iterator[Wanted]:
    """With one big file its videos come first, in its order. Captions of videos without a file are not looked at."""
    videos, single, seen = read_videos(lists, notes), None, set[str]()
    if captions is not None and captions.is_dir():
        single = Files(captions, frozenset((".csv", ".json")), "caption")
    elif captions is not None:
        for name, value in read_big(captions):
            if name in seen:
                notes.add("Captions left out of a video that comes a second time", name)
                continue
            seen.add(name)
            if name not in videos:
                notes.add("Captions left out of videos that are not in the list", name)
            elif media.find(name):
                texts = to_texts(value, f"{captions}, {name}", notes)
                yield Wanted(replace(videos.pop(name), texts=texts), names=[name])
    for clip in videos.values():
        texts = ()
        if media.find(clip.id):
            path = single.find(clip.id) if single else None
            if path:
                texts = to_texts(read_single(path), str(path), notes)
            else:
                notes.add("Videos without captions", clip.id)
        yield Wanted(replace(clip, texts=texts), names=[clip.id])
    for found in single.several.values() if single else ():
        notes.add("Videos with several files of captions, of which the first is taken", ", ".join(found))


def main() -> None:
    parser = make_parser(__doc__, "HowTo100M_v1.csv")
    parser.add_argument("--captions", type=Path, help="the big JSON, or the folder with one file a video")
    given = parser.parse_args()
    notes, media = Notes(), Files(given.media)
    write(read(given.annotations, given.captions, media, notes), media, given.output, notes)


if __name__ == "__main__":
    run(main)
