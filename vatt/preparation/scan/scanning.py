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
from typing import NamedTuple

from tqdm import tqdm

from vatt.datasets.loading.processes import Failure, Isolated
from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.errors import InputError
from vatt.media.sources.files import state
from vatt.media.sources.remote import is_url
from vatt.preparation.scan.file import FileFacts, scan_file
from vatt.preparation.scan.report import ReportWriter, ScanSummary, known_rows
from vatt.structures import Clip

SLACK_S = 0.1  # a row may end this much after its file
IN_FLIGHT = 1000  # files handed to the workers ahead of the first that is not done; bounds the memory
TRY_AGAIN = ("missing", "timeout", "crashed")  # what a resumed scan does not take from the report before it
SAME_S = 0.2  # the same streams in another container may be this much longer: the priming of AAC is counted there
SAME_FPS = 0.05  # and their rate may differ by this share: Matroska rounds times to milliseconds
Probe = Callable[[str, int, float], FileFacts]


class Found(NamedTuple):
    """What the rows of a manifest need to know about a file."""

    status: str
    duration_s: float
    fps: float
    original: str  # path of the first file with the same content


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
        stale: the manifest that lies where one would have been written if any row could be used: not this scan's.
    """

    clips: list[Clip] = field(default_factory=list)
    path: Path | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    outside: list[str] = field(default_factory=list)
    past_end: int = 0
    mixed_splits: int = 0
    stale: Path | None = None


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
    `vatt.media.inspection`), and which are as long and as fast: copies, and the same streams in another container.

    Args:
        source: folder, media file, or manifest, which may be behind a URL.
        output: CSV or Parquet file that gets a row a file (`FileFacts`), in the order of the manifest.
        manifest: JSONL file that gets the usable rows; without it ``<output>_clean.jsonl`` beside the report.
        num_workers: processes, one thread each; one per CPU unless given.
        time_limit_s: for one file.
        num_clips: stretches of 3.2 s that are decoded of each file.
        keep_damaged: damaged and truncated files are usable.
        resume: take the rows of an existing report, and of a scan that was interrupted, for files of the same size and
            time of change, if as many clips of them were decoded.
        probe: looks at one file, in a worker process.

    Returns:
        The counts, and what came of the rows.

    Raises:
        ManifestError: the source cannot be used.
        InputError: an option cannot be used.
        VattError: the worker processes cannot be started.
    """
    if is_url(str(output)) or is_url(str(manifest)):
        raise InputError("the report and the cleaned manifest must be local files")
    output = Path(output)
    cleaned_path = Path(manifest) if manifest else output.with_name(f"{output.stem}_clean.jsonl")
    _check(source, output, cleaned_path, num_workers, time_limit_s, num_clips)
    clips = read_manifest(source, check_files=False)
    for written in (output, cleaned_path):  # now, not after hours
        _check_writable(written)
    paths = list(dict.fromkeys(path for clip in clips for path in (clip.path, clip.audio_path) if path is not None))
    known = {facts.path: facts for facts in known_rows(output)} if resume else {}
    look = partial(probe, num_clips=num_clips, time_limit_s=time_limit_s)
    workers = Isolated(look, num_workers, time_limit_s, IN_FLIGHT)
    summary = ScanSummary()
    found: dict[str, Found] = {}
    same_hash: dict[str, tuple[str, ...]] = {}  # paths of different contents
    with (
        ReportWriter(output, resume) as report,
        tqdm(total=len(paths), desc="scanning", unit="file", disable=None) as bar,
    ):
        for path, facts, is_known in _probe_all(paths, known, workers, num_clips):
            found[path] = _compare(path, facts, found, same_hash)
            original = found[path].original
            facts.duplicate_of = original if _place(original) != _place(path) else ""
            report.add(facts, is_known)
            summary.add(facts)
            bar.update()
        for event in clips.skipped:
            facts = FileFacts(event["path"], status=event["kind"], reason=event["reason"], num_clips=num_clips)
            report.add(facts, False)
            summary.add(facts)
    cleaned = _clean(clips, found, {"ok", "damaged", "truncated"} if keep_damaged else {"ok"})
    cleaned.left_out.update(event["kind"] for event in clips.skipped)
    if cleaned.clips:
        write_manifest(cleaned.clips, cleaned_path)
        cleaned.path = cleaned_path
    elif cleaned_path.exists():
        cleaned.stale = cleaned_path
    return summary, cleaned


def _check(
    source: str | Path, output: Path, manifest: Path, num_workers: int | None, time_limit_s: float, num_clips: int
) -> None:
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"the report must end in .csv or .parquet, not {output.name!r}")
    if manifest.suffix.lower() != ".jsonl":
        raise InputError(f"the cleaned manifest must end in .jsonl, not {manifest.name!r}")
    for written in (output, manifest):
        if not is_url(str(source)) and written.resolve() == Path(source).resolve():
            raise InputError(f"{written} is what is to be scanned: write somewhere else")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"num_workers must be at least 1, not {num_workers}")
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s must be positive, not {time_limit_s:g}")
    if num_clips < 1:
        raise InputError(f"num_clips must be at least 1, not {num_clips}")


def _check_writable(path: Path) -> None:
    """Try to write a file, and leave everything as it is but for the folder, which is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _probe_all(
    paths: Sequence[str], known: dict[str, FileFacts], workers: Isolated[str, FileFacts], num_clips: int
) -> Iterator[tuple[str, FileFacts, bool]]:
    """The facts of every file, in order, and whether they come from an earlier scan."""
    ready = {path: facts for path in paths if (facts := _unchanged(path, known, num_clips))}
    new = [path for path in paths if path not in ready]
    with closing(workers(new)) as results:
        for path in paths:
            is_known = path in ready
            facts = ready.pop(path, None) or next(results)[1]
            if isinstance(facts, Failure):
                facts = FileFacts(path, status=facts.kind, reason=facts.reason)
            facts.num_clips = num_clips
            yield path, facts, is_known


def _unchanged(path: str, known: dict[str, FileFacts], num_clips: int) -> FileFacts | None:
    """The row of an earlier scan, if the file is still the same, and as many clips of it were decoded."""
    facts = known.pop(path, None)
    if facts is None or facts.status in TRY_AGAIN or facts.num_clips != num_clips:
        return None
    try:
        return facts if state(path) == (facts.size, facts.modified_ns) else None
    except OSError:
        return None


def _compare(path: str, facts: FileFacts, found: dict[str, Found], same_hash: dict[str, tuple[str, ...]]) -> Found:
    """Look for the same content among the files before. What is shown of the same packets, and how fast, may differ."""
    new = Found(facts.status, facts.duration_s or 0.0, facts.fps or 0.0, path)
    if not facts.content_hash:
        return new
    before = same_hash.get(facts.content_hash, ())
    for other in before:
        old = found[other]
        is_as_fast = abs(old.fps - new.fps) <= SAME_FPS * max(old.fps, new.fps)
        if is_as_fast and abs(old.duration_s - new.duration_s) <= SAME_S:
            return new._replace(original=other)
    same_hash[facts.content_hash] = (*before, path)
    return new


def _place(path: str) -> str:
    """A path, however it is spelled. Links stay as they are: what they lead to is another copy."""
    return path if is_url(path) else os.path.abspath(path)


def _clean(clips: Sequence[Clip], found: dict[str, Found], usable: set[str]) -> Cleaned:
    """The rows whose files can be used; of rows with the same content in different files, those of the first."""
    cleaned = Cleaned()
    kept: dict[tuple[str, ...], tuple[list[str], str | None]] = {}  # places and split of the first row
    for clip in clips:
        files = [path for path in (clip.path, clip.audio_path) if path is not None]
        bad = next((found[path].status for path in files if found[path].status not in usable), None)
        if bad is not None:
            cleaned.left_out[bad] += 1
            continue
        end_s = max(found[path].duration_s for path in files)
        if clip.start_s and clip.start_s >= end_s:
            cleaned.left_out["outside"] += 1
            cleaned.outside.append(f"{clip.id}: begins at {clip.start_s:g} s, {clip.path} ends at {end_s:g} s")
            continue
        places = [_place(path) for path in files]
        first, split = kept.setdefault(tuple(found[path].original for path in files), (places, clip.split))
        if first != places:
            cleaned.left_out["duplicate"] += 1
            cleaned.mixed_splits += split != clip.split
            continue
        cleaned.past_end += clip.end_s is not None and clip.end_s > end_s + SLACK_S
        cleaned.clips.append(clip)
    return cleaned
