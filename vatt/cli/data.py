"""The commands about data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from vatt.cli.commands import print_lines, print_table
from vatt.cli.ranges import Count, Positive

if TYPE_CHECKING:
    from vatt.preparation.scan.report import ScanSummary

SHOWN = 20  # rows outside their files that are named


def scan(
    path: str,
    output: str,
    manifest: str | None = None,
    num_workers: Count | None = None,
    time_limit_s: Positive = 60.0,
    num_clips: Count = 3,
    keep_damaged: bool = False,
    resume: bool = False,
) -> int:
    """Look at every media file: what it is, whether it is whole, and whether it is there twice.

    All packets of a file are read and a few clips of it are decoded, in worker processes: a file that hangs or crashes
    a decoder is one row of the report. Files with the same packets of picture and sound are duplicates, also in
    different containers. A scan that is interrupted leaves what it found beside the report: resume goes on from there.

    Exit status: 0 if every file is fine (skipped ones do not count), 1 if some are not or a row lies outside its
    file, 2 for wrong input.

    Args:
        path: a folder of media, one media file, or a manifest.
        output: CSV or Parquet file that gets one row a file, once all are looked at.
        manifest: JSONL file that gets the rows that can be used, each content once; beside the
            report, with _clean.jsonl in place of .csv, unless given.
        num_workers: processes; one per CPU unless given.
        time_limit_s: seconds for one file.
        num_clips: stretches of 3.2 s that are decoded of a file; a shorter file is decoded whole.
        keep_damaged: take damaged and truncated files into the manifest.
        resume: keep the rows of an existing report, and of a scan that was interrupted, for files that
            have not changed, if num_clips is the same.
    """
    from vatt.datasets.folders import summarize
    from vatt.preparation.scan.scanning import scan as run

    summary, cleaned = run(path, output, manifest, num_workers, time_limit_s, num_clips, keep_damaged, resume)
    print_scan(summary)
    print_lines(summarize(path))
    for facts in summary.unusable:
        print(f"{facts.status}: {facts.path}: {facts.reason}")
    if more := summary.statuses - Counter(facts.status for facts in summary.unusable) - Counter(ok=summary.files):
        print(f"… and {more.total()} more: {counts(more)}")
    for said in cleaned.outside[:SHOWN]:
        print(f"outside: {said}")
    if len(cleaned.outside) > SHOWN:
        print(f"… and {len(cleaned.outside) - SHOWN} more rows that begin after the end of their file")
    if cleaned.past_end:
        print(f"rows that end after their file does, and are kept: {cleaned.past_end}")
    if cleaned.mixed_splits:
        print(f"duplicates in another split than the row that is kept: {cleaned.mixed_splits}")
    print(f"report: {output} ({summary.files} files)")
    rows = len(cleaned.clips) + cleaned.left_out.total()
    left_out = f"; left out: {counts(cleaned.left_out)}" if cleaned.left_out else ""
    print(f"manifest: {cleaned.path or 'none'} ({len(cleaned.clips)} of {rows} rows{left_out})")
    if cleaned.stale:
        print(f"not this scan's, and left as it was: {cleaned.stale}")
    return 0 if summary.files == summary.statuses["ok"] and not cleaned.outside else 1


def print_scan(summary: ScanSummary) -> None:
    """The counts of a scan."""
    others = summary.statuses - Counter(ok=summary.files)
    kinds = [
        (f"{kind} {name}", number)
        for kind, counter in zip(("video", "audio"), summary.codecs, strict=True)
        for name, number in counter.most_common()
    ]
    rows = [
        ("ok", summary.statuses["ok"]),
        *others.most_common(),
        *summary.kinds.most_common(),
        *kinds,
        ("silent", summary.silent),
        ("audio outside [-1, 1]", summary.clipped),
        ("audio channels that cancel", summary.cancelled),
        ("several audio tracks", summary.several_audio),
        ("silent audio tracks skipped", summary.silent_skipped),
        ("tracks that cannot be decoded", summary.undecodable),
        ("variable frame rate", summary.variable_fps),
        ("non-square pixels", summary.non_square),
        ("picture and sound begin > 25 ms apart", summary.offset),
        ("duplicates by content", summary.duplicates),
    ]
    print_table(f"{summary.files} files, {summary.duration_s / 3600:.2f} hours", ("", "files"), rows)


def counts(counter: Counter[str]) -> str:
    """The most frequent first: ``3 mp4, 1 ogg``."""
    return ", ".join(f"{number} {name}" for name, number in counter.most_common())
