"""Which rows of a manifest go into which shard, and which stretches of a file are kept: decided before work begins.

**One file, many rows.** Rows that share a file stay together in one shard. As a rule the file is there once, whole: its
rows keep their times and point to the same bytes, so that 50 captioned segments of a video cost no more than one, and
overlapping ones nothing at all. Only where all spans together cover less than half of the file (`WORTH_CUTTING`) they
are cut out: spans that overlap into one piece, which its rows share, the others into pieces of their own.

**Times of a piece.** Second 0 of a piece is where its first row begins, or where the first of that row's texts or words
begins, if that is earlier. All times of a row, its own and those of its texts and words, are moved back by this one
number: see `shifted`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from vatt.datasets.rows import to_row
from vatt.errors import InputError
from vatt.media.sources.files import state
from vatt.media.transcode import Encoding
from vatt.structures import Clip, Event, TimedText

WORTH_CUTTING = 0.5  # of a file: spans that are less are cut out
BYTES_PER_S = 100_000  # of what comes out at a short side of 256 pixels, roughly; the shards need not be equally large


@dataclass(frozen=True)
class Source:
    """A file, or a picture with its sound in another file, and all rows that take something from it.

    Args:
        rows: numbers of the rows in the manifest.
        clips: the rows.
        size: of the files, in bytes.
    """

    rows: tuple[int, ...]
    clips: tuple[Clip, ...]
    size: int


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        shards: the sources of each shard.
        left_out: rows without a file.
        facts: what another run must have in common to continue this one.
        size: of all files, in bytes.
    """

    shards: list[list[Source]] = field(default_factory=list)
    left_out: list[Event] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    size: int = 0


def member_key(row: int) -> str:
    """What the members of a shard are called that begin with this row."""
    return f"{row:08d}"


def make_plan(clips: Sequence[Clip], root: Path, encoding: Encoding, shard_mb: float) -> Plan:
    """Assign every row to a shard, in the order of the manifest.

    Args:
        clips: rows of a manifest.
        root: its folder.
        encoding: see `vatt.media.transcode`.
        shard_mb: the sources of a shard have at most so many MB (10^6 bytes), unless one alone has more; of rows with
            an end at most 0.1 MB per second are counted.

    Raises:
        InputError: a row holds something that cannot be written as JSON.
    """
    plan, groups = Plan(), {}
    for row, clip in enumerate(clips):
        groups.setdefault((clip.path, clip.audio_path), []).append(row)
    states: dict[str, tuple[int, int]] = {}
    filled, files = math.inf, sha256()
    for rows in groups.values():
        chosen = tuple(clips[row] for row in rows)
        try:
            found = [_state(path, states) for path in (chosen[0].path, chosen[0].audio_path) if path is not None]
        except OSError as error:
            reason = error.strerror or str(error)
            plan.left_out += [Event(kind="missing", id=clip.id, path=clip.path, reason=reason) for clip in chosen]
            continue
        size = sum(size for size, _ in found)
        expected = min(size, BYTES_PER_S * (encoding.short_side / 256) ** 2 * _seconds(chosen))
        if filled + expected > shard_mb * 1e6:
            plan.shards.append([])
            filled = 0.0
        filled += expected
        plan.shards[-1].append(Source(tuple(rows), chosen, size))
        files.update(repr((len(plan.shards), len(rows), found)).encode())
    plan.size = sum(size for size, _ in states.values())
    digest = sha256()
    for clip in clips:
        try:
            digest.update(json.dumps(to_row(clip, root), sort_keys=True).encode())
        except TypeError as error:  # dates, decimals, … out of a Parquet file
            raise InputError(f"row {clip.id!r}: {error}, which the new manifest is written in") from None
    plan.facts = {
        "options": asdict(encoding) | {"shard_mb": shard_mb},
        "manifest": digest.hexdigest(),
        "files": files.hexdigest(),
    }
    return plan


def _state(path: str, states: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if path not in states:
        states[path] = state(path)
    return states[path]


def _seconds(clips: Sequence[Clip]) -> float:
    """Of all spans together."""
    return sum(end_s - begin_s for begin_s, end_s, _ in _union(range(len(clips)), clips, math.inf))


Piece = tuple[float, float, list[int]]  # from, to (seconds on the file's clock), rows


def pieces(rows: Sequence[int], clips: Sequence[Clip], duration_s: float) -> list[Piece]:
    """What is kept of a file: see the head of this module. The end of the file is written as infinite.

    Args:
        rows: numbers of the rows.
        clips: the rows.
        duration_s: of the file; 0 for a picture.
    """
    union = _union(rows, clips, duration_s)
    if not duration_s or sum(end_s - begin_s for begin_s, end_s, _ in union) >= WORTH_CUTTING * duration_s:
        return [(0.0, math.inf, list(rows))]
    cut = [(begin_s, end_s if end_s < duration_s else math.inf, sorted(inside)) for begin_s, end_s, inside in union]
    return sorted(cut, key=lambda piece: piece[2][0])


def _union(rows: Sequence[int], clips: Sequence[Clip], duration_s: float) -> list[Piece]:
    union: list[Piece] = []
    spans = [
        (_begin_s(clip), min(duration_s, clip.end_s or math.inf), row) for row, clip in zip(rows, clips, strict=True)
    ]
    for begin_s, end_s, row in sorted(spans):
        if union and begin_s <= union[-1][1]:
            union[-1] = union[-1][0], max(end_s, union[-1][1]), [*union[-1][2], row]
        else:
            union.append((begin_s, end_s, [row]))
    return union


def _begin_s(clip: Clip) -> float:
    """Where a row begins, or the first of its texts and words: a manifest has no times below 0."""
    return min([clip.start_s, *(text.start_s for text in (*clip.texts, *clip.words) if text.start_s is not None)])


def shifted(clip: Clip, by_s: float) -> Clip:
    """A row with all its times moved back by so many seconds, to the microsecond."""
    if not by_s:
        return clip

    def earlier(at_s: float | None) -> float | None:
        return None if at_s is None else round(at_s - by_s, 6)

    def moved(texts: tuple[TimedText, ...]) -> tuple[TimedText, ...]:
        return tuple(TimedText(text.text, earlier(text.start_s), earlier(text.end_s)) for text in texts)

    return replace(
        clip,
        start_s=earlier(clip.start_s),
        end_s=earlier(clip.end_s),
        texts=moved(clip.texts),
        words=moved(clip.words),
    )
