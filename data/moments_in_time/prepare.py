"""Convert the CSV files of Moments in Time (Monfort et al. 2019).

Usage:
    vatt manifest moments_in_time trainingSet.csv validationSet.csv Moments_in_Time_Raw \\
        --classes moments_categories.txt --output runs/moments/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import find_split, read_cells, to_name, to_number
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip


def read_classes(path: Path) -> set[str]:
    """The names in lines of "name,index"."""
    names = set()
    for place, cells in read_cells(path):
        if len(cells) != 2 or not cells[1].isdigit():
            raise InputError(f"{place}: {','.join(cells)!r} is not 'name,index'")
        names.add(cells[0])
    return names


def read(path: Path, classes: set[str] | None, split: str | None) -> Iterator[Wanted]:
    """Lines of "label/file.mp4,label,people who agree,people who disagree"."""
    split = find_split(path, split)
    for place, cells in read_cells(path):
        if len(cells) != 4:
            raise InputError(f"{place}: {','.join(cells)!r} is not 'file,label,agree,disagree'")
        name, label = to_name(cells[0], place, "file"), cells[1]
        if classes is not None and label not in classes:
            raise InputError(f"{place}: the file of the classes does not have {label!r}")
        agree, disagree = (int(to_number(cell, place)) for cell in cells[2:])
        extra = {"x_agree": agree, "x_disagree": disagree}
        yield Wanted(Clip(id=name, path="", labels=(label,), split=split, extra=extra), names=[name])


def main() -> None:
    parser = make_parser(__doc__, "trainingSet.csv, validationSet.csv")
    parser.add_argument("--classes", type=Path, help="moments_categories.txt, to check the labels by")
    parser.add_argument("--split", help="of all rows; in the names of the CSV files without this option")
    given = parser.parse_args()
    classes = read_classes(given.classes) if given.classes else None
    rows = (row for path in given.annotations for row in read(path, classes, given.split))
    write(rows, Files(given.media), given.output, Notes())


if __name__ == "__main__":
    run(main)
