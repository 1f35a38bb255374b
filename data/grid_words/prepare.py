"""Convert a manifest with timed words, such as that of GRID: one clip per word, with a label.

In GRID the second word is one of four colors, spoken at different times.

Usage:
    vatt manifest grid_words runs/grid/clips.jsonl --word 2 --output runs/grid/colours.jsonl
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.errors import InputError
from vatt.preparation.annotations.writing import run


def label(source: str, output: Path, place: int, seconds: float) -> None:
    """Write a row for each row with that word: the word, and so many seconds around its middle.

    Raises:
        InputError: no row has such a word, or an option cannot be used.
    """
    if place < 1 or not seconds > 0:
        raise InputError("--word counts from 1, and --seconds are positive")
    if output.suffix != ".jsonl":
        raise InputError(f"the manifest is JSONL; call it {output.stem}.jsonl, not {output.name}")
    rows, without = [], []
    for clip in read_manifest(source):
        if len(clip.words) < place or clip.words[place - 1].start_s is None:
            without.append(clip.id)
            continue
        word = clip.words[place - 1]
        begin = max(0.0, (word.start_s + word.end_s) / 2 - seconds / 2)
        rows.append(
            replace(
                clip, start_s=round(begin, 4), end_s=round(begin + seconds, 4), texts=(), words=(), labels=(word.text,)
            )
        )
    if not rows:
        raise InputError(f"{source}: no row has a word {place} with times")
    write_manifest(rows, output)
    found = Counter(row.labels[0] for row in rows)
    said = ", ".join(f"{name} {count}" for name, count in sorted(found.items()))
    print(f"{output}: {len(rows)} rows ({said})")
    if without:
        print(f"Rows without a word {place} with times: {len(without)} (first: {without[0]}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="with the column words")
    parser.add_argument("--word", type=int, required=True, help="its place in the sentence, from 1")
    parser.add_argument("--seconds", type=float, default=0.8, help="of each clip, around the middle of the word")
    parser.add_argument("--output", type=Path, required=True, help="the manifest with labels")
    given = parser.parse_args()
    label(given.manifest, given.output, given.word, given.seconds)


if __name__ == "__main__":
    run(main)
