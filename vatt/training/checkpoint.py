"""Callbacks that save the last and the best checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from vatt.errors import InputError
from vatt.evaluation.metrics import lower_is_better
from vatt.io import short_hash
from vatt.signals import EXIT_STATUS, detach, open_terminals
from vatt.structures import Batch
from vatt.training.checkpoint_io import BEST, LAST
from vatt.training.private import restore_raw_weights, set_validation_progress, stop_workers, validation_follows

SIGNAL_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best value of a metric as ``best.ckpt``.

    Whether higher or lower values are better follows from the metric (`vatt.evaluation.metrics.lower_is_better`).

    The best score is kept if the run directory is moved. On resume it is discarded if ``best.ckpt`` has another score,
    since it was written after the resumed checkpoint, or if the validation clips have changed.

    Args:
        folder: Directory of the checkpoints.
        monitor: Name of the logged metric.
    """

    def __init__(self, folder: str | Path, monitor: str) -> None:
        mode = "min" if lower_is_better(monitor) else "max"
        super().__init__(folder, filename=Path(BEST).stem, monitor=monitor, mode=mode, enable_version_counter=False)
        self._clips: str | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == TrainerFn.FITTING and trainer.datamodule is not None:
            ids = [clip.id for _, val in trainer.datamodule.parts.values() for clip in val.heads()]
            self._clips = short_hash(*ids)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"clips": self._clips}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the checkpoint if it is the best one. Without any metric, nothing is saved and the module warns.

        Raises:
            InputError: There are metrics, but not the monitored one. The last checkpoint is saved before.
        """
        metrics = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        if self.monitor in metrics or trainer.sanity_checking:
            super().on_validation_end(trainer, pl_module)
        elif metrics:
            last = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, LastCheckpoint)]
            for callback in last:
                callback.save(trainer)
            raise InputError(
                f"run.best_by {self.monitor} is not logged; validation logs {', '.join(metrics)}"
                + ("; set run.best_by to one of these, or to null, and resume with --ckpt_path last" if last else "")
            )

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Warn if the checkpoint has no best score of this metric, as after ``run.best_by`` was changed."""
        if trainer.state.fn == TrainerFn.FITTING and not checkpoint["callbacks"].get(self.state_key):
            rank_zero_warn(
                f"the resumed training was without run.best_by {self.monitor}: the best checkpoint is selected from "
                "later validations only"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path, score = Path(self.dirpath) / BEST, state_dict["best_model_score"]
        clips = state_dict.pop("clips", None)
        are_others = None not in (clips, self._clips) and clips != self._clips
        if state_dict["best_model_path"] and (are_others or best_score(path) != float(score)):
            reason = "is missing"
            if path.is_file():
                reason = "was selected on other validation clips" if are_others else "is not of the resumed training"
            rank_zero_warn(
                f"{path} {reason}: the best checkpoint is selected from later validations only, and the previous best "
                f"{self.monitor}, {_number(score)}, is discarded"
            )
            names = ("best_model_score", "kth_value")
            state_dict = {key: value for key, value in state_dict.items() if key not in names}
            state_dict |= {"best_model_score": None, "best_model_path": "", "best_k_models": {}}
            state_dict |= {"kth_best_model_path": "", "dirpath": self.dirpath}
        elif state_dict["best_model_path"]:
            state_dict = state_dict | {"best_model_path": str(path), "kth_best_model_path": str(path)}
            state_dict |= {"best_k_models": {str(path): score}, "dirpath": self.dirpath}
        super().load_state_dict(state_dict)


def best_score(path: Path) -> float | None:
    """Return the best score that is stored in a checkpoint, or None if it has none, is missing or is damaged."""
    try:
        callbacks = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["callbacks"]
        states = [state for key, state in callbacks.items() if key.startswith(BestCheckpoint.__name__)]
        return float(states[0]["best_model_score"])
    except Exception:  # reading a damaged file can raise anything
        return None


class LastCheckpoint(ModelCheckpoint):
    """Saves ``last.ckpt`` at a fixed interval of steps, at the end of training, and when a signal stops it.

    Ctrl-C, SIGTERM and SIGHUP (closed terminal; ignored under ``nohup``) stop training after the current step or
    validation batch, save a checkpoint, and exit with status 130, 143 or 129. A second Ctrl-C stops it immediately. If
    any process receives a signal, all processes stop.

    If validation follows a step, the checkpoint is saved after validation. If a signal arrives before or during that
    validation, the resumed training runs it first. A resumed training gives the results of an uninterrupted one.

    Args:
        folder: Directory of the checkpoints.
        every: Number of steps between checkpoints.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        super().__init__(folder, filename=Path(LAST).stem, every_n_train_steps=every, enable_version_counter=False)
        self.every, self._due, self._stops = every, False, False
        self._validation_pending = False
        self._saved_step = 0
        self._signal: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            handled = [number for number in EXIT_STATUS if signal.getsignal(number) != signal.SIG_IGN]
            self._handlers = {number: signal.signal(number, self._receive) for number in handled}
            self._terminals = open_terminals()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._stops = self._any_signal(trainer)
        ends = self._stops or trainer.global_step >= trainer.max_steps
        self._due = self._due or ends or trainer.global_step % self.every == 0
        if not validation_follows(trainer):
            self._save(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._stops:  # not earlier: Lightning logs the values of a step after its last hook
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _validates_training(trainer) and self._any_signal(trainer):
            self._stop_before_validation(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if _validates_training(trainer) and self._any_signal(trainer):
            restore_raw_weights(trainer, pl_module)
            self._stop_before_validation(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _validates_training(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save a training that has ended before its last step, as with early stopping."""
        self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._restore_handlers()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if trainer.state.fn == TrainerFn.FITTING:
            stop_workers(trainer)
        self._restore_handlers()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        set_validation_progress(checkpoint, self._validation_pending)

    def state_dict(self) -> dict[str, Any]:
        return {}  # the name of the file does not change if the run directory is moved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass

    def save(self, trainer: L.Trainer) -> None:
        """Save the checkpoint, unless this step is already saved."""
        if trainer.global_step > self._saved_step:
            self._due = True
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if self._due:
            self._due, self._saved_step = False, trainer.global_step
            trainer.save_checkpoint(Path(self.dirpath) / LAST)

    def _any_signal(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if self._signal is None and received == signal.SIGINT:
            if rank_zero_only.rank == 0:
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")
        elif received == signal.SIGINT:
            raise KeyboardInterrupt
        elif received == signal.SIGHUP:
            detach(self._terminals)
        self._signal = self._signal or received

    def _stop_before_validation(self, trainer: L.Trainer) -> None:
        self._due = self._validation_pending = True
        self._save(trainer)
        self._stop(trainer)

    def _stop(self, trainer: L.Trainer) -> None:
        received = self._signal or signal.SIGTERM
        if trainer.is_global_zero:
            print(
                f"\n{SIGNAL_NAMES[received]}: stopped after step {trainer.global_step}; "
                f"resume with --ckpt_path last ({Path(self.dirpath) / LAST})"
            )
        raise SystemExit(EXIT_STATUS[received])

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def _validates_training(trainer: L.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{float(value):.4g}"
