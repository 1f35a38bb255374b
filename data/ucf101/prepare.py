"""Convert the train and test lists of UCF101 (Soomro et al. 2012).

Without --fold the three official splits are columns, x_fold1 to x_fold3, and there is no split.

Usage:
    vatt manifest ucf101 ucfTrainTestlist UCF-101 --fold 1 --output runs/ucf101/clips.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import read_lines
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip


def find_lists(given: Sequence[Path]) -> tuple[dict[tuple[str, int], Path], Path]:
    """The lists by split and fold, and classInd.txt."""
    paths = [found for path in given for found in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    lists, classes = {}, []
    for path in paths:
        if match := re.fullmatch(r"(train|test)list0?(\d)\.txt", path.name):
            lists[match[1], int(match[2])] = path
        elif path.name == "classInd.txt":
            classes.append(path)
        elif path in given:
            raise InputError(f"{path} is not called as the lists of UCF101 are: trainlist01.txt, testlist01.txt, …")
    if not lists or not classes:
        raise InputError(
            f"wanted are classInd.txt and trainlist01.txt, …, but not found in {', '.join(map(str, given))}"
        )
    return lists, classes[0]


def read(lists: dict[tuple[str, int], Path], classes: Path, fold: int | None, notes: Notes) -> Iterator[Wanted]:
    """Lines of "Class/v_Class_g01_c01.avi 1", where the number is missing in the lists of test clips."""
    folds = sorted({number for _, number in lists})
    if fold is not None and fold not in folds:
        raise InputError(f"--fold {fold}: there are lists of the folds {', '.join(map(str, folds))}")
    numbers = {}
    for place, line in read_lines(classes):
        number, _, label = line.partition(" ")
        if not number.isdigit() or not label:
            raise InputError(f"{place}: {line!r} is not 'number class'")
        numbers[label.strip()] = number
    splits: dict[str, dict[str, str]] = {}
    for (split, number), path in sorted(lists.items(), key=lambda item: (item[0][1], item[0][0] == "test")):
        for place, line in read_lines(path):
            match = re.fullmatch(r"(([^/]+)/\S+)(?:\s+(\d+))?", line)
            if not match:
                raise InputError(f"{place}: {line!r} is not 'class/file' or 'class/file number'")
            if match[2] not in numbers or (match[3] or numbers[match[2]]) != numbers[match[2]]:
                raise InputError(f"{place}: {line!r} does not fit the classes of {classes}")
            if splits.setdefault(match[1], {}).setdefault(f"x_fold{number}", split) != split:
                raise InputError(f"{place}: {match[1]} is to train on and to test in fold {number}")
    for name, extra in splits.items():
        split = extra.get(f"x_fold{fold}")
        if fold is not None and split is None:
            notes.add(f"Clips that fold {fold} does not use", name)
            continue
        label, file = name.split("/")
        yield Wanted(Clip(id=Path(file).stem, path="", labels=(label,), split=split, extra=extra), names=[name])


def main() -> None:
    parser = make_parser(__doc__, "the folder ucfTrainTestlist, or files of it")
    parser.add_argument("--fold", type=int, help="official split, 1 to 3, that becomes the column split")
    given = parser.parse_args()
    notes = Notes()
    lists, classes = find_lists(given.annotations)
    write(read(lists, classes, given.fold, notes), Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
