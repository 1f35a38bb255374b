"""Convert the segments of YouCook2 (Zhou et al. 2018), from the official JSON or MIL-NCE's CSV.

Usage:
    vatt manifest youcook2 youcookii_annotations_trainval.json raw_videos --output runs/youcook2/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from vatt.datasets.rows import RowIds
from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import (
    find_split,
    of_kind,
    pick,
    read_json,
    read_table,
    to_name,
    to_span,
    to_split,
)
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip, TimedText

# What the retrieval protocol asks for: the 3,350 clips of MIL-NCE's youcook2_val.csv, of which the JSON has more.
LISTS = {True: "youcook2", False: "youcook2-json"}

Segment = tuple[str, str, float, float, str, str, str]  # place, video, start_s, end_s, sentence, split, recipe


def read_database(path: Path, split: str | None, notes: Notes) -> Iterator[Segment]:
    """{"database": {video: {"subset": …, "annotations": [{"segment": [0, 9], "sentence": …}, …], …}, …}}."""
    (videos,) = pick(read_json(path), str(path), "database")
    for name, video in of_kind(videos, dict, str(path)).items():
        subset = split or to_name(*pick(video, f"{path}, {name}", "subset"), f"{path}, {name}", "subset")
        segments = of_kind(video.get("annotations") or [], list, f"{path}, {name}")
        if not segments:
            notes.add("Videos without annotations", name)
        for number, segment in enumerate(segments):
            place = f"{path}, {name}, segment {number}"
            (span,) = pick(segment, place, "segment")
            if len(of_kind(span, list, place)) != 2:
                raise InputError(f"{place}: {span} is not [start, end]")
            start_s, end_s = to_span(*span, place)
            sentence = of_kind(segment.get("sentence", ""), str, place).strip()  # the test has none
            recipe = "" if video.get("recipe_type") is None else str(video["recipe_type"])
            yield place, name, start_s, end_s, sentence, to_split(subset), recipe


def read_csv(path: Path, split: str | None) -> Iterator[Segment]:
    """Lines of "end,start,task,text,video_id"."""
    split = find_split(path, split)
    for place, row in read_table(path, ("video_id", "start", "end", "text")):
        start_s, end_s = to_span(row["start"], row["end"], place)
        yield place, row["video_id"], start_s, end_s, row["text"], split, row.get("task", "")


def read_file(path: Path, split: str | None, notes: Notes) -> Iterator[Segment]:
    return read_csv(path, split) if path.suffix.lower() == ".csv" else read_database(path, split, notes)


def read(paths: Sequence[Path], split: str | None, notes: Notes) -> Iterator[Wanted]:
    """A span may have two sentences: the second is a row whose id ends in #2."""
    ids, seen = RowIds(), dict[tuple[str, float, float, str], str]()
    rows = chain(*(((p.suffix.lower() == ".csv", row) for row in read_file(p, split, notes)) for p in paths))
    for is_csv, (place, name, start_s, end_s, sentence, part, recipe) in rows:
        segment = (to_name(name, place, "video_id"), start_s, end_s, sentence)
        if seen.get(segment, part) != part:
            raise InputError(f"{place}: the same segment is in split {seen[segment]!r} already, not {part!r}")
        if segment in seen:
            notes.add("Segments left out as repeated", place)
            continue
        seen[segment] = part
        if not sentence:
            notes.add("Segments without a sentence", place)
        clip = Clip(
            id=ids(name, start_s, end_s),
            path="",
            start_s=start_s,
            end_s=end_s,
            texts=(TimedText(sentence),) if sentence else (),
            split=part,
            extra={"x_recipe": recipe or None} | ({"x_list": LISTS[is_csv]} if part == "val" else {}),
        )
        yield Wanted(clip, names=[name])


def main() -> None:
    parser = make_parser(__doc__, "youcookii_annotations_trainval.json, or a CSV such as youcook2_val.csv")
    parser.add_argument("--split", help="of all rows; in the JSON, or in the name of the CSV, without this option")
    given = parser.parse_args()
    notes = Notes()
    write(read(given.annotations, given.split, notes), Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
