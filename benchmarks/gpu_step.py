"""Steps of pretraining on a GPU, on synthetic clips: clips a second, memory, and the share of the GPU that is used.

Usage:
    python benchmarks/gpu_step.py                                    # MBS and LBS, then the largest batches
    python benchmarks/gpu_step.py --sizes mbs --batches 64 128 --compile

The paper's models and clips (32 frames of 224 x 224, 153,600 samples, 5 texts of 16 words), DropToken 0.5, bf16,
AdamW. Operations are the model's: a forward pass and a backward pass of twice as many, whatever is computed a second
time. They are set against the rate of large matrix products measured in the same run, and against the datasheet where
it is known.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from lightning.fabric.utilities.throughput import get_available_flops

from benchmarks.timing import random_clips
from vatt.cli.training import build_pretraining
from vatt.models.flops import count_flops, without_weights
from vatt.structures import ClipFormat
from vatt.training.compute import Compute, prepare
from vatt.training.optim import Optimization, make_optimizer
from vatt.training.pretrain import PretrainModule

ROOT = Path(__file__).parents[1]
DEVICE = "cuda"
STEPS, WARM = 6, 3
DROP = {"video": 0.5, "audio": 0.5}


def matrix_rate() -> float:
    """Operations a second of large products of bf16 matrices, the median of 20."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for number in range(25):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        if number >= 5:
            times.append((time.perf_counter() - began) / 10)
    return 2 * 8192**3 / statistics.median(times)


def module_of(size: str, compute: Compute, micro_batch: int | None) -> tuple[PretrainModule, ClipFormat]:
    """The model of a configuration, on the GPU."""
    options = [f"--data.manifest={ROOT}/none.csv", "--data.vocabulary=null", "--trainer.logger=false"]
    options += [] if micro_batch is None else [f"--model.objective.micro_batch={micro_batch}"]
    cli = build_pretraining(["--config", str(ROOT / f"configs/pretrain_{size}.yaml"), *options])
    module = cli.model.to(DEVICE).train()
    prepare(module, compute)
    return module, cli.datamodule.format


def measure(size: str, clips: int, compute: Compute, micro_batch: int | None, rate: float) -> str:
    """A row of the table; that memory did not suffice is a row as well."""
    named = (
        f"| {size.upper()} | {clips:,} | {micro_batch or '–'} | {'yes' if compute.activation_checkpointing else 'no'}"
    )
    module = batch = optimizer = None
    try:
        module, format = module_of(size, compute, micro_batch)
        optimizer, _ = make_optimizer(module, Optimization(warmup_steps=1), 100)
        counted = count_flops(without_weights(module.backbone), format, DROP)
        flops = 3 * sum(part.all * (format.num_texts if part.modality == "text" else 1) for part in counted)
        batch = random_clips(format, clips, DEVICE)
        torch.cuda.reset_peak_memory_stats()
        times = []
        for number in range(WARM + STEPS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            with torch.autocast(DEVICE, torch.bfloat16):
                loss = module.objective(module.backbone, batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            if number >= WARM:
                times.append(time.perf_counter() - began)
        taken = statistics.median(times)
        used = flops * clips / taken
        memory = torch.cuda.max_memory_allocated() / 2**30
        return f"{named} | {taken:.3f} | {clips / taken:.0f} | {memory:.1f} | {used / 1e12:.0f} | {used / rate:.0%} |"
    except torch.OutOfMemoryError:
        return f"{named} | out of memory | | | | |"
    finally:
        del module, batch, optimizer
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["mbs", "lbs"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    rate, sheet = matrix_rate(), get_available_flops(torch.device(DEVICE), torch.bfloat16)
    known = "" if sheet is None else f", {sheet / 1e12:.0f} by its datasheet"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {rate / 1e12:.0f} TFLOP/s measured{known}\n")
    print("| model | clips | micro-batch | activations made again | s a step | clips/s | GiB | TFLOP/s | of measured |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in given.sizes:
        for again in (False, True):
            for clips in given.batches:
                row = measure(size, clips, Compute(given.compile, again), None, rate)
                print(row, flush=True)
                if "out of memory" in row:
                    break
        for clips in (512, 2048):
            print(measure(size, clips, Compute(given.compile), 32, rate), flush=True)


if __name__ == "__main__":
    main()
