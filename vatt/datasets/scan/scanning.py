"""Every file of a manifest, opened in worker processes: a report with a row a file, and a manifest of the usable rows.

A worker that hangs or crashes is one row of the report, not the end of the scan.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.datasets.media.source import state
from vatt.datasets.processes import Failure, Isolated
from vatt.datasets.scan.file import FileFacts, scan_file
from vatt.datasets.scan.report import ReportWriter, ScanSummary, read_report
from vatt.errors import InputError
from vatt.structures import Clip

SLACK_S = 0.1  # a row may end this much after its file
IN_FLIGHT = 1000  # files handed to the workers ahead of the first that is not done; bounds the memory
TRY_AGAIN = ("missing", "timeout", "crashed")  # what a resumed scan does not take from the report before it
Probe = Callable[[str, int, float], FileFacts]


@dataclass
class Cleaned:
    """What came of the rows of a manifest.

    Attributes:
        clips: the rows that can be used.
        path: where they are written; None if there is none.
        left_out: how many were left out, by reason: the status of their file, "outside" or "duplicate".
        outside: rows that begin after the end of their file, in words.
        past_end: rows that are kept, though they end after their file does.
        mixed_splits: duplicates that are in another split than the row that is kept.
    """

    clips: list[Clip] = field(default_factory=list)
    path: Path | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    outside: list[str] = field(default_factory=list)
    past_end: int = 0
    mixed_splits: int = 0


def scan(
    source: str | Path,
    output: str | Path,
    manifest: str | Path | None = None,
    num_workers: int | None = None,
    time_limit_s: float = 60.0,
    num_clips: int = 3,
    keep_damaged: bool = False,
    resume: bool = False,
    probe: Probe = scan_file,
) -> tuple[ScanSummary, Cleaned]:
    """Look at every file, and write a report and a manifest of what can be used.

    Duplicates by content are files whose packets of picture and sound are the same (see
    `vatt.datasets.media.probe`): copies, and the same streams in another container.

    Args:
        source: folder, media file, or manifest.
        output: CSV or Parquet file that gets a row a file (`FileFacts`), in the order of the manifest.
        manifest: JSONL file that gets the usable rows; without it ``<output>_clean.jsonl`` beside the report.
        num_workers: processes, one thread each; one per CPU unless given.
        time_limit_s: for one file.
        num_clips: stretches of 3.2 s that are decoded of each file.
        keep_damaged: damaged and truncated files are usable.
        resume: take the rows of an existing report for files of the same size and time of change.
        probe: looks at one file, in a worker process.

    Returns:
        The counts, and what came of the rows.

    Raises:
        ManifestError: the source cannot be used.
        InputError: an option cannot be used.
        VattError: the worker processes cannot be started.
    """
    source, output = Path(source), Path(output)
    cleaned_path = Path(manifest) if manifest else output.with_name(f"{output.stem}_clean.jsonl")
    _check(source, output, cleaned_path, num_workers, time_limit_s, num_clips)
    clips = read_manifest(source, check_files=False)
    paths = list(dict.fromkeys(path for clip in clips for path in (clip.path, clip.audio_path) if path is not None))
    known = {facts.path: facts for facts in read_report(output)} if resume and output.exists() else {}
    look = partial(probe, num_clips=num_clips, time_limit_s=time_limit_s)
    workers = Isolated(look, num_workers, time_limit_s, IN_FLIGHT)
    summary = ScanSummary()
    found: dict[str, tuple[str, float, str]] = {}  # status, duration, and the first file with the same content
    first: dict[str, str] = {}
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        ReportWriter(output) as report,
        tqdm(total=len(paths), desc="scanning", unit="file", disable=None) as bar,
    ):
        for path, facts in _probe_all(paths, known, workers):
            same = first.setdefault(facts.content_hash, path) if facts.content_hash else path
            facts.duplicate_of = same if same != path else ""
            found[path] = facts.status, facts.duration_s or 0.0, same
            report.add(facts)
            summary.add(facts)
            bar.update()
    cleaned = _clean(clips, found, {"ok", "damaged", "truncated"} if keep_damaged else {"ok"})
    if cleaned.clips:
        write_manifest(cleaned.clips, cleaned_path)
        cleaned.path = cleaned_path
    else:
        cleaned_path.unlink(missing_ok=True)  # one of an earlier scan would be taken for this one's
    return summary, cleaned


def _check(
    source: Path, output: Path, manifest: Path, num_workers: int | None, time_limit_s: float, num_clips: int
) -> None:
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"the report must end in .csv or .parquet, not {output.name!r}")
    if manifest.suffix.lower() != ".jsonl":
        raise InputError(f"the cleaned manifest must end in .jsonl, not {manifest.name!r}")
    for written in (output, manifest):
        if written.resolve() == source.resolve():
            raise InputError(f"{written} is what is to be scanned: write somewhere else")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"num_workers must be at least 1, not {num_workers}")
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s must be positive, not {time_limit_s:g}")
    if num_clips < 1:
        raise InputError(f"num_clips must be at least 1, not {num_clips}")


def _probe_all(
    paths: Sequence[str], known: dict[str, FileFacts], workers: Isolated[str, FileFacts]
) -> Iterator[tuple[str, FileFacts]]:
    """The facts of every file, in order."""
    ready = {path: facts for path in paths if (facts := _unchanged(path, known) or _unnamed(path))}
    with closing(workers(path for path in paths if path not in ready)) as results:
        for path in paths:
            facts = ready.get(path) or next(results)[1]
            if isinstance(facts, Failure):
                facts = FileFacts(path, status=facts.kind, reason=facts.reason)
            yield path, facts


def _unchanged(path: str, known: dict[str, FileFacts]) -> FileFacts | None:
    """The row of an earlier scan, if the file is still the same."""
    facts = known.pop(path, None)
    if facts is None or facts.status in TRY_AGAIN:
        return None
    try:
        return facts if state(path) == (facts.size, facts.modified_ns) else None
    except OSError:
        return None


def _unnamed(path: str) -> FileFacts | None:
    """A file whose name cannot be written into a report or a manifest."""
    try:
        path.encode()
    except UnicodeEncodeError:
        name = os.fsencode(path).decode(errors="backslashreplace")
        return FileFacts(name, status="unreadable", reason="its name is not UTF-8: rename it")
    return None


def _clean(clips: Sequence[Clip], found: dict[str, tuple[str, float, str]], usable: set[str]) -> Cleaned:
    """The rows whose files can be used; of rows with the same content in different files, those of the first."""
    cleaned = Cleaned()
    kept: dict[tuple[str, ...], Clip] = {}
    for clip in clips:
        files = [path for path in (clip.path, clip.audio_path) if path is not None]
        bad = next((found[path][0] for path in files if found[path][0] not in usable), None)
        if bad is not None:
            cleaned.left_out[bad] += 1
            continue
        end_s = max(found[path][1] for path in files)
        if clip.start_s and clip.start_s >= end_s:
            cleaned.left_out["outside"] += 1
            cleaned.outside.append(f"{clip.id}: begins at {clip.start_s:g} s, {clip.path} ends at {end_s:g} s")
            continue
        original = kept.setdefault(tuple(found[path][2] for path in files), clip)
        if (original.path, original.audio_path) != (clip.path, clip.audio_path):
            cleaned.left_out["duplicate"] += 1
            cleaned.mixed_splits += original.split != clip.split
            continue
        cleaned.past_end += clip.end_s is not None and clip.end_s > end_s + SLACK_S
        cleaned.clips.append(clip)
    return cleaned
