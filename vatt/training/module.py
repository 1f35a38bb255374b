"""What all trainings have in common: random draws, the optimizer, and what becomes of a step that cannot be done."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch.distributed.fsdp import FSDPModule

from vatt.errors import InputError
from vatt.structures import Batch
from vatt.training.compute import Compute, prepare
from vatt.training.finite import FiniteGuard
from vatt.training.optim import Optimization, make_optimizer
from vatt.training.sharding import shard


class TrainingModule(L.LightningModule):
    """Base of `vatt.training.pretrain.PretrainModule` and `vatt.training.finetune.FinetuneModule`.

    Args:
        optimization: optimizer and schedule.
        seed: of dropout and of all that is drawn in a step. What is drawn depends on it, the step and the process
            alone, so that a resumed run draws what an uninterrupted one would have drawn.
        compute: how the steps are computed.
    """

    def __init__(self, optimization: Optimization, seed: int, compute: Compute) -> None:
        super().__init__()
        self.optimization, self.seed, self.compute = optimization, seed, compute
        self.guard = FiniteGuard()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            prepare(self, self.compute)

    def configure_model(self) -> None:
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            half = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard(self, self.device_mesh["data_parallel"], half)

    def flops_per_clip(self) -> float | None:
        """Operations of a forward pass of the backbone, without what DropToken drops; None where it is not known."""
        return None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.draws(batch_idx, self.global_rank))
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.guard.begin(self)

    def draws(self, batch_idx: int, stream: int) -> int:
        """A seed for a batch of this training: of its step, its part of the step, and one of 4,099 streams."""
        part = batch_idx % self.trainer.accumulate_grad_batches
        drawn = (self.seed * 1_000_003 + self.global_step) * 4_099 + stream
        return drawn + part * 1_073_741_827  # of a seed 32 bits count

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # leaves out steps itself
        if not scaled:
            self.guard.end(self)
        if self.guard.skipped:
            self.log("train/skipped_steps", float(self.guard.skipped))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.guard.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.skipped = checkpoint.get("skipped_steps", 0)

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer and schedule of ``optimization``, as Lightning wants them.

        Raises:
            InputError: ``trainer.max_steps`` is not set.
        """
        steps = self.trainer.max_steps
        if steps < 1:
            raise InputError("set trainer.max_steps: the learning-rate schedule is counted in steps")
        optimizer, schedule = make_optimizer(self, self.optimization, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
