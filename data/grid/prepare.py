"""Convert the videos and word alignments of the GRID corpus (Cooke et al. 2006).

Ids are the names of the videos. If a name comes twice, as it does with several speakers, all ids are paths below the
folder of the videos, and a video s1/… takes the alignment of s1: of the same folder, or of s1 or s1/align.

Usage:
    vatt manifest grid s1/video s1/align --output runs/grid/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vatt.datasets.manifest import hold_out
from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import read_lines
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip, TimedText

UNITS_PER_S = 25_000  # of the alignment files: a thousandth of a frame at 25 fps
SILENCE = ("sil", "sp")


def read_alignment(path: Path) -> tuple[TimedText, ...]:
    """Words of an alignment file, lines of "begin end word", with times in seconds.

    Raises:
        InputError: a line that is not of this form, or a word that ends before it begins.
    """
    words = []
    for place, line in read_lines(path):
        begin, end, word = cells if len(cells := line.split()) == 3 else ("", "", "")
        if not (begin.isdecimal() and end.isdecimal() and int(begin) <= int(end)):
            raise InputError(f"{place}: {line!r} is not 'begin end word'")
        if word not in SILENCE:
            words.append(TimedText(word, int(begin) / UNITS_PER_S, int(end) / UNITS_PER_S))
    return tuple(words)


def name_videos(videos: Files) -> Iterator[tuple[str, str, list[str]]]:
    """File and id of each video, and what its alignment may be called.

    Raises:
        InputError: two videos of one folder would have the same id.
    """
    stems = [PurePosixPath(path).stem for path in videos.paths]
    several, used = len(set(stems)) < len(stems), dict[str, str]()
    for path, stem in zip(videos.paths, stems, strict=True):
        name = PurePosixPath(path).with_suffix("").as_posix() if several else stem
        if used.setdefault(name, path) != path:
            raise InputError(f"{used[name]} and {path} in {videos.folder} have the same name: leave one of them there")
        speaker = path.split("/")[0]
        yield path, name, [name, f"{speaker}/{stem}", f"{speaker}/align/{stem}"] if several else [stem]


def read(videos: Files, alignments: Files, notes: Notes) -> Iterator[Clip]:
    """One clip a video that has an alignment; the others are counted."""
    for path, name, wanted in name_videos(videos):
        alignment = next(filter(None, map(alignments.find, wanted)), None)
        if alignment is None:
            notes.add("Videos left out, without an alignment", path)
            continue
        words = read_alignment(alignment)
        if not words:
            notes.add("Alignments without a word", str(alignment))
        sentence = (TimedText(" ".join(word.text for word in words)),) if words else ()
        yield Clip(id=name, path=str(videos.folder / path), texts=sentence, words=words)


def main() -> None:
    parser = make_parser(__doc__, None, "folder with the video files")
    parser.add_argument("alignments", type=Path, help="folder with the .align files")
    parser.add_argument("--test_fraction", type=float, default=0.125, help="share of the clips kept for the test")
    given = parser.parse_args()
    if not 0 <= given.test_fraction <= 1:
        raise InputError(f"--test_fraction {given.test_fraction:g}: a share from 0 to 1 is wanted")
    notes, videos = Notes(), Files(given.media)
    alignments = Files(given.alignments, frozenset((".align",)), "alignment", anywhere=False)
    parts = zip(("train", "test"), hold_out(list(read(videos, alignments, notes)), given.test_fraction), strict=True)
    rows = (Wanted(replace(clip, split=split)) for split, part in parts for clip in part)
    write(rows, videos, given.output, notes)


if __name__ == "__main__":
    run(main)
