"""Warnings about the clips and validations of a training, and output of validation metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from vatt.errors import InputError
from vatt.ranges import check_range

ADVICE = 'raise data.val_fraction, or give rows the split "val"'
FEW_CLIPS = 30  # with fewer validation clips the selection of the best checkpoint is mostly chance


def check_trainer(trainer: L.Trainer) -> None:
    """Check trainer options that Lightning does not check.

    Raises:
        InputError: An option is out of range.
    """
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps"):
        check_range(f"trainer.{name}", getattr(trainer, name), "[1, inf)")
    interval = getattr(trainer, "val_check_interval", None)  # Lightning does not set it to a duration
    if interval is None:
        raise InputError("trainer.val_check_interval must be a number of batches or a fraction, not a duration")
    if isinstance(interval, int | float) and not interval > 0:
        raise InputError(
            f"trainer.val_check_interval must be above 0, not {interval}. Set trainer.limit_val_batches to 0 to train "
            "without validation"
        )
    check_range("trainer.gradient_clip_val", trainer.gradient_clip_val, "[0, inf)")


def check_best_by(best_by: str | None, names: Sequence[str]) -> None:
    """Check that validation can log the metric that selects the best weights.

    Args:
        best_by: Name of the metric, or None.
        names: Metrics that validation can log. Without any, the last weights are exported.

    Raises:
        InputError: Validation has metrics, but cannot log this one.
    """
    if best_by is not None and names and best_by not in names:
        raise InputError(f"run.best_by {best_by} is not a validation metric of this training: {', '.join(names)}")


class CheckData(Callback):
    """Warns about too few clips or validations, and refuses trainings that cannot learn.

    Args:
        best_by: Metric that selects the best weights, or None if the last weights are exported.
    """

    def __init__(self, best_by: str | None) -> None:
        self.best_by = best_by
        self._trained = self._validated = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the numbers of clips and their texts.

        Raises:
            InputError: A contrastive loss would have no negatives.
        """
        data = trainer.datamodule
        if data is None:
            return
        if "text" in getattr(getattr(pl_module, "backbone", None), "modalities", ()):
            data.report_texts()
        train, val = len(data.train_clips), len(data.val_clips)
        batch = data.batch_size * data.windows * trainer.world_size
        contrastive = getattr(getattr(pl_module, "objective", None), "compares_clips", False)
        if contrastive and min(batch, train) == 1:
            reason = "there is a single training clip" if train == 1 else "a batch has one clip"
            raise InputError(
                f"{reason}: a contrastive loss compares a clip with the others of its batch, and there are none. "
                + ("Add clips to the manifest" if train == 1 else "Raise data.batch_size")
            )
        if train == 1:
            rank_zero_warn("there is a single training clip, so the model cannot generalize: add clips")
        elif batch == 1:
            rank_zero_warn(
                "a batch has one clip, so that its gradients are noisy: raise data.batch_size, or "
                "trainer.accumulate_grad_batches"
            )
        self._check_validation(trainer, pl_module, val)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        interval = trainer.val_check_batch if trainer.enable_validation else 0
        counts_batches = trainer.check_val_every_n_epoch is None  # else validation also runs at the end of epochs
        val = 0 if trainer.datamodule is None else len(trainer.datamodule.val_clips)
        if self.best_by is None or not trainer.enable_validation or not val:
            return
        if counts_batches and interval > batches > 0:
            rank_zero_warn(
                f"there will be no validation: trainer.val_check_interval is {interval:g}, and the training ends after "
                f"{batches} batches, so the best checkpoint cannot be selected by {self.best_by}"
            )
        elif val < FEW_CLIPS:
            rank_zero_warn(
                f"the best checkpoint is selected by {self.best_by} on {val} validation clip{'s' * (val > 1)}, which "
                f"is too few to be reliable: {ADVICE}; or set run.best_by to null, which exports the last weights"
            )

    def on_train_batch_end(self, *args: Any) -> None:
        self._trained = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = self._validated or not trainer.sanity_checking

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if nothing was validated, or if a resumed training had no step left, before the model is exported.

        Raises:
            InputError: A new training has trained no step.
        """
        step = trainer.global_step
        if not self._trained and not step:
            raise InputError(
                "no step was trained, so no model is exported: raise trainer.limit_train_batches or trainer.max_time"
            )
        if not self._trained:
            rank_zero_warn(f"no step was trained: the training had ended at step {step} of {trainer.max_steps}")
        has_clips = trainer.datamodule is not None and len(trainer.datamodule.val_clips) > 0
        has_best = any(callback.monitor and callback.best_model_path for callback in trainer.checkpoint_callbacks)
        if self.best_by is not None and self._trained and has_clips and not self._validated and not has_best:
            rank_zero_warn(
                f"there was no validation, so the last weights are exported and not the best by {self.best_by}: lower "
                "trainer.val_check_interval, or set run.best_by to null"
            )

    def _check_validation(self, trainer: L.Trainer, pl_module: Any, val: int) -> None:
        if self.best_by is not None and not pl_module.validation_metrics():
            if trainer.is_global_zero:
                print("the objective has no validation metrics: the last weights are exported")
            self.best_by = None
        if val or not trainer.enable_validation:
            return
        if self.best_by is not None:
            rank_zero_warn(
                f"there are no validation clips, so the best checkpoint cannot be selected by {self.best_by}, and the "
                f"last weights are exported: {ADVICE}"
            )
        elif trainer.datamodule.val_fraction > 0:
            rank_zero_warn(f"there are no validation clips, so nothing is validated: {ADVICE}")


class PrintValidation(Callback):
    """Prints the metrics of every validation with the number of clips and the chance level."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        lines = pl_module.validation_summary()
        step = f"step {trainer.global_step}: " if trainer.state.fn == TrainerFn.FITTING else ""
        bar = trainer.progress_bar_callback
        for line in lines:
            text = f"{step}validation: {line}"
            if bar is not None and bar.is_enabled and trainer.state.fn == TrainerFn.FITTING:
                bar.print(text)  # above the progress bar
            else:
                print(text, flush=True)
