"""Steps of pretraining on a GPU, on synthetic clips: clips a second, memory, and the share of the GPU that is used.

Usage:
    python benchmarks/gpu_step.py                                    # MBS and LBS, then the largest batches
    python benchmarks/gpu_step.py --sizes mbs --batches 64 128 --compile --output mbs.md
    python benchmarks/gpu_step.py --device cpu --tiny                # smoke test

The paper's models and clips (32 frames of 224 x 224, 153,600 samples, 5 texts of 16 words), DropToken 0.5, bf16,
fused AdamW, gradients clipped to a norm of 1. FLOPs are those of the model: a forward pass, and a backward pass with
twice as many. Recomputed activations do not count. They are compared with the rate of large matrix products measured in
the same run, and with the datasheet if it is known.

Rows are written as they are measured. No row is started after --minutes, or if it would probably take longer than the
remaining time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from lightning.fabric.utilities.throughput import get_available_flops

from benchmarks.timing import random_clips, synchronise
from vatt.cli.training import build_pretraining
from vatt.models.flops import count_flops, without_weights
from vatt.structures import ClipFormat
from vatt.training.compute import Compute, prepare
from vatt.training.optim import Optimization, clip_gradients, make_optimizer
from vatt.training.pretrain import PretrainModule

ROOT = Path(__file__).parents[1]
DROP = {"video": 0.5, "audio": 0.5}
HEADER = """| model | clips | micro-batch | activations made again | s a step | clips/s | GiB | TFLOP/s | of measured |
|---|---|---|---|---|---|---|---|---|"""


@dataclass
class Bench:
    """Measurement of training steps on a device.

    Args:
        device: "cuda", or "cpu" for a smoke test.
        deadline: Time of `time.monotonic` after which no row is started.
        matrix: Rows and columns of the matrices that are multiplied.
        warm: Number of warm-up steps.
        steps: Number of measured steps.
        file: File that also gets the rows, or None.
    """

    device: str
    deadline: float
    matrix: int = 8192
    warm: int = 3
    steps: int = 6
    file: IO[str] | None = None
    rate: float = field(init=False)
    longest_s: float = 0.0

    def __post_init__(self) -> None:
        self.rate = self.matrix_rate()

    def matrix_rate(self) -> float:
        """Return the median FLOP/s of 20 measurements of large products of bf16 matrices."""
        a, b = (torch.randn(self.matrix, self.matrix, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        times = []
        for number in range(25):
            synchronise()
            began = time.perf_counter()
            for _ in range(10):
                a @ b
            synchronise()
            if number >= 5:
                times.append((time.perf_counter() - began) / 10)
        return 2 * self.matrix**3 / statistics.median(times)

    def write(self, line: str) -> None:
        """Print a line, and write it to the file, without buffering."""
        print(line, flush=True)
        if self.file is not None:
            self.file.write(line + "\n")
            self.file.flush()

    def module_of(self, size: str, compute: Compute, micro_batch: int | None) -> tuple[PretrainModule, ClipFormat]:
        """Return the model of a configuration on the device, and its clip format."""
        options = [f"--data.manifest={ROOT}/none.csv", "--data.vocabulary=null", "--trainer.logger=false"]
        options += ["--trainer.devices=1", "--trainer.strategy=auto"]
        options += [] if micro_batch is None else [f"--model.objective.micro_batch={micro_batch}"]
        cli = build_pretraining(["--config", str(ROOT / f"configs/pretrain_{size}.yaml"), *options])
        module = cli.model.to(self.device).train()
        prepare(module, compute)
        return module, cli.datamodule.format

    def row(self, size: str, clips: int, compute: Compute, micro_batch: int | None) -> bool:
        """Measure a row of the table and write it. Return False if time or memory did not suffice."""
        began = time.monotonic()
        if began + 1.5 * self.longest_s > self.deadline:
            return False
        again = "yes" if compute.activation_checkpointing else "no"
        named = f"| {size.upper()} | {clips:,} | {micro_batch or '–'} | {again}"
        try:
            cells, fits = self.measure(size, clips, compute, micro_batch), True
        except torch.OutOfMemoryError:
            cells, fits = "out of memory | | | | |", False
        if self.device == "cuda":
            torch.cuda.empty_cache()
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.write(f"{named} | {cells}")
        return fits

    def measure(self, size: str, clips: int, compute: Compute, micro_batch: int | None) -> str:
        """Return the numbers of a row."""
        module, format = self.module_of(size, compute, micro_batch)
        module.objective.draws = torch.Generator().manual_seed(0)
        optimizer, _ = make_optimizer(module, Optimization(warmup_steps=1), 100)
        counted = count_flops(without_weights(module.backbone), format, DROP)
        flops = 3 * sum(part.all * (format.num_texts if part.modality == "text" else 1) for part in counted)
        batch = random_clips(format, clips, self.device)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = []
        for number in range(self.warm + self.steps):
            synchronise()
            began = time.perf_counter()
            with torch.autocast(self.device, torch.bfloat16):
                loss = module.objective(module.backbone, batch)["loss"]
            loss.backward()
            clip_gradients(module.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            synchronise()
            if number >= self.warm:
                times.append(time.perf_counter() - began)
            if number > self.warm and time.monotonic() > self.deadline:
                break
        taken = statistics.median(times)
        used = flops * clips / taken
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        return f"{taken:.3f} | {clips / taken:.0f} | {memory:.1f} | {used / 1e12:.0f} | {used / self.rate:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["mbs", "lbs"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument(
        "--large", nargs="*", type=int, default=[512, 2048], help="batch sizes with micro-batches of 32"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small model and few clips")
    parser.add_argument("--minutes", type=float, default=8.0, help="time after which no row is started")
    parser.add_argument("--output", type=Path, help="file that also gets the rows")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU; --device cpu --tiny runs a smoke test")
    if given.tiny:
        given.sizes, given.batches, given.large = ["small"], [2], [2]
    file = given.output.open("w", encoding="utf-8") if given.output else None
    sizes = {"matrix": 256, "warm": 1, "steps": 1} if given.tiny else {}
    bench = Bench(given.device, deadline, file=file, **sizes)
    sheet = get_available_flops(torch.device("cuda"), torch.bfloat16) if given.device == "cuda" else None
    known = "" if sheet is None else f", {sheet / 1e12:.0f} by its datasheet"
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    bench.write(f"{name}, torch {torch.__version__}: {bench.rate / 1e12:.3g} TFLOP/s measured{known}\n\n{HEADER}")
    micro_batch = 1 if given.tiny else 32
    for size in given.sizes:
        for again in (False, True):
            for clips in given.batches:
                if not bench.row(size, clips, Compute(given.compile, again), None):
                    break
        for clips in given.large:
            bench.row(size, clips, Compute(given.compile), micro_batch)
    if file is not None:
        file.close()


if __name__ == "__main__":
    main()
