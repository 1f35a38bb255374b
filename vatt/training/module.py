"""What all trainings have in common: random draws, the optimizer, and what becomes of a step that cannot be done."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.fsdp import FSDPModule

from vatt.errors import InputError
from vatt.structures import Batch
from vatt.training.compute import Compute, prepare
from vatt.training.finite import FiniteGuard
from vatt.training.optim import Optimization, clip_gradients, make_optimizer
from vatt.training.resume import (
    apply_optimization,
    changed_values,
    check_complete,
    check_ids,
    check_length,
    check_optimizer_state,
    check_parameter_groups,
    check_same_ids,
    check_seed,
    clip_hashes,
    take_raw_weights,
    warn_of_changed_clips,
)
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
        self._clip_hashes: dict[str, str] = {}
        self._changed: list[str] = []  # settings that differ from those of the checkpoint

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._clip_hashes = clip_hashes(self.trainer.datamodule)
            prepare(self, self.compute)

    def configure_model(self) -> None:
        if self.device_mesh is not None and not isinstance(self, FSDPModule):
            half = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard(self, self.device_mesh["data_parallel"], half)

    def flops_per_clip(self) -> float | None:
        """Operations of a forward pass of the backbone, without what DropToken drops; None where it is not known."""
        return None

    def validation_metrics(self) -> list[str]:
        """Return the names of all metrics that validation can log; empty if there are none."""
        return []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.draws(batch_idx, self.global_rank))
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.guard.begin(self)

    def draws(self, batch_idx: int, stream: int) -> int:
        """A seed for a batch of this training: of its step, its part of the step, and one of 4,099 streams."""
        part = batch_idx % self.trainer.accumulate_grad_batches
        drawn = (self.seed * 1_000_003 + self.global_step) * 4_099 + stream
        return drawn + part * 1_073_741_827  # of a seed 32 bits count

    @property
    def scaler(self) -> GradScaler | None:
        """Gradient scaler of ``16-mixed``, which skips steps itself. None with other precisions."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.guard.end(self, optimizer, self.scaler)
        counts = {"train/skipped_steps": self.guard.skipped, "train/overflowed_steps": self.guard.overflowed}
        # Tensors on the CPU: Lightning would copy a number to the device, which synchronizes.
        self.log_dict({name: torch.tensor(float(count)) for name, count in counts.items() if count})

    def clipped_parts(self) -> list[tuple[nn.Module, float]]:
        """Return the parts whose gradients are clipped separately in this step, with the maximum norm of each."""
        return []

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of single parts, then all gradients with the options of the trainer.

        Lightning's own clipping does not support fused optimizers with mixed precision. Gradients are unscaled here:
        with a scaler the optimizer is not fused, and Lightning unscales the gradients earlier. Gradient norms are
        logged, and checked to be finite, before they are clipped.
        """
        for part, max_norm in self.clipped_parts():
            clip_gradients(part.parameters(), max_norm)
        if gradient_clip_val:
            parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients(parameters, gradient_clip_val, gradient_clip_algorithm or "norm")

    def on_train_end(self) -> None:
        self.guard.read(self)

    def ids(self) -> dict[str, str | None]:
        """Return the hashes of vocabulary, classes and codebook, which define the ids, by name; None if absent."""
        return {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.read(self)
        checkpoint["skipped_steps"] = self.guard.skipped
        checkpoint["settings"] = {"seed": self.seed, "optimization": asdict(self.optimization)}
        checkpoint["ids"] = self.ids()
        checkpoint["clips"] = self._clip_hashes
        checkpoint["overflowed_steps"] = self.guard.overflowed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this configuration.

        Raises:
            ConfigMismatch: The seed, the optimizer or the meaning of ids differs, entries are missing or have wrong
                shapes, or the checkpoint is beyond ``trainer.max_steps``.
        """
        remedy = "Resume with the same one, or start a new training"
        check_ids(checkpoint.get("ids", {}), self.ids(), "the checkpoint", remedy)
        self.guard.skipped = checkpoint.get("skipped_steps", 0)
        self.guard.overflowed = checkpoint.get("overflowed_steps", 0)
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        check_complete(checkpoint)
        check_same_ids(checkpoint["ids"], self.ids())
        warn_of_changed_clips(checkpoint.get("clips", {}), self._clip_hashes)
        saved = checkpoint["settings"]
        check_seed(saved, self.seed)
        check_length(checkpoint, self.trainer.max_steps, self.trainer.ckpt_path)
        check_parameter_groups(saved, checkpoint, self, self.optimization)
        check_optimizer_state(checkpoint, self, self.optimization)
        self._changed = changed_values(saved.get("optimization", {}), self.optimization)
        averaged = any(isinstance(callback, WeightAveraging) for callback in self.trainer.callbacks)
        if not averaged and take_raw_weights(checkpoint):
            rank_zero_warn("the checkpoint has averaged weights (run.ema): the training continues from the raw ones")

    def on_train_start(self) -> None:
        if self._changed:
            (optimizer,), (schedule,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
            apply_optimization(optimizer, schedule.scheduler, self, self.optimization)
            rank_zero_warn(
                f"resumed after step {self.global_step} with a changed model.optimization: {', '.join(self._changed)}"
            )
            self._changed = []

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer and schedule of ``optimization``, as Lightning wants them.

        Raises:
            InputError: ``trainer.max_steps`` is not set.
        """
        steps = self.trainer.max_steps
        if steps < 1:
            raise InputError("set trainer.max_steps: the learning-rate schedule is counted in steps")
        optimizer, schedule = make_optimizer(self, self.optimization, steps, scaled=self.scaler is not None)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
