"""Training shards out of a manifest: small clips in WebDataset tars, and a manifest that finds each by its place.

A shard is written whole or not at all, and what came of it is noted beside it, so that a run that was killed goes on
where it was, and gives the same bytes as one that was not. Training opens a clip inside a tar by ``path`` =
``00000.tar#OFFSET+SIZE`` (see `vatt.media.sources.files`); other programs read the tars with the library webdataset.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vatt.datasets.loading.processes import Failure, Isolated
from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.datasets.rows import to_row
from vatt.datasets.table import ClipTable
from vatt.errors import InputError, VattError
from vatt.io import atomic_write
from vatt.media.sources.files import member as member_path
from vatt.media.sources.remote import is_url
from vatt.media.transcode import DISK_FULL, Encoding
from vatt.preparation.shards.folder import ShardFolder, digest, put, read_json, write_json
from vatt.preparation.shards.members import Member, SourceResult, make_members, remove
from vatt.preparation.shards.plan import Plan, Source, make_plan, member_key, shifted
from vatt.structures import Clip, Event

Make = Callable[[Source, Encoding, str], SourceResult]
AHEAD = 8  # sources of each process that may be done before the first that is not; bounds the work folder


@dataclass
class Summary:
    """What a run came to.

    Attributes:
        rows: of the new manifest.
        members: clips in the shards.
        duration_s: of all members; pictures count nothing.
        size_before, size_after: of the files and of the shards, in bytes.
        shards: how many there are.
        written: how many of them this run wrote.
        damaged: those of an earlier run that had changed or were gone, and were made again.
        left_out: rows that are not in the new manifest.
        incomplete: Rows of the new manifest whose audio or video could not be decoded.
    """

    rows: int = 0
    members: int = 0
    duration_s: float = 0.0
    size_before: int = 0
    size_after: int = 0
    shards: int = 0
    written: int = 0
    damaged: list[str] = field(default_factory=list)
    left_out: list[Event] = field(default_factory=list)
    incomplete: list[Event] = field(default_factory=list)


def prepare(
    source: str | Path,
    output: str | Path,
    encoding: Encoding,
    shard_mb: float = 512.0,
    num_workers: int | None = None,
    time_limit_s: float = 600.0,
    verify: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    make: Make = make_members,
) -> Summary:
    """Write shards, ``manifest.jsonl``, ``shards.json`` (with checksums) and ``errors.csv`` into a folder.

    Args:
        source: manifest, folder of media, or media file.
        output: the folder. What an earlier run of the same command left there is kept.
        encoding: how clips are written.
        shard_mb: see `vatt.preparation.shards.plan.make_plan`.
        num_workers: processes, one thread each; one per CPU unless given.
        time_limit_s: for one file.
        verify: compare the checksums of the shards that are there, not only their sizes.
        overwrite: remove what is in the folder, and begin anew.
        retry: make the shards again from which a file was left out that could not be read.
        make: writes the files of one source, in a worker process.

    Raises:
        ManifestError: the source cannot be used.
        InputError: an option cannot be used, the folder holds something else, or another run works in it.
        VattError: the worker processes cannot be started, or the disk is full.
        ImportError: webdataset is not installed.
    """
    _check(encoding, shard_mb, num_workers, time_limit_s)
    folder = ShardFolder(Path(output), source)
    _tar_writer()
    clips = read_manifest(source, check_files=False)
    root = Path(source) if Path(source).is_dir() else Path("." if is_url(str(source)) else source).parent
    plan = make_plan(clips, root, encoding, shard_mb)
    if not plan.shards:
        hint = f"; shards alone are checked by: vatt prepare {output} --check true" if verify else ""
        raise InputError(f"{source}: none of its files is there, the first is {clips[0].path}{hint}")
    firsts = (source.clips[0] for shard in plan.shards for source in shard)
    folder.keep_out(path for clip in firsts for path in (clip.path, clip.audio_path) if path is not None)
    try:
        with folder.locked():
            folder.claim(plan, overwrite)
            run = _Run(clips, root, folder, plan)
            run.look(verify, retry)
            run.work(encoding, num_workers, time_limit_s, make)
            return run.finish()
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise VattError(f"no space is left for {output}; the shards that are done are kept") from error


def _check(encoding: Encoding, shard_mb: float, num_workers: int | None, time_limit_s: float) -> None:
    if encoding.short_side < 2 or encoding.gop < 1 or not 0 <= encoding.crf <= 51:
        raise InputError("short_side must be at least 2, gop at least 1, crf from 0 to 51")
    if encoding.fps is not None and not encoding.fps > 0:
        raise InputError(f"fps must be positive, not {encoding.fps:g}")
    if not shard_mb > 0:
        raise InputError(f"shard_mb must be positive, not {shard_mb:g}")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"num_workers must be at least 1, not {num_workers}")
    if not time_limit_s > 0:
        raise InputError(f"time_limit_s must be positive, not {time_limit_s:g}")


class _Run:
    """One run over a plan.

    Args:
        clips: rows of the manifest.
        root: its folder.
        folder: where the shards go.
        plan: what goes where.
    """

    def __init__(self, clips: ClipTable, root: Path, folder: ShardFolder, plan: Plan) -> None:
        self.clips, self.root, self.folder, self.plan = clips, root, folder, plan
        self.done: dict[int, dict[str, Any]] = {}
        self.summary = Summary(size_before=plan.size, left_out=[*plan.left_out, *clips.skipped])

    def look(self, verify: bool, retry: bool) -> None:
        """Find out which shards are there and whole, and are not to be tried again."""
        there = [number for number in range(len(self.plan.shards)) if self.folder.note(number).is_file()]
        for number in tqdm(there, desc="checking", unit="shard", disable=None if verify else True):
            record = read_json(self.folder.note(number))
            tar = self.folder.tar(number)
            size = tar.stat().st_size if tar.is_file() else 0
            if record and retry and any(kind != "outside" for _, kind, _ in record["left_out"]):
                continue
            if record and size == record["bytes"] and (not verify or not size or digest(tar) == record["sha256"]):
                self.done[number] = record
            else:
                self.summary.damaged.append(tar.name)

    def work(self, encoding: Encoding, num_workers: int | None, time_limit_s: float, make: Make) -> None:
        """Write the shards that are missing."""
        todo = [number for number in range(len(self.plan.shards)) if number not in self.done]
        folder = self.folder.workplace()
        sources = [source for number in todo for source in self.plan.shards[number]]
        total = sum(map(len, self.plan.shards))
        workers = Isolated(
            partial(make, encoding=encoding, folder=str(folder)),
            num_workers,
            time_limit_s,
            AHEAD * (num_workers or os.cpu_count() or 1),
            _is_fatal,
        )
        with (
            closing(workers(sources)) as results,
            tqdm(total=total, initial=total - len(sources), desc="preparing", unit="file", disable=None) as bar,
        ):
            for number in todo:
                self.done[number] = self._write_shard(number, results, folder, bar)
        shutil.rmtree(folder, ignore_errors=True)
        self.summary.written = len(todo)

    def _write_shard(
        self, number: int, results: Iterator[tuple[Source, SourceResult | Failure]], folder: Path, bar: Any
    ) -> dict[str, Any]:
        tar = self.folder.tar(number)
        unfinished = tar.with_suffix(".tar.part")
        record: dict[str, Any] = {"bytes": 0, "sha256": "", "duration_s": 0.0, "members": 0}
        record |= {"rows": [], "left_out": [], "incomplete": []}
        with unfinished.open("wb") as file, _tar_writer()(file, encoder=False, mtime=0, compress=False) as writer:
            for _ in self.plan.shards[number]:
                source, result = next(results)
                bar.update()
                if isinstance(result, Failure):
                    record["left_out"] += [(row, result.kind, result.reason) for row in source.rows]
                    for row in source.rows:
                        remove(str(folder), member_key(row))
                    continue
                record["left_out"] += result.left_out
                record["incomplete"] += result.incomplete
                for member in result.members:
                    self._add(writer, member, folder)
                    record["members"] += 1
                    record["duration_s"] += member.duration_s
                    names = [f"{member.key}.{suffix}" for _, suffix in member.files]
                    record["rows"] += [(row, member.start_s, *names) for row in member.rows]
        if record["members"]:
            with tarfile.open(unfinished, "r:") as written:
                places = {info.name: (info.offset_data, info.size) for info in written}
            record["rows"] = [(row, by_s, *map(places.get, names)) for row, by_s, *names in record["rows"]]
            record["bytes"], record["sha256"] = unfinished.stat().st_size, digest(unfinished)
            self.folder.note(number).unlink(missing_ok=True)  # of the tar that is replaced
            put(unfinished, tar)
        else:
            unfinished.unlink()
            tar.unlink(missing_ok=True)
        write_json(self.folder.note(number), record)
        return record

    def _add(self, writer: Any, member: Member, folder: Path) -> None:
        """Write a member into a shard, and remove its files from the work folder."""
        rows = [self._row(row, member.start_s) for row in member.rows]
        content = rows[0] if len(rows) == 1 else {"rows": rows}
        sample = {suffix: (folder / name).read_bytes() for name, suffix in member.files}
        writer.write(sample | {"__key__": member.key, "json": json.dumps(content, ensure_ascii=False).encode()})
        for name, _ in member.files:
            (folder / name).unlink()

    def _row(self, row: int, by_s: float) -> dict[str, Any]:
        """What a shard says about a row: all but the path, which is the member beside it."""
        described = to_row(self._clip(row, by_s), self.root)
        return {name: value for name, value in described.items() if name not in ("path", "audio_path")}

    def _clip(self, row: int, by_s: float) -> Clip:
        """A row as it is after its file was cut; ``x_source`` says where it came from."""
        clip = self.clips[row]
        came_from = {"x_source": to_row(clip, self.root)["path"]}
        return shifted(replace(clip, extra=came_from | dict(clip.extra)), by_s)

    def finish(self) -> Summary:
        """Write the manifest and the lists."""
        clips: dict[int, Clip] = {}
        shards, summary = [], self.summary
        for number, record in sorted(self.done.items()):
            tar = str(self.folder.tar(number))
            for row, by_s, place, *audio_place in record["rows"]:
                audio_path = member_path(tar, *audio_place[0]) if audio_place else None
                clips[row] = replace(self._clip(row, by_s), path=member_path(tar, *place), audio_path=audio_path)
            for row, kind, reason in record["left_out"]:
                clip = self.clips[row]
                summary.left_out.append(Event(kind=kind, id=clip.id, path=clip.path, reason=reason))
            for row, reason in record["incomplete"]:
                clip = self.clips[row]
                summary.incomplete.append(Event(kind="incomplete", id=clip.id, path=clip.path, reason=reason))
            if record["members"]:
                shown = {name: record[name] for name in ("bytes", "sha256", "members", "duration_s")}
                shards.append({"name": self.folder.tar(number).name, **shown, "rows": len(record["rows"])})
        summary.rows, summary.shards = len(clips), len(shards)
        summary.members = sum(shard["members"] for shard in shards)
        summary.duration_s = sum(shard["duration_s"] for shard in shards)
        summary.size_after = sum(shard["bytes"] for shard in shards)
        with atomic_write(self.folder.path / "errors.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["kind", "id", "path", "reason"])
            writer.writeheader()
            writer.writerows([*summary.left_out, *summary.incomplete])
        write_json(self.folder.path / "shards.json", {"options": self.plan.facts["options"], "shards": shards})
        manifest = self.folder.path / "manifest.jsonl"
        if clips:
            write_manifest((clips[row] for row in sorted(clips)), manifest)
        else:
            manifest.unlink(missing_ok=True)
        return summary


def _is_fatal(error: Exception) -> bool:
    """A full disk, or a package that is missing, stops the run."""
    return isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno in DISK_FULL)


def _tar_writer() -> Any:
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise ImportError('shards are written by webdataset: pip install "vatt[shards]"') from error
    return TarWriter
