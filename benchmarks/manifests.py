"""Time to read a manifest of many rows, compared with the same checks in pandas.

Usage:
    python benchmarks/manifests.py --rows 300000
"""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import pandas
from timing import medians

from vatt.datasets.manifest import read_manifest

FOLDERS, CAPTION = 30, "a dog runs along the beach while two people talk"


def write(root: Path, rows: int, captions: int) -> Path:
    """Write empty media files, and a CSV with several captions of each, one per row."""
    for folder in range(FOLDERS):
        (root / f"{folder:02d}").mkdir(exist_ok=True)
    names = [f"{i % FOLDERS:02d}/{i:07d}.mp4" for i in range(rows // captions)]
    for name in names:
        (root / name).touch()
    lines = [f'{names[i // captions]},"{CAPTION}, {i}",train,{i % 400}\n' for i in range(len(names) * captions)]
    path = root / f"{captions}.csv"
    path.write_text("path,text,split,label\n" + "".join(lines))
    return path


def read_with_pandas(path: Path) -> None:
    """Read the table, look for each file, and group the rows by file."""
    table = pandas.read_csv(path, dtype=str)
    missing = [name for name in table["path"] if not os.path.isfile(path.parent / name)]
    assert not missing
    table.groupby("path", sort=False)["text"].agg(list)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for captions in (1, 20):
            path = write(Path(folder), args.rows, captions)
            functions = {
                "read_manifest": lambda path=path: read_manifest(path),
                "pandas": lambda path=path: read_with_pandas(path),
            }
            seconds = medians(functions, args.rounds)
            ratio = seconds["pandas"] / seconds["read_manifest"]
            times = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            print(f"{args.rows:,} rows, {captions} per file: {times}; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
