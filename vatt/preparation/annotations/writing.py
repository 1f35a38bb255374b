"""Rows that want a file to a manifest and a report, and what every script has in common on the command line."""

from __future__ import annotations

import csv
import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vatt.datasets.manifest import write_manifest
from vatt.datasets.manifests.values import replace_surrogates
from vatt.datasets.rows import segment_id
from vatt.errors import InputError, VattError
from vatt.io import atomic_write
from vatt.preparation.annotations.finding import Files
from vatt.structures import Clip, TimedText


class Notes:
    """Counts of what was left out or is worth knowing, each with the first place where it came up."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, where: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def sentences(self) -> list[str]:
        return [f"{what}: {count} (first: {self.first[what]})." for what, count in self.counts.items()]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row whose file is not known yet.

    Args:
        clip: the row. Its ``path`` is empty, or known already.
        names: what its file may be called, tried in this order (see `Files.find`). The span holds in these.
        cuts: the same for files that hold the clip and nothing else; they are tried first and the span is dropped.
    """

    clip: Clip
    names: Sequence[str] = ()
    cuts: Sequence[str] = ()


def span_id(name: str, start_s: float, end_s: float | None) -> str:
    """The id of a stretch of a file, as a manifest without ids would have it."""
    return segment_id(name, start_s, end_s)


@dataclass
class _Tally:
    """What went through `_find_all`."""

    rows: int = 0
    texts: int = 0
    spans: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    labels: set[str] = field(default_factory=set)
    missing: list[tuple[str, str]] = field(default_factory=list)


def write(rows: Iterable[Wanted], media: Files, output: Path, notes: Notes) -> None:
    """Find the rows' files, write those that have one as a manifest, and say in a paragraph what came of it.

    Rows without a file are listed in ``<output's stem>.missing.csv``. Of rows with the same id the first is written.
    An error leaves the files of an earlier run as they were.

    Raises:
        InputError: no row, or none that has a file, or the output is not called ``.jsonl``.
    """
    if output.suffix != ".jsonl":
        raise InputError(f"--output {output}: the manifest is JSONL; call it {output.with_suffix('.jsonl').name}")
    tally, missing = _Tally(), output.with_suffix(".missing.csv")
    write_manifest(_at_least_one(_find_all(rows, media, tally, notes), media, tally, notes), output)
    with atomic_write(missing, "w", newline="", errors="backslashreplace") as file:
        csv.writer(file).writerows([("id", "looked_for"), *tally.missing])
    print(" ".join([*_summary(output, missing, media, tally), *notes.sentences()]))


def _at_least_one(clips: Iterable[Clip], media: Files, tally: _Tally, notes: Notes) -> Iterator[Clip]:
    """Yield the clips, and raise an error at the end if there were none.

    Raises:
        InputError: There are no clips; the message says why.
    """
    yield from clips
    if not tally.rows:
        raise InputError(" ".join([_nothing(media, tally), *notes.sentences()]))


def _find_all(rows: Iterable[Wanted], media: Files, tally: _Tally, notes: Notes) -> Iterator[Clip]:
    seen: dict[str, int] = {}
    taken: set[int] = set()
    for row in rows:
        clip = _without_surrogates(row.clip, notes)
        content = hash((clip.start_s, clip.end_s, clip.texts, clip.labels, clip.split))
        if clip.id in seen:
            same = seen[clip.id] == content
            notes.add("Rows left out as repeated" if same else "Rows left out for an earlier one of their id", clip.id)
            continue
        seen[clip.id] = content
        if not clip.path:
            cut = next(filter(None, map(media.find, row.cuts)), None)
            path = cut or next(filter(None, map(media.find, row.names)), None)
            if path is None:
                tally.missing.append((clip.id, " or ".join([*row.cuts[:1], *row.names[:1]])))
                continue
            clip = replace(clip, path=str(path))
            if cut:
                clip = replace(clip, start_s=0.0, end_s=None)
                if hash(clip.path) in taken:
                    notes.add("Rows whose file, taken whole as a cut, is that of an earlier row too", clip.id)
                taken.add(hash(clip.path))
            tally.spans += bool(row.cuts and not cut)
        tally.rows += 1
        tally.texts += len(clip.texts)
        tally.splits[clip.split or "none"] += 1
        tally.labels.update(clip.labels)
        yield clip


def _without_surrogates(clip: Clip, notes: Notes) -> Clip:
    """Return a clip with U+FFFD in place of lone surrogates, which UTF-8 cannot encode, except in paths."""

    def clean(texts: tuple[TimedText, ...]) -> tuple[TimedText, ...]:
        return tuple(replace(text, text=replace_surrogates(text.text)) for text in texts)

    values = {name: replace_surrogates(getattr(clip, name)) for name in ("id", "split", "extra")}
    labels = tuple(map(replace_surrogates, clip.labels))
    result = replace(clip, texts=clean(clip.texts), words=clean(clip.words), labels=labels, **values)
    if result != clip:
        notes.add("Rows with U+FFFD in place of invalid Unicode", result.id)
    return result


def _nothing(media: Files, tally: _Tally) -> str:
    if not tally.missing:
        return "the annotations hold no row that can be used."
    row, name = tally.missing[0]
    return (
        f"none of {len(tally.missing)} rows has its file below {media.folder}: looked for {name} (row {row}) with "
        f"any suffix; what is there are {len(media.paths)} files such as {media.paths[0]!r}."
    )


def _summary(output: Path, missing: Path, media: Files, tally: _Tally) -> list[str]:
    splits = ", ".join(f"{split} {count}" for split, count in tally.splits.items())
    splits = "no split" if set(tally.splits) == {"none"} else splits
    said = [f"{output}: {tally.rows} rows ({splits}), {len(tally.labels)} labels, {tally.texts} texts."]
    where = f", listed in {missing}" if tally.missing else ""
    said.append(f"Missing media: {len(tally.missing)} of {tally.rows + len(tally.missing)} rows{where}.")
    if tally.spans:
        said.append(f"Spans of files named by the id alone: {tally.spans}; if they are cut already, give --cuts.")
    if media.several:
        name, found = next(iter(media.several.items()))
        said.append(f"Names that fit several files: {len(media.several)} ({name!r} took {found[0]}, not {found[1]}).")
    if media.elsewhere:
        name, path = next(iter(media.elsewhere.items()))
        said.append(
            f"Files found in another folder than the one named: {len(media.elsewhere)} (first: {name!r} took {path})."
        )
    if media.misnamed:
        said.append(f"Files left out whose names are not UTF-8: {len(media.misnamed)} (first: {media.misnamed[0]!r}).")
    return said


def make_parser(about: str, annotations: str | None, media: str = "folder with the media files") -> ArgumentParser:
    """The arguments every script has; ``annotations`` says what these files are, None that there are none."""
    parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    if annotations:
        parser.add_argument("annotations", type=Path, nargs="+", help=annotations)
    parser.add_argument("media", type=Path, help=media)
    parser.add_argument("--output", type=Path, required=True, help="the manifest, a .jsonl file")
    return parser


def run(main: Callable[[], None]) -> None:
    """Run a script: what a user can mend is said in one line, with exit status 2. VATT_TRACE=1 shows where."""
    try:
        main()
    except (VattError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as e:
        if os.environ.get("VATT_TRACE"):
            raise
        said = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2) from None
