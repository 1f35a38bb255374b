"""Options and callbacks of a run. Its directory has ``checkpoints/``, ``logs/``, ``config.yaml`` and ``model/``.

Files of an earlier run are moved to ``earlier/`` when a new one starts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import lightning as L
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn

from vatt.errors import InputError
from vatt.ranges import check_range
from vatt.training.callbacks import DataReport, NameDirectory, StepBar, Throughput
from vatt.training.checkpoint import BestCheckpoint, LastCheckpoint
from vatt.training.directory import CHECKPOINTS
from vatt.training.export import ExportModel
from vatt.training.health import Health
from vatt.training.validation import CheckData, PrintValidation


@dataclass(frozen=True)
class Run:
    """Where a run is kept, and what of it.

    Args:
        folder: of the run.
        checkpoint_steps: distance of the checkpoints that ``--ckpt_path last`` resumes from.
        best_by: the logged metric by which the best checkpoint is chosen. ``val/rsum`` is the sum of R@1, R@5 and
            R@10 over all directions of retrieval on the validation clips. Median ranks and missing clips are better
            when low. None keeps the last one only.
        ema: decay of a moving average of the weights, which is validated, kept and exported in their place; None has
            none.
    """

    folder: str = "runs/pretrain"
    checkpoint_steps: int = 100
    best_by: str | None = "val/rsum"
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoint_steps < 1:
            raise InputError(f"run.checkpoint_steps must be at least 1, not {self.checkpoint_steps}")
        check_range("run.ema", self.ema, "[0, 1)")  # at 1 the average would not change


class MovingAverage(EMAWeightAveraging):
    """Exponential moving average of weights that are not sharded among processes."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Create the averaged copy of the weights. Raises like `check_average`."""
        check_average(trainer)
        super().setup(trainer, pl_module, stage)


def check_average(trainer: L.Trainer) -> None:
    """Check that the weights of a trainer can be averaged.

    Raises:
        InputError: Averaging is enabled, but the weights are sharded among processes.
    """
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    if averaged and isinstance(trainer.strategy, ModelParallelStrategy | FSDPStrategy):
        raise InputError(
            "run.ema cannot average weights that are sharded among processes: set run.ema to null, or "
            "trainer.strategy to ddp"
        )


def run_callbacks(run: Run, logs: bool = True, bar: bool = True) -> list[Callback]:
    """Checkpoints (last and best), reports, and the export of the trained model.

    Args:
        run: where they go.
        logs: there is a logger, which the learning rate can be written to.
        bar: show how far the training is.
    """
    checkpoints = Path(run.folder) / CHECKPOINTS
    return [
        CheckData(run.best_by),
        NameDirectory(),
        *([StepBar()] if bar else []),
        PrintValidation(),
        Throughput(),
        DataReport(run.folder),
        Health(),
        *([LearningRateMonitor("step")] if logs else []),
        *([MovingAverage(decay=run.ema)] if run.ema is not None else []),
        *([BestCheckpoint(checkpoints, run.best_by)] if run.best_by is not None else []),
        LastCheckpoint(checkpoints, run.checkpoint_steps),
        ExportModel(run.folder),
    ]


def evaluation_callbacks(folder: str | None, bar: bool = True) -> list[Callback]:
    """Return the callbacks of a validation or test without training.

    Args:
        folder: Directory of the list of clips that could not be read. None: they are printed.
        bar: Show a progress bar.
    """
    return [*([StepBar()] if bar else []), DataReport(folder), PrintValidation()]


def run_loggers(run: Run) -> list[Logger]:
    """CSV, and TensorBoard where it is installed."""
    loggers: list[Logger] = [CSVLogger(run.folder, name="logs")]
    # TensorBoard would import TensorFlow where it is installed, which can crash beside PyTorch; with this module of its
    # own it takes the stub that it brings.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
    try:
        loggers.append(TensorBoardLogger(run.folder, name="tensorboard", version=""))
    except ModuleNotFoundError:
        rank_zero_warn('TensorBoard is not installed, so logs are written as CSV only: pip install "vatt[logs]"')
    return loggers
