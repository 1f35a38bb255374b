"""Convert the lists of VideoMAE and V-JEPA, which have no header.

Lines are "path label", "path start_frame num_frames" (a num_frames of -1 reaches to the end of the file),
"path start_frame num_frames label", or a path alone. Paths may hold spaces.

Usage:
    vatt manifest video_lists train.csv val.csv videos --classes kinetics400_labels.txt \\
        --output runs/kinetics/clips.jsonl
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path, PurePosixPath

from vatt.datasets.folders import MEDIA_SUFFIXES
from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import find_split, read_lines
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, span_id, write
from vatt.structures import Clip

COLUMNS = ("start_frame", "num_frames", "label")
QUOTES = "\"'"
USUAL = {0: (), 1: COLUMNS[2:], 2: COLUMNS[:2], 3: COLUMNS}  # by the count of numbers


def is_media(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in MEDIA_SUFFIXES


def split_line(line: str) -> tuple[str, list[int]]:
    """The path of a line and up to three numbers, which are taken from the right."""
    path, numbers = line, []
    while len(numbers) < len(COLUMNS) and not is_media(path) and (match := re.fullmatch(r"(.+?)[\s,]+(-?\d+)", path)):
        path, numbers = match[1], [int(match[2]), *numbers]
    return path.strip(QUOTES), numbers


def after_media(line: str) -> str | None:
    """What stands behind the path of a media file at the beginning of a line; None if there is none."""
    gaps = re.finditer(r"[\s,]+", line)
    return next((line[gap.end() :] for gap in gaps if is_media(line[: gap.start()].strip(QUOTES))), None)


def name_numbers(numbers: Sequence[int], columns: Sequence[str] | None, place: str) -> dict[str, int]:
    """The numbers of a line by the names of their columns."""
    if columns is None and len(numbers) == 2 and numbers[1] != -1:
        raise InputError(f"{place}: say with --columns what the numbers {numbers[0]} and {numbers[1]} are")
    columns = USUAL[len(numbers)] if columns is None else columns
    if len(numbers) != len(columns):
        raise InputError(f"{place}: {len(numbers)} numbers, but --columns {','.join(columns)}")
    return dict(zip(columns, numbers, strict=True))


def to_times(numbers: dict[str, int], fps: float | None, place: str) -> tuple[float, float | None]:
    """Start and end in seconds of a span in frames; no end where it is the file's."""
    start, count = numbers.get("start_frame", 0), numbers.get("num_frames", -1)
    if start < 0 or count == 0 or count < -1:
        raise InputError(f"{place}: there cannot be {count} frames from frame {start} on")
    if fps is None and (start or count > 0):
        raise InputError(f"{place}: {count} frames from frame {start} on: give --fps to have them in seconds")
    return start / (fps or 1), (start + count) / fps if fps and count > 0 else None


def to_labels(label: int | None, classes: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """The name of a class, or its number as text; none for -1, which stands for no label."""
    if label is None or label == -1:
        return ()
    if label < 0:
        raise InputError(f"{place}: label {label} is neither a class, from 0 on, nor -1 for none")
    if classes is None:
        return (str(label),)
    if label >= len(classes):
        raise InputError(f"{place}: label {label} is not one of the {len(classes)} classes")
    return (classes[label],)


def read(path: Path, given: Namespace, classes: Sequence[str] | None, notes: Notes) -> Iterator[Wanted]:
    split = find_split(path, given.split)
    for place, line in read_lines(path):
        name, values = split_line(line)
        if not is_media(name):
            if (rest := after_media(line)) is not None:
                raise InputError(f"{place}: {rest!r} after the path is not up to three whole numbers")
            notes.add("Lines left out whose path is no video or sound (folders of frames?)", place)
            continue
        numbers = name_numbers(values, given.columns, place)
        start_s, end_s = to_times(numbers, given.fps, place)
        clip = Clip(
            id=span_id(name, start_s, end_s),
            path=name if Path(name).is_absolute() and Path(name).is_file() else "",
            start_s=start_s,
            end_s=end_s,
            labels=to_labels(numbers.get("label"), classes, place),
            split=split,
        )
        yield Wanted(clip, names=[PurePosixPath(name.removeprefix(given.strip).lstrip("/")).as_posix()])


def column_names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if not set(names) <= set(COLUMNS) or len(set(names)) < len(names):
        raise InputError(f"--columns {text}: the columns are {', '.join(COLUMNS)}, each once at most")
    return names


def main() -> None:
    parser = make_parser(__doc__, "lists such as train.csv", "folder that relative paths start from")
    parser.add_argument("--classes", type=Path, help="file with the name of one class a line; the first has label 0")
    parser.add_argument("--split", help="of all rows; in the names of the lists without this option")
    parser.add_argument("--columns", help="what the numbers after the path are, such as num_frames,label")
    parser.add_argument("--fps", type=float, help="frames per second of the videos, for spans in frames")
    parser.add_argument("--strip", default="", metavar="FOLDER", help="taken off the beginning of the paths")
    given = parser.parse_args()
    given.columns = None if given.columns is None else column_names(given.columns)
    if given.fps is not None and not (isfinite(given.fps) and given.fps > 0):
        raise InputError(f"--fps {given.fps:g}: a number above 0 is wanted")
    classes = [name for _, name in read_lines(given.classes)] if given.classes else None
    notes = Notes()
    rows = (row for path in given.annotations for row in read(path, given, classes, notes))
    write(rows, Files(given.media, anywhere=False), given.output, notes)


if __name__ == "__main__":
    run(main)
