"""Convert the JSON files of Something-Something v2 (Goyal et al. 2017).

Labels are templates; texts are the captions.

Usage:
    vatt manifest something_something_v2 something-something-v2-train.json \\
        something-something-v2-validation.json 20bn-something-something-v2 \\
        --classes something-something-v2-labels.json --output runs/something/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import find_split, of_kind, pick, read_cells, read_json, to_name
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip, TimedText


def read_answers(path: Path) -> dict[str, str]:
    """The label of each clip from lines of "id;label"."""
    answers: dict[str, str] = {}
    for place, cells in read_cells(path, delimiter=";"):
        if len(cells) != 2 or not all(cells):
            raise InputError(f"{place}: {';'.join(cells)!r} is not 'id;label'")
        if answers.setdefault(cells[0], cells[1]) != cells[1]:
            raise InputError(f"{place}: clip {cells[0]} has another label already")
    return answers


def to_text(row: Mapping[str, Any], key: str, place: str) -> str:
    """The text below a key; empty if that is missing or null."""
    return "" if row.get(key) is None else of_kind(row[key], str, f"{place}, {key}").strip()


def read_clips(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, id and all of each clip of a list."""
    for number, row in enumerate(of_kind(read_json(path), list, str(path)), start=1):
        place = f"{path}, clip {number}"
        (name,) = pick(row, place, "id")
        yield place, to_name(str(name) if type(name) is int else name, place, "id"), row


def read(
    paths: Sequence[Path],
    classes: Mapping[str, str] | None,
    answers: Mapping[str, str],
    split: str | None,
    notes: Notes,
) -> Iterator[Wanted]:
    """[{"id": "1", "label": "holding a cup", "template": "Holding [something]", …}, …]; the test has ids alone."""
    clips = ((find_split(path, split), *clip) for path in paths for clip in read_clips(path))
    left = dict.fromkeys(answers)
    for part, place, name, row in clips:
        left.pop(name, None)
        caption = to_text(row, "label", place)
        label = (to_text(row, "template", place) or answers.get(name, "")).replace("[", "").replace("]", "")
        if not label:
            notes.add("Rows without a label", place)
        if label and classes is not None and label not in classes:
            raise InputError(f"{place}: the file of the classes does not have {label!r}")
        clip = Clip(
            id=name,
            path="",
            texts=(TimedText(caption),) if caption else (),
            labels=(label,) if label else (),
            split=part,
        )
        yield Wanted(clip, names=[name])
    for name in left:
        notes.add("Answers to clips that are not in the lists", name)


def main() -> None:
    parser = make_parser(__doc__, "something-something-v2-train.json, …-validation.json, …-test.json")
    parser.add_argument("--classes", type=Path, help="something-something-v2-labels.json, to check the labels by")
    parser.add_argument("--answers", type=Path, help="labels of the test, a CSV of lines 'id;label'")
    parser.add_argument("--split", help="of all rows; in the names of the JSON files without this option")
    given = parser.parse_args()
    classes = of_kind(read_json(given.classes), dict, str(given.classes)) if given.classes else None
    answers = read_answers(given.answers) if given.answers else {}
    notes = Notes()
    write(read(given.annotations, classes, answers, given.split, notes), Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
