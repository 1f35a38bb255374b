"""Clips per second and memory of every decoder, beside the plain PyAV loop of `benchmarks/media.py`.

Usage:
    python benchmarks/decode.py            # makes its files in runs/benchmarks; GRID is taken where it is there

A clip is 32 frames at 10 fps, 224 x 224, and 3.2 s of mono sound at 48 kHz, from a random start of a file that is
opened for it. One thread. Each reader runs in a process of its own, and they take turns.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

if __name__ == "__main__":  # as a script its own folder is on the path, not the one above
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.media import FPS, NUM_FRAMES, RATE, SECONDS, SIZE, bare_clip, file_sets, start_of

ROUNDS, CLIPS = 5, 12
PEER = "plain PyAV loop"
Reader = Callable[[str, float], object]


def ours(decoder: str) -> Reader:
    from vatt.media.decoding import open_media
    from vatt.media.frames import Square

    def read(path: str, start_s: float) -> object:
        with open_media(path, decoder) as media:
            frames = media.frames([start_s + i / FPS for i in range(NUM_FRAMES)], Square(SIZE))
            return frames, media.waveform(start_s, SECONDS, RATE)

    return read


def decord_alone() -> Reader:
    import decord

    def read(path: str, start_s: float) -> object:
        reader = decord.VideoReader(path, num_threads=1)
        fps = reader.get_avg_fps()
        index = [min(int((start_s + i / FPS) * fps), len(reader) - 1) for i in range(NUM_FRAMES)]
        frames = reader.get_batch(index).asnumpy()
        sound = decord.AudioReader(path, sample_rate=RATE, mono=True)
        return frames, sound[int(start_s * RATE) : int((start_s + SECONDS) * RATE)].asnumpy()

    return read


READERS: dict[str, Callable[[], Reader]] = {
    PEER: lambda: bare_clip,
    "vatt, pyav (auto)": lambda: ours("pyav"),
    "vatt, decord": lambda: ours("decord"),
    "vatt, torchcodec": lambda: ours("torchcodec"),
    "decord alone": decord_alone,
}


def measure(name: str, paths: list[str], seed: int) -> dict[str, float]:
    """Clips per second of one reader, and the peak of its memory in MB."""
    torch.set_num_threads(1)
    draws = random.Random(seed)
    chosen = [(path, start_of(path, draws.random())) for path in draws.choices(paths, k=CLIPS)]
    read = READERS[name]()
    read(*chosen[0])  # imports, and fills the file cache
    began = time.perf_counter()
    for path, start_s in chosen:
        read(path, start_s)
    taken_s = time.perf_counter() - began
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"clips_per_s": CLIPS / taken_s, "mb": int(peak.split()[1]) / 1024}


def main() -> None:
    """Print a table for each set of files."""
    for set_name, paths in file_sets().items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in READERS}
        for turn in range(ROUNDS):
            for name in READERS:
                command = [sys.executable, __file__, name, str(turn), json.dumps(paths)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"{name}: {done.stderr.strip().splitlines()[-1][:100]}", file=sys.stderr)
                else:
                    found[name].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"\n{set_name} (median of {ROUNDS} rounds of {CLIPS} clips, one thread)\n")
        print(f"| reader | clips/s | of the {PEER} | MB |\n|---|---|---|---|")
        peer = statistics.median(row["clips_per_s"] for row in found[PEER])
        for name, rows in found.items():
            if rows:
                speed = statistics.median(row["clips_per_s"] for row in rows)
                print(f"| {name} | {speed:.1f} | {speed / peer:.2f} x | {max(row['mb'] for row in rows):.0f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[3]), int(sys.argv[2]))))
    else:
        main()
