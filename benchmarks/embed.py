"""What ``vatt embed`` adds to decoding and the model's forward pass, and its memory over thousands of clips.

Usage:
    python benchmarks/embed.py              # throughput; makes its clips in runs/benchmarks
    python benchmarks/embed.py soak         # 5,000 clips, memory of all processes

Throughput is of the synthetic clips (2 s, 96 x 96, two windows each) through a new model of `configs/demo.yaml`: so
small that reading, putting together and writing are most of it. "bare" is a loop over the same windows, read by the
same decoder in as many workers, and the forward pass: no Lightning, rows, texts or files. "plain PyAV" is what a
user would write: a file is opened for each window, frames and sound are decoded, and the model is called.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.media import FOLDER, bare_clip
from vatt.cli.training import build_pretraining
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.datasets.transforms import to_float
from vatt.datasets.windows import ShardedWindows, Windows
from vatt.models.encoding import encode_windows
from vatt.models.vatt import VATT
from vatt.preparation.synthetic import Plan, synthesize
from vatt.retrieval.embeddings import embed
from vatt.structures import Clip, ClipFormat

ROOT = Path(__file__).parents[1]
WORKERS, BATCH, CLIPS, ROUNDS = 2, 32, 480, 3
SOAK, SHARD = 5_000, 250


def corpus() -> Sequence[Clip]:
    """Synthetic clips, without captions."""
    manifest = synthesize(FOLDER / "shapes", Plan(clips_per_combination=1, num_test=0, num_val=0, num_train=CLIPS))
    return [replace(clip, texts=()) for clip in read_manifest(manifest)]


def new_model(folder: Path) -> VATT:
    """As large as that of the demonstration, with random weights, saved."""
    given = ["--config", str(ROOT / "configs/demo.yaml"), "--data.manifest", "none", "--data.vocabulary", "null"]
    cli = build_pretraining(given)
    cli.model.export(cli.datamodule.format).save_pretrained(folder)
    return VATT.from_pretrained(folder)


class Plain(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of files by a plain PyAV loop."""

    def __init__(self, windows: Sequence[tuple[str, float]], format: ClipFormat) -> None:
        self.windows, self.format = windows, format

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        spec = self.format
        return bare_clip(*self.windows[number], spec.num_frames, spec.fps, spec.size, spec.size, spec.sample_rate)


@torch.inference_mode()
def plain(model: VATT, clips: Sequence[Clip]) -> None:
    """What a user would write."""
    starts = (0.0, 2.0 - model.format.duration_s)
    data = Plain([(clip.path, start_s) for clip in clips for start_s in starts], model.format)
    for video, audio in DataLoader(data, BATCH, num_workers=WORKERS):
        model(video=to_float(video), audio=audio)


@torch.inference_mode()
def bare(model: VATT, clips: Sequence[Clip]) -> None:
    """Decode and forward."""
    read = Windows(ClipReader(model.format), model.format.duration_s)
    stream = ShardedWindows(clips, read, [0], len(clips), BATCH)
    for part in DataLoader(stream, batch_size=None, num_workers=WORKERS):
        if part["batch"] is not None:
            encode_windows(model, part["batch"])


def compare() -> None:
    """Take turns, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        model, clips, manifest = new_model(Path(folder, "model")), corpus(), Path(folder, "clips.jsonl")
        write_manifest(clips, manifest)
        ways: dict[str, Callable[[int], object]] = {
            "plain PyAV": lambda turn: plain(model, clips),
            "bare": lambda turn: bare(model, clips),
            "vatt embed": lambda turn: embed(
                manifest, model, Path(folder, f"{turn}"), batch_size=BATCH, num_workers=WORKERS
            ),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS):
            for name, run in ways.items():
                began = time.perf_counter()
                run(turn)
                taken[name].append(time.perf_counter() - began)
    speeds = {name: len(clips) / statistics.median(seconds) for name, seconds in taken.items()}
    print(f"\n| {len(clips)} clips | clips/s | vatt embed's of it |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.1f} | {speeds['vatt embed'] / speed:.0%} |")
    print(f"\nMedians of {ROUNDS} rounds that take turns, {WORKERS} workers, batches of {BATCH}, from start to end.")


def memory_of(process: int) -> dict[int, int]:
    """Megabytes of a process and of those that it started: what is theirs, and their share of what is shared."""
    found, left = {}, [process]
    while left:
        pid = left.pop()
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found[pid] = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024
            left += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (OSError, StopIteration):  # it has just ended
            continue
    return found


def soak() -> None:
    """Memory of ``vatt embed`` by the clips that it has done."""
    with tempfile.TemporaryDirectory() as folder:
        new_model(Path(folder, "model"))
        clips, output = corpus(), Path(folder, "embeddings")
        rows = [replace(clips[i % len(clips)], id=str(i)) for i in range(SOAK)]
        write_manifest(rows, Path(folder, "clips.jsonl"))
        command = [sys.executable, "-m", "vatt", "embed", f"{folder}/clips.jsonl", "--model", f"{folder}/model"]
        command += ["--output", str(output), "--shard_clips", str(SHARD), "--num_workers", str(WORKERS)]
        began, done, most = time.perf_counter(), -1, 0
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
            print("| clips | seconds | first process, MB | workers, MB | all |\n|---|---|---|---|---|")
            while running.poll() is None:
                time.sleep(0.5)
                there = len(list((output / "embeddings.parquet").glob("*.parquet")))
                found = memory_of(running.pid)
                first, rest = found.pop(running.pid, 0), sorted(found.values())
                most = max(most, first + sum(rest))
                if there > done and there % 2 == 0 and rest:
                    done, seconds = there, time.perf_counter() - began
                    print(f"| {there * SHARD} | {seconds:.0f} | {first} | {rest} | {first + sum(rest)} |", flush=True)
        print(f"\nstatus {running.returncode}, at most {most} MB, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    soak() if sys.argv[1:] == ["soak"] else compare()
