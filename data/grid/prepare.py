"""The GRID audiovisual sentence corpus (Cooke et al. 2006): its videos and word alignments to a manifest.

Usage:
    python data/grid/prepare.py s1/video s1/align --output runs/grid/clips.jsonl
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from vatt.datasets.manifest import MEDIA_SUFFIXES, hold_out, write_manifest
from vatt.structures import Clip, TimedText

UNITS_PER_S = 25_000  # of the alignment files: a thousandth of a frame at 25 fps
SILENCE = ("sil", "sp")


def read_alignment(path: Path) -> tuple[TimedText, ...]:
    """Words of an alignment file, lines of "begin end word", with times in seconds.

    Raises:
        ValueError: a line that is not of this form; the message names file and line.
    """
    words = []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        try:
            begin, end, word = line.split()
            times_s = int(begin) / UNITS_PER_S, int(end) / UNITS_PER_S
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {line!r} is not 'begin end word'") from error
        if word not in SILENCE:
            words.append(TimedText(word, *times_s))
    return tuple(words)


def prepare(videos: Path, alignments: Path, output: Path, test_fraction: float) -> None:
    """Write one row a video that has an alignment; the others are counted and named."""
    clips, without = [], []
    for path in sorted(p for p in videos.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES):
        alignment = alignments / f"{path.stem}.align"
        if not alignment.is_file():
            without.append(path.name)
            continue
        words = read_alignment(alignment)
        sentence = TimedText(" ".join(word.text for word in words))
        clips.append(Clip(id=path.stem, path=str(path.resolve()), texts=(sentence,), words=words))
    train, test = hold_out(clips, test_fraction)
    rows = [replace(clip, split="train") for clip in train] + [replace(clip, split="test") for clip in test]
    write_manifest(rows, output)
    print(f"{output}: {len(train)} clips to train on, {len(test)} to test")
    if without:
        more = ", …" if len(without) > 5 else ""
        print(f"left out, without an alignment: {len(without)} ({', '.join(without[:5])}{more})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder with the video files")
    parser.add_argument("alignments", type=Path, help="folder with the .align files")
    parser.add_argument("--output", type=Path, required=True, help="the manifest")
    parser.add_argument("--test_fraction", type=float, default=0.125, help="share of the clips kept for the test")
    given = parser.parse_args()
    prepare(given.videos, given.alignments, given.output, given.test_fraction)
