"""The command that makes training shards."""

from __future__ import annotations

from pathlib import Path

from vatt.cli.commands import print_lines
from vatt.cli.ranges import Count, CountOrZero, Positive
from vatt.errors import InputError

SHOWN = 20  # rows left out that are named


def prepare(
    path: str,
    output: str | None = None,
    short_side: Count = 256,
    gop: Count = 16,
    crf: CountOrZero = 23,
    fps: Positive | None = None,
    shard_mb: Positive = 512.0,
    num_workers: Count | None = None,
    time_limit_s: Positive = 600.0,
    verify: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    check: bool = False,
) -> int:
    """Make training shards: every clip small and quick to open, many clips in a file.

    Videos become H.264 with their sound, upright, at the times they had; pictures and sounds are kept as they are. The
    shards are WebDataset tars, and manifest.jsonl beside them is what to train on: it finds every clip by its place,
    also behind a URL. Rows that share a file share its clip; if they need less than half of it, their spans are cut
    out, and their times and those of their texts move along (column x_source says where a row came from).

    The same command again goes on where it was stopped, and makes again what was damaged.

    Exit status: 0 if every row is in a shard, 1 if some were left out (errors.csv says why) or --check has found
    damage, 2 for wrong input.

    Args:
        path: a manifest, a folder of media, or one media file; for --check a folder of shards.
        output: folder that gets the shards (00000.tar, …), manifest.jsonl, shards.json with checksums, and errors.csv.
        short_side: pixels of the shorter side; smaller videos are not enlarged.
        gop: frames from one key frame to the next, at most. Reading that begins anywhere has to decode from the key
            frame before: it costs at most so many frames more than are wanted. Fewer make the files larger.
        crf: quality of H.264, from 0 (lossless) to 51.
        fps: drop frames of videos that have more per second than this; all are kept unless given.
        shard_mb: files that go into one shard, in MB, spans counted as 0.1 MB/s. What comes out is usually less. One
            clip at a time is held in memory.
        num_workers: processes; one per CPU unless given.
        time_limit_s: seconds for one file; films need more.
        verify: compare the checksums of the shards that are there already.
        overwrite: begin anew; replaces shards of other options, of another manifest, or of files that have changed.
        retry: make the shards again from which a file was left out that could not be read, took too long or crashed
            a decoder: the reason may have passed.
        check: write nothing, and compare shards with their checksums. Neither the manifest nor the media are needed.
    """
    from vatt.datasets.folders import summarize
    from vatt.media.transcode import Encoding
    from vatt.preparation.shards.folder import check as find_damage
    from vatt.preparation.shards.writing import prepare as run

    if check:
        number, problems = find_damage(Path(output or path))
        for name, problem in problems.items():
            print(f"{name}: {problem}")
        print(f"shards: {output or path} ({number}, {number - len(problems)} of them whole)")
        return 1 if problems else 0
    if output is None:
        raise InputError("--output is missing: the folder that gets the shards")

    encoding = Encoding(short_side=short_side, gop=gop, crf=crf, fps=fps)
    done = run(path, output, encoding, shard_mb, num_workers, time_limit_s, verify, overwrite, retry)
    events = [*done.left_out, *done.incomplete]
    for event in events[:SHOWN]:
        print(f"{event['kind']}: {event['id']}: {event['path']}: {event['reason']}")
    if len(events) > SHOWN:
        print(f"… and {len(events) - SHOWN} more: {Path(output) / 'errors.csv'}")
    print_lines(summarize(path))
    if done.damaged:
        print(f"changed or gone, made again: {', '.join(done.damaged)}")
    sizes = f"{done.size_before / 1e9:.3g} GB before, {done.size_after / 1e9:.3g} GB after"
    print(f"shards: {output} ({done.shards}, {done.written} of them new; {sizes})")
    print(f"clips: {done.members}, {done.duration_s / 3600:.2f} hours")
    total = done.rows + len(done.left_out)
    where = Path(output) / "manifest.jsonl" if done.rows else "none"
    print(f"manifest: {where} ({done.rows} of {total} rows, {len(done.left_out)} left out"
          f"{f', {len(done.incomplete)} with undecodable audio or video' * bool(done.incomplete)})")  # fmt: skip
    return 1 if done.left_out else 0
