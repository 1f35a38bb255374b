"""A model of the time of a pretraining step against the number of GPUs; prints docs/cost_model.md.

Usage:
    python benchmarks/scaling.py > docs/cost_model.md

No cluster was measured. What goes in is listed with where it comes from; change a number below and run it again for
other machines.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.flops import PARTS, from_file
from vatt.models.flops import count_flops
from vatt.models.heads import HierarchicalProjection
from vatt.structures import ClipFormat

VIDEO_AUDIO, VIDEO_TEXT = 512, 256  # configs/objective/contrastive_vatt.yaml
DROP = {"video": 0.5, "audio": 0.5}
HEAD = (
    "GPUs", "clips each", "clips", "backbone", "gather", "heads, loss", "all-reduce (of it hidden)", "optimizer",
    "data", "**step**", "clips/s", "efficiency",
)  # fmt: skip
PREFIXES = ((1e12, "T"), (1e9, "G"), (1, ""))
PAPER_CLIPS, PAPER_STEPS = 2048, 500_000


@dataclass(frozen=True)
class Given:
    """A number that goes in, and where it comes from."""

    value: float
    unit: str
    what: str
    source: str


GIVEN = {
    "half": Given(989e12, "FLOP/s", "matrix products in bf16, one H100 or H200", "data sheet"),
    "half_share": Given(0.40, "", "utilization by the backbone", "assumed"),
    "single": Given(67e12, "FLOP/s", "matrix products in float32 (heads, similarities)", "data sheet"),
    "single_share": Given(0.5, "", "their utilization", "assumed"),
    "memory": Given(3.35e12, "bytes/s", "memory of the GPU (H100; H200: 4.8e12)", "data sheet"),
    "memory_share": Given(0.7, "", "its utilization by the optimizer", "assumed"),
    "inside": Given(450e9, "bytes/s", "NVLink, each way, per GPU, 8 GPUs a machine", "data sheet"),
    "between": Given(400e9, "bytes/s", "between machines, each way: 8 adapters of 400 Gbit/s", "data sheet"),
    "net_share": Given(0.7, "", "utilization of both by collectives", "assumed"),
    "latency": Given(20e-6, "s", "latency of a collective, per doubling of the processes", "assumed"),
    "fixed": Given(0.02, "", "overhead: Lightning, logs, health, launches", "assumed"),
    "cores": Given(14, "", "CPU cores per GPU (DGX H100: 112 for 8)", "data sheet"),
    "decoded": Given(27, "clips/s", "reading per core, of clips that `vatt prepare` wrote", "measured"),
}


@dataclass(frozen=True)
class Size:
    """What a model costs per clip and per step, counted on it without weights."""

    flops: float  # of a forward pass of the backbone, with what DropToken leaves
    head_flops: float
    features: int  # numbers per clip that are gathered
    weights: int

    @classmethod
    def of(cls, name: str) -> Size:
        backbone, format = from_file(PARTS / f"{name}.yaml"), ClipFormat()
        rows = {"video": 1, "audio": 1, "text": format.num_texts}
        widths = {modality: backbone.width(modality) for modality in backbone.modalities}
        with torch.device("meta"):
            head = HierarchicalProjection(widths, VIDEO_AUDIO, VIDEO_TEXT)
            pooled = {modality: torch.empty(2 * rows[modality], width) for modality, width in widths.items()}
            with FlopCounterMode(display=False) as counter:
                head(pooled)
        return cls(
            sum(rows[part.modality] * part.all for part in count_flops(backbone, format, DROP)),
            counter.get_total_flops() / 2,
            sum(rows[modality] * width for modality, width in widths.items()),
            sum(p.numel() for part in (backbone, head) for p in part.parameters()),
        )


@dataclass(frozen=True)
class Step:
    """Seconds of a step, by part."""

    compute: float
    gather: float
    loss: float
    reduce: float
    optimizer: float
    data: float

    @property
    def hidden(self) -> float:
        """Of the gradients' all-reduce, what passes while the backward pass, two thirds of the computing, goes on."""
        return min(self.reduce, self.compute * 2 / 3)

    @property
    def total(self) -> float:
        """Clips are read while the step before is computed."""
        busy = self.compute * (1 + given("fixed")) + self.gather + self.loss + self.reduce - self.hidden
        return max(busy + self.optimizer, self.data)


def given(name: str) -> float:
    return GIVEN[name].value


def collective(bytes_passed: float, gpus: int) -> float:
    """Seconds in which every GPU passes on so many bytes, in rings."""
    if gpus == 1:
        return 0.0
    speed = given("inside") if gpus <= 8 else min(given("inside"), given("between"))
    return bytes_passed / (speed * given("net_share")) + given("latency") * math.log2(gpus)


def step(size: Size, clips: int, gpus: int) -> Step:
    """A step of so many clips on each of so many GPUs."""
    every, texts = clips * gpus, ClipFormat().num_texts
    others = (gpus - 1) / gpus
    features = every * size.features * 4
    # A forward pass, and two for its gradients; similarities are made twice (in parts) and differentiated twice, and
    # each process makes some for its rows and some for its columns.
    similarities = 8 * every**2 * (VIDEO_AUDIO + texts * VIDEO_TEXT) * min(1, 2 / gpus)
    return Step(
        compute=3 * clips * size.flops / (given("half") * given("half_share")),
        # The features of all to all, and, on the way back, the sum of the gradients that all have for them.
        gather=collective(features * others, gpus) + collective(2 * features * others, gpus),
        loss=(3 * every * size.head_flops + similarities) / (given("single") * given("single_share")),
        reduce=collective(2 * size.weights * 4 * others, gpus),
        # Adam reads weight, gradient and two moments, and writes three of them.
        optimizer=7 * 4 * size.weights / (given("memory") * given("memory_share")),
        data=clips / (given("cores") * given("decoded")),
    )


def rows_of(size: Size, clips_of: dict[int, int]) -> list[str]:
    """A table, in milliseconds."""
    gpus, clips = next(iter(clips_of.items()))
    alone = clips / step(size, clips, gpus).total
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for gpus, clips in clips_of.items():
        taken = step(size, clips, gpus)
        ms = {name: f"{1e3 * getattr(taken, name):.1f}" for name in Step.__dataclass_fields__}
        speed = clips * gpus / taken.total
        reduced, total = f"{ms['reduce']} ({1e3 * taken.hidden:.1f})", f"**{1e3 * taken.total:.1f}**"
        row = [gpus, clips, f"{clips * gpus:,}", ms["compute"], ms["gather"], ms["loss"], reduced, ms["optimizer"],
               ms["data"], total, f"{speed:,.0f}", f"{speed / gpus / alone:.0%}"]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def shown(number: Given) -> str:
    if 0 < number.value < 1 and not number.unit:
        return f"| {number.what} | {number.value:.0%} | {number.source} |"
    scale, prefix = next(((s, p) for s, p in PREFIXES if number.value >= s), (1e-6, "µ"))
    value = f"{number.value / scale:g} {prefix}{number.unit}".strip()
    return f"| {number.what} | {value} | {number.source} |"


def main() -> None:
    """Print the page."""
    sizes = {"MBS": Size.of("mbs"), "LBS": Size.of("lbs")}
    print(PAGE.strip(), end="\n\n")
    print("## Inputs\n\n| | | |\n|---|---|---|")
    for number in GIVEN.values():
        print(shown(number))
    for name, size in sizes.items():
        print(f"| {name}: weights | {size.weights / 1e6:.0f} million | counted |")
        print(
            f"| {name}: forward pass of a clip with 5 texts, DropToken 0.5 | {size.flops / 1e9:.0f} GFLOP | counted |"
        )
        print(f"| {name}: heads, a clip with 5 texts | {size.head_flops / 1e6:.1f} MFLOP | counted |")
        print(f"| {name}: features of a clip with 5 texts | {4 * size.features / 1e3:.1f} kB | counted |")
    for name, size in sizes.items():
        print(f"\n## {name}\n\nThe same number of clips per GPU, in milliseconds:\n")
        print("\n".join(rows_of(size, dict.fromkeys((1, 8, 16, 64, 256, 1024), 64))))
        print(f"\nThe paper's batch of {PAPER_CLIPS:,} clips, divided among the GPUs:\n")
        print("\n".join(rows_of(size, {gpus: PAPER_CLIPS // gpus for gpus in (1, 8, 16, 64, 256)})))
        days = step(size, PAPER_CLIPS // 64, 64).total * PAPER_STEPS / 86_400
        print(f"\nThe paper's {PAPER_STEPS:,} steps on 64 GPUs: {days:.1f} days.")
    print(f"\n{READ.strip()}")


PAGE = """
# Cost model

Step time by number of GPUs, printed by `python benchmarks/scaling.py`. **Nothing on this page was measured on a GPU or
on a cluster.** The model estimates a step as

    max(data, backbone (1 + fixed) + gather + heads and loss + exposed all-reduce + optimizer)

with DDP and bf16, without activation checkpointing. Every process computes the heads of the whole batch: a ring sends
4 bytes per feature forward and 8 backward. The similarities of B clips take 8 B² (512 + 5 · 256) FLOPs with their
gradients, and each of N processes computes 2 / N of them.
"""

READ = """
## Interpretation

- **Data come first.** Colors, crops and batches are computed by other threads and on the GPU, but each clip is decoded
  on a CPU core, and takes nearly as long there as the GPU takes for it. A core reads a third to a tenth as many clips
  from videos that `vatt prepare` has not written: prepare them.
- **The gather is small**: some kilobytes per clip, for which the backbone takes milliseconds. The same holds for the
  all-reduce, as long as the backward pass takes longer.
- **The loss** grows with the square of the batch and is divided among the processes. With the same number of clips per
  GPU it is an eighth of the step at 65,536 clips on 1,024 GPUs. Computed in every process, as CLIP-like code usually
  does, it would be a third of the step at 16,384 clips on 256 GPUs and nearly all of it at 65,536.
- **FSDP** (`trainer.strategy: sharded`) sends each weight twice and its gradient once: in bf16 about as many bytes as
  DDP's all-reduce in float32, of which more can overlap with both passes. It is for models that do not fit, not for
  speed.
- **Gradient caching** (`micro_batch` of the contrastive objective) multiplies the backbone's part by 4/3.
- To check the model, run `python benchmarks/gpu_step.py` on one GPU (the backbone's share of the data sheet), and
  compare `speed/clips_per_s` of a short run on two machines with the tables.
"""


if __name__ == "__main__":
    main()
