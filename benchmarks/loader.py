"""Clips per second of the whole training loader, beside bare decoding loops on as many processes; memory over time.

Usage:
    python benchmarks/loader.py            # makes its files in runs/benchmarks; GRID is taken where it is there
    python benchmarks/loader.py memory     # 5,000 opens in one process

The loader decodes at random starts, crops, mirrors and draws colours as the paper does, and collates, with 2 workers.
The bare loops decode the middle of the picture and put nothing together, in 2 processes: one in plain PyAV
(`benchmarks/media.py`), the other with this package's decoder, which shows what the loader adds to it. Colours are
changed, and pixels become float, after the batch is on the device; what that costs on this CPU is a column of its own.
"""

from __future__ import annotations

import ctypes
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.media import FOLDER, FPS, NUM_FRAMES, RATE, SECONDS, SIZE, bare_clip, file_sets, start_of
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.loading.batches import finish
from vatt.datasets.manifest import write_manifest
from vatt.datasets.transforms import PAPER
from vatt.media.decoding import open_media
from vatt.media.frames import Square
from vatt.structures import Clip, ClipFormat

WORKERS, ROUNDS, BATCH = 2, 3, 8
OPENS = 5000


def bare(kind: str, paths: list[str], clips: int, seed: int) -> float:
    """Clips per second of ``WORKERS`` processes that decode and throw away."""
    command = [sys.executable, __file__, kind, json.dumps(paths), str(clips // WORKERS)]
    processes = [
        subprocess.Popen([*command, str(seed + i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(WORKERS)
    ]
    for process in processes:
        process.stdout.readline()  # it has imported everything
    began = time.perf_counter()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.stdout.readline()
    taken_s = time.perf_counter() - began
    for process in processes:
        process.communicate()
    return clips / taken_s


def our_clip(path: str, start_s: float) -> object:
    """The same by this package's decoder."""
    with open_media(path) as media:
        frames = media.frames([start_s + i / FPS for i in range(NUM_FRAMES)], Square(SIZE))
        return frames, media.waveform(start_s, SECONDS, RATE)


BARE = {"plain": bare_clip, "ours": our_clip}


def bare_process(kind: str, paths: list[str], clips: int, seed: int) -> None:
    torch.set_num_threads(1)
    read = BARE[kind]
    draws = random.Random(seed)
    chosen = [(path, start_of(path, draws.random())) for path in draws.choices(paths, k=clips)]
    read(*chosen[0])
    print("ready", flush=True)
    sys.stdin.readline()
    for path, start_s in chosen:
        read(path, start_s)
    print("done", flush=True)


def loader(paths: list[str], clips: int, seed: int, finished: bool) -> float:
    """Clips per second of the training loader once its workers run."""
    manifest = FOLDER / "manifest.jsonl"
    repeated = paths * -(-4 * BATCH // len(paths))
    rows = [Clip(id=f"{i}", path=str(Path(path).resolve())) for i, path in enumerate(repeated)]
    write_manifest(rows, manifest)
    data = ClipDataModule(
        str(manifest), ClipFormat(), batch_size=BATCH, augment=PAPER, val_fraction=0.0, num_workers=WORKERS, seed=seed
    )
    steps = clips // BATCH
    warm = 2 * WORKERS  # batches that workers have ready before the clock starts, and as many that nobody waits for
    data.trainer = SimpleNamespace(
        max_steps=steps + 2 * warm,
        accumulate_grad_batches=1,
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    began = 0.0
    for step, batch in enumerate(data.train_dataloader()):
        if finished:
            finish(batch)
        if step == warm - 1:
            began = time.perf_counter()
        if step == warm - 1 + steps:
            return steps * BATCH / (time.perf_counter() - began)
    raise AssertionError("the loader ended early")


def compare() -> None:
    torch.set_num_threads(1)
    print("| files | plain loops, clips/s | our decoder's | the loader | of plain | of our decoder's |", end="")
    print(" with colours and float on this CPU | of plain |\n|---|---|---|---|---|---|---|---|")
    for name, paths in file_sets().items():
        clips = 96 if "GRID" in name else 64
        found: dict[str, list[float]] = {"plain": [], "ours": [], "loader": [], "finished": []}
        for turn in range(ROUNDS):
            for kind in BARE:
                found[kind].append(bare(kind, paths, clips, 10 * turn))
            for kind in ("loader", "finished"):
                found[kind].append(loader(paths, clips, turn, finished=kind == "finished"))
        plain, ours, whole, finished = (statistics.median(speeds) for speeds in found.values())
        print(f"| {name} | {plain:.1f} | {ours:.1f} | {whole:.1f} | {whole / plain:.2f} x | ", end="")
        print(f"{whole / ours:.2f} x | {finished:.1f} | {finished / plain:.2f} x |", flush=True)
    print(f"\nMedians of {ROUNDS} rounds that take turns; {WORKERS} workers, batches of {BATCH}.")


def memory() -> None:
    """Resident memory over many opened files, of all sets in turn; and what of it is in use.

    The C library keeps what was freed, in pieces, for the next time; asked to give it back, it leaves what is in use.
    """
    give_back = ctypes.CDLL("libc.so.6").malloc_trim
    torch.set_num_threads(1)
    reader = ClipReader(ClipFormat())
    sets = list(file_sets().values())
    draws = random.Random(0)
    print("| files opened | resident MB | of them in use | peak MB |\n|---|---|---|---|")
    for count in range(1, OPENS + 1):
        paths = sets[0] if count % 25 else sets[draws.randrange(len(sets))]
        path = draws.choice(paths)
        clip = Clip(id=path, path=path)
        with ExitStack() as stack:
            reader.read(clip, reader.open(clip, stack), start_of(path, draws.random()))
        if count in (1, 10, 100) or count % 500 == 0:
            before = _resident_mb()
            give_back(0)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"| {count:,} | {before:.0f} | {_resident_mb():.0f} | {peak:.0f} |", flush=True)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    if len(sys.argv) > 2:
        bare_process(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["memory"]:
        memory()
    else:
        compare()
