"""Where the time of a whole training step goes: the backbone, and everything else.

Usage:
    python benchmarks/step.py                  # BBS: Base for video and audio, Small for text
    python benchmarks/step.py --size mbs --clips 16

A real training by Lightning, with the callbacks, logs and clipping of a run, on random clips that lie in memory. After
each step the backbone's part of it (tokenizers, DropToken, transformers, and their gradients) is done alone, so that
both see the same machine. What remains is heads, gather, loss, optimizer, health, logs and Lightning. Data have no
part in it; benchmarks/loader.py measures them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import random_clips, synchronise
from vatt.cli.training import build_pretraining
from vatt.models.selection import drop_token
from vatt.structures import Batch
from vatt.training.export import ExportModel
from vatt.training.pretrain import PretrainModule

ROOT = Path(__file__).parents[1]
WARM = 1


class Clock(L.Callback):
    """Takes the time of whole steps, and of the backbone alone in between."""

    def __init__(self) -> None:
        self.whole: list[float] = []
        self.backbone: list[float] = []
        self.began: float | None = None

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        synchronise()
        now = time.perf_counter()
        if self.began is not None:
            self.whole.append(now - self.began - self.backbone[-1])
        self.began = now

    def on_train_batch_end(
        self, trainer: L.Trainer, module: PretrainModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        module.zero_grad()
        synchronise()
        began = time.perf_counter()
        with trainer.precision_plugin.train_step_context():
            seen = sum(self.passed(module, batch, modality).sum() for modality in module.backbone.modalities)
        seen.backward()
        synchronise()
        self.backbone.append(time.perf_counter() - began)

    def passed(self, module: PretrainModule, batch: Batch, modality: str) -> torch.Tensor:
        """(B, D): what the heads are given."""
        raw = batch[modality].flatten(0, 1) if modality == "text" else batch[modality]  # type: ignore[literal-required]
        tokens, grid = module.backbone.tokenize(modality, raw), module.backbone.tokenizers[modality].grid
        return module.backbone.encode(modality, drop_token(tokens, module.objective.drop[modality], grid)).pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="bbs")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    given = parser.parse_args()
    steps = WARM + given.steps + 1  # a step has ended when the next one begins
    with tempfile.TemporaryDirectory() as folder:
        cli = build_pretraining([
            "--config", str(ROOT / f"configs/pretrain_{given.size}.yaml"), "--data.manifest", f"{folder}/none.csv",
            "--data.vocabulary", "null", "--run.folder", folder, "--trainer.accelerator", "auto",
            "--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.max_epochs", "1",
            "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0",
            "--trainer.log_every_n_steps", "1",
        ])  # fmt: skip
        module, clock = cli.model, Clock()
        kept = [part for part in cli.trainer.callbacks if not isinstance(part, (Checkpoint, ExportModel))]
        cli.trainer.callbacks = [clock, *kept]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        batch = random_clips(cli.datamodule.format, given.clips, device)
        cli.trainer.fit(module, train_dataloaders=DataLoader([batch] * steps, batch_size=None))
    whole = statistics.median(clock.whole[WARM:])
    backbone = statistics.median(clock.backbone[WARM:-1])
    millions = sum(p.numel() for p in module.parameters()) / 1e6
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {cli.trainer.precision}; "
        f"{given.size.upper()} ({millions:.0f} million weights), {given.clips} clips; medians of {given.steps} steps\n"
    )
    print("| | seconds | of the step |\n|---|---|---|")
    for name, taken in (("a whole step", whole), ("the backbone", backbone), ("all else", whole - backbone)):
        print(f"| {name} | {taken:.2f} | {taken / whole:.1%} |")


if __name__ == "__main__":
    main()
