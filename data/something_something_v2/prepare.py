"""Something-Something v2 (Goyal et al. 2017): its JSON files to a manifest; labels are templates, texts the captions.

Usage:
    python data/something_something_v2/prepare.py something-something-v2-train.json \\
        something-something-v2-validation.json 20bn-something-something-v2 \\
        --classes something-something-v2-labels.json --output runs/something/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vatt.datasets.annotations.finding import Files
from vatt.datasets.annotations.reading import find_split, of_kind, pick, read_json
from vatt.datasets.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.errors import InputError
from vatt.structures import Clip, TimedText


def read(path: Path, classes: Mapping[str, str] | None, split: str | None) -> Iterator[Wanted]:
    """[{"id": "1", "label": "holding a cup", "template": "Holding [something]", …}, …]; the test has ids alone."""
    split, rows = find_split(path, split), of_kind(read_json(path), list, str(path))
    for number, row in enumerate(rows, start=1):
        place = f"{path}, clip {number}"
        name, caption = str(pick(row, place, "id")[0]), str(row.get("label", "")).strip()
        label = str(row.get("template", "")).replace("[", "").replace("]", "")
        if label and classes is not None and label not in classes:
            raise InputError(f"{place}: the file of the classes does not have {label!r}")
        clip = Clip(
            id=name,
            path="",
            texts=(TimedText(caption),) if caption else (),
            labels=(label,) if label else (),
            split=split,
        )
        yield Wanted(clip, names=[name])


def main() -> None:
    parser = make_parser(__doc__, "something-something-v2-train.json, …-validation.json, …-test.json")
    parser.add_argument("--classes", type=Path, help="something-something-v2-labels.json, to check the labels by")
    parser.add_argument("--split", help="of all rows; in the names of the JSON files without this option")
    given = parser.parse_args()
    classes = of_kind(read_json(given.classes), dict, str(given.classes)) if given.classes else None
    rows = (row for path in given.annotations for row in read(path, classes, given.split))
    write(rows, Files(given.media), given.output, Notes())


if __name__ == "__main__":
    run(main)
