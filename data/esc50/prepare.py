"""Convert the table of ESC-50 or ESC-10 (Piczak 2015), with the official fold as column x_fold.

Usage:
    vatt manifest esc50 ESC-50/meta/esc50.csv ESC-50/audio --output runs/esc50/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import read_table, to_name
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip


def read(path: Path, esc10: bool, fold: int | None) -> Iterator[Wanted]:
    """Lines of "filename,fold,target,category,esc10,…"; with ``fold``, that one is the test and the rest to train."""
    lines = list(read_table(path, ("filename", "fold", "category", *(["esc10"] if esc10 else []))))
    folds = {row["fold"] for _, row in lines}
    if fold is not None and str(fold) not in folds:
        raise InputError(f"--fold {fold}: {path} has the folds {', '.join(sorted(folds))}")
    for place, row in lines:
        if not row["fold"].isdecimal():
            raise InputError(f"{place}: {row['fold']!r} is not the number of a fold")
        if esc10 and (chosen := row["esc10"].lower()) not in ("true", "false"):
            raise InputError(f"{place}: esc10 is True or False, not {row['esc10']!r}")
        if esc10 and chosen == "false":
            continue
        name = to_name(row["filename"], place, "filename")
        clip = Clip(
            id=Path(name).stem,
            path="",
            labels=(row["category"],),
            split=None if fold is None else "test" if int(row["fold"]) == fold else "train",
            extra={"x_fold": int(row["fold"])},
        )
        yield Wanted(clip, names=[name])


def main() -> None:
    parser = make_parser(__doc__, "esc50.csv, or the esc10.csv of a copy of the small one")
    parser.add_argument("--esc10", action="store_true", help="only the recordings of ESC-10")
    parser.add_argument("--fold", type=int, help="1 to 5: this fold becomes split test, the others train")
    given = parser.parse_args()
    rows = (row for path in given.annotations for row in read(path, given.esc10, given.fold))
    write(rows, Files(given.media), given.output, Notes())


if __name__ == "__main__":
    run(main)
