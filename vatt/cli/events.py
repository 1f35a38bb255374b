"""Printed events of files that were not read, or not as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vatt.cli.commands import printable

if TYPE_CHECKING:
    from vatt.structures import Event

SHOWN = 200  # maximum number of printed lines of each kind


def print_events(events: Sequence[Event], output: str) -> None:
    """Print the events of each kind, up to `SHOWN` lines, and their total numbers.

    Events of several clips of a file with the same reason are one line with the number of clips.

    Args:
        events: Events of `vatt.retrieval.embeddings.embed`.
        output: Directory of the embeddings, which has all events.
    """
    lines: dict[tuple[str, str, str], list[str]] = {}  # ids of the clips
    for event in events:
        lines.setdefault((event["kind"], event["path"], event["reason"]), []).append(event["id"])
    shown: Counter[str] = Counter()  # lines by kind
    left_out: Counter[str] = Counter()  # events by kind
    for (kind, path, reason), ids in lines.items():
        clips = len(set(ids))
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            print(printable(f"{kind}: {path}: {reason}{f' ({clips:,} clips)' if clips > 1 else ''}"))
        else:
            left_out[kind] += len(ids)
    for kind, count in left_out.items():
        print(f"{kind}: {count:,} more, see {output}/errors.parquet")
    counts = Counter(event["kind"] for event in events)
    if counts:
        print(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
