"""Convert the official splits of HMDB51 (Kuehne et al. 2011), text files or one CSV file.

Without --fold the three official splits are columns, x_fold1 to x_fold3, and there is no split.

Usage:
    vatt manifest hmdb51 testTrainMulti_7030_splits hmdb51_org --fold 1 --output runs/hmdb51/clips.jsonl
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import read_lines, read_table, to_name
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip

SPLITS = {"0": None, "1": "train", "2": "test"}
Line = tuple[str, str, str, dict[str, str | None]]


def read_splits(path: Path) -> Iterator[Line]:
    """Lines of "name.avi 1" in a file <class>_test_split1.txt: their place, name, class and column."""
    match = re.fullmatch(r"(.+)_test_split(\d)\.txt", path.name)
    if not match:
        raise InputError(f"{path} is not called as the splits of HMDB51 are: <class>_test_split<number>.txt")
    for place, line in read_lines(path):
        name, _, value = line.rpartition(" ")
        if not name or value not in SPLITS:
            raise InputError(f"{place}: {line!r} is not 'file 0', 'file 1' or 'file 2'")
        yield place, name.strip(), match[1], {f"x_fold{match[2]}": SPLITS[value]}


def read_csv(path: Path) -> Iterator[Line]:
    """Lines of "video_id,label,split1,split2,split3"."""
    for place, row in read_table(path, ("video_id", "label", "split1", "split2", "split3")):
        values = [row[f"split{number}"] for number in (1, 2, 3)]
        if not set(values) <= set(SPLITS):
            raise InputError(f"{place}: the splits are 0, 1 or 2, not {', '.join(values)}")
        folds = {f"x_fold{number}": SPLITS[value] for number, value in enumerate(values, start=1)}
        yield place, to_name(row["video_id"], place, "video_id"), row["label"].removesuffix("_test"), folds


def find_annotations(given: Sequence[Path]) -> list[Path]:
    """The files of the splits in folders, and files as they were given; raises `InputError` for a folder without."""
    paths = []
    for path in given:
        found = sorted(path.glob("*_test_split*.txt")) if path.is_dir() else [path]
        if not found:
            raise InputError(f"folder {path} holds no file called <class>_test_split<number>.txt")
        paths += found
    return paths


def read(paths: Sequence[Path], fold: int | None, notes: Notes) -> Iterator[Wanted]:
    """One row a clip, whatever the number of files that speak of it."""
    clips: dict[tuple[str, str], dict[str, str | None]] = {}
    for path in paths:
        for place, name, label, folds in read_csv(path) if path.suffix.lower() == ".csv" else read_splits(path):
            known = clips.setdefault((name, label), {})
            if any(known.get(column, split) != split for column, split in folds.items()):
                raise InputError(f"{place}: {name} is in another split of the same fold already")
            known.update(folds)
    columns = {column for folds in clips.values() for column in folds}
    if fold is not None and f"x_fold{fold}" not in columns:
        raise InputError(f"--fold {fold}: the annotations have {', '.join(sorted(columns)) or 'nothing'}")
    for (name, label), extra in clips.items():
        split = extra.get(f"x_fold{fold}")
        if fold is not None and split is None:
            notes.add(f"Clips that fold {fold} does not use", name)
            continue
        clip = Clip(id=name.removesuffix(".avi"), path="", labels=(label,), split=split, extra=extra)
        yield Wanted(clip, names=[f"{label}/{name}"])


def main() -> None:
    parser = make_parser(__doc__, "the folder with the files <class>_test_split<number>.txt, files of it, or the CSV")
    parser.add_argument("--fold", type=int, help="official split, 1 to 3, that becomes the column split")
    given = parser.parse_args()
    notes = Notes()
    write(read(find_annotations(given.annotations), given.fold, notes), Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
