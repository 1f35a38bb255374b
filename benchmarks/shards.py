"""Clips per second from files, from tars by the place of each clip, from WebDataset's own pipeline, and from litdata.

The same clips (copies of one) lie in each form. Every way reads all of them once a round in shuffled order, opens each,
and decodes frames and waveform of one window of it. The ways take turns in one process. "cold" empties the system's
file cache of the clips before each round. WebDataset and litdata give bytes, which are decoded from memory (through
fsspec, which was found to be as fast as from a file in /dev/shm).

    python benchmarks/shards.py --clips 300 --long_clips 24 --rounds 5
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fsspec
import torch

if __name__ == "__main__":  # as a script its own folder is on the path, not the one above
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.media import make_video
from vatt.datasets.readers import AudioReader, VideoReader
from vatt.media.reader import Media
from vatt.media.sources.files import member
from vatt.media.transcode import Encoding, transcode
from vatt.structures import ClipFormat

SHARD_BYTES = 64_000_000
Order = Callable[[int], Iterator[str | bytes]]  # seed to paths or contents


@dataclass
class Way:
    """A form that the clips are kept in, their shuffled order, and how long it took to write."""

    name: str
    order: Order
    folder: Path
    write_s: float = 0.0


def draw(path: Path, seconds: int) -> bytes:
    """A clip as `vatt prepare` writes it."""
    make_video(path.with_suffix(".mkv"), 640, 480, seconds)
    transcode(str(path.with_suffix(".mkv")), path, Encoding())
    return path.read_bytes()


def write_tars(clips: list[bytes], folder: Path) -> tuple[list[str], list[str]]:
    """The tars, and the path of every clip in them."""
    from webdataset import ShardWriter

    with ShardWriter(f"{folder}/%05d.tar", maxsize=SHARD_BYTES, verbose=0, encoder=False, mtime=0) as writer:
        for number, clip in enumerate(clips):
            writer.write({"__key__": f"{number:06d}", "mp4": clip, "json": b"{}"})
    tars, places = sorted(map(str, folder.glob("*.tar"))), []
    for path in tars:
        with tarfile.open(path, "r:") as tar:
            places += [member(path, info.offset_data, info.size) for info in tar if info.name.endswith(".mp4")]
    return tars, places


def webdataset_order(tars: list[str], buffer: int, seed: int) -> Iterator[bytes]:
    import webdataset

    random.seed(seed)
    shards = webdataset.WebDataset(tars, shardshuffle=100, seed=seed)
    return (sample["mp4"] for sample in shards.shuffle(buffer, initial=buffer))


def litdata_order(folder: Path, seed: int) -> Iterator[bytes]:
    import litdata

    return (sample["mp4"] for sample in litdata.StreamingDataset(str(folder), shuffle=True, seed=seed))


def as_sample(path: str) -> dict[str, bytes]:
    return {"mp4": Path(path).read_bytes()}


def make_ways(clips: list[bytes], folder: Path, buffer: int) -> list[Way]:
    """Write the clips in every form whose library is installed."""
    ways = []

    def add(name: str, place: str, write: Callable[[Path], Order]) -> None:
        began, target = time.perf_counter(), folder / place
        target.mkdir()
        try:
            ways.append(Way(name, write(target), target))
            ways[-1].write_s = time.perf_counter() - began
        except ImportError as error:
            print(f"left out: {name} ({error.name} is not installed)")

    def in_files(target: Path) -> Order:
        paths = [str(target / f"{number:06d}.mp4") for number in range(len(clips))]
        for path, clip in zip(paths, clips, strict=True):
            Path(path).write_bytes(clip)
        return lambda seed: iter(random.Random(seed).sample(paths, len(paths)))

    def in_tars(target: Path) -> Order:
        places = write_tars(clips, target)[1]
        return lambda seed: iter(random.Random(seed).sample(places, len(places)))

    def in_pipeline(target: Path) -> Order:
        return partial(webdataset_order, write_tars(clips, target)[0], buffer)

    def in_chunks(target: Path) -> Order:
        from litdata import optimize

        files = sorted(map(str, (folder / "files").iterdir()))
        optimize(as_sample, files, output_dir=str(target), chunk_bytes=SHARD_BYTES, num_workers=1, verbose=False)
        return partial(litdata_order, target)

    add("files", "files", in_files)
    add("tars, by place", "tars", in_tars)
    add(f"webdataset, buffer {buffer}", "wds", in_pipeline)
    add("litdata", "litdata", in_chunks)
    return ways


def forget(folder: Path) -> None:
    """Have the system drop the files of a folder from its cache."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(way: Way, seed: int, format: ClipFormat, expected: int) -> float:
    """Clips per second."""
    video, audio, rng = VideoReader(format), AudioReader(format), random.Random(seed)
    memory, done, began = fsspec.filesystem("memory"), 0, time.perf_counter()
    for clip in way.order(seed):
        if isinstance(clip, bytes):
            memory.pipe("/clip.mp4", clip)
        with Media(clip if isinstance(clip, str) else "memory://clip.mp4", 60.0) as media:
            start_s = rng.random() * max(0.0, media.info.duration_s - format.window_s)
            video(media, start_s)
            audio(media, start_s)
        done += 1
    assert done == expected, f"{way.name}: {done} of {expected} clips"
    return done / (time.perf_counter() - began)


def compare(title: str, count: int, seconds: int, given: argparse.Namespace) -> None:
    """Print the rows of one set of clips."""
    format = ClipFormat(num_frames=given.num_frames, size=given.size)
    with tempfile.TemporaryDirectory() as folder:
        ways = make_ways([draw(Path(folder) / "clip.mp4", seconds)] * count, Path(folder), max(2, count // 4))
        speeds: dict[tuple[str, bool], list[float]] = {}
        for seed in range(given.rounds + 1):
            for cold in (False, True):
                for way in random.Random(seed).sample(ways, len(ways)):
                    if cold:
                        forget(way.folder)
                    speed = read_all(way, seed, format, count)
                    if seed:  # the first round warms up
                        speeds.setdefault((way.name, cold), []).append(speed)
        for way in ways:
            cells = []
            for cold in (False, True):
                found, files = speeds[way.name, cold], speeds["files", cold]
                ratio = statistics.median(a / b for a, b in zip(found, files, strict=True))
                cells.append(f"{statistics.median(found):.1f} ({min(found):.1f}-{max(found):.1f}) | {ratio:.2f}")
            size = sum(path.stat().st_size for path in filter(Path.is_file, way.folder.rglob("*"))) / 1e6
            print(f"| {title} | {way.name} | {' | '.join(cells)} | {size:.1f} | {way.write_s:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300, help="of 10 s")
    parser.add_argument("--long_clips", type=int, default=24, help="of 120 s")
    for name, default in {"rounds": 5, "num_frames": 32, "size": 224}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    print("| clips | way | warm: clips/s (range) | of files | cold: clips/s (range) | of files | MB | s to write |")
    print("|---" * 8 + "|", flush=True)
    compare("short", given.clips, 10, given)
    compare("long", given.long_clips, 120, given)


if __name__ == "__main__":
    main()
