"""A run lives in one folder: ``checkpoints/``, ``logs/``, ``config.yaml``, ``data_events.csv`` and ``model/``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from vatt.training.callbacks import DataReport, StepBar, Throughput
from vatt.training.checkpoint import ExportModel, LastCheckpoint
from vatt.training.health import Health


@dataclass(frozen=True)
class Run:
    """Where a run is kept, and what of it.

    Args:
        folder: of the run.
        checkpoint_steps: distance of the checkpoints that ``--ckpt_path last`` resumes from.
        best_by: the logged metric by which the best checkpoint is chosen. ``val/rsum`` is the sum of R@1, R@5 and
            R@10 over all directions of retrieval on the validation clips. None keeps the last one only.
        ema: decay of a moving average of the weights, which is validated, kept and exported in their place; None has
            none.
    """

    folder: str = "runs/pretrain"
    checkpoint_steps: int = 100
    best_by: str | None = "val/rsum"
    ema: float | None = None


def run_callbacks(run: Run, logs: bool = True, bar: bool = True) -> list[Callback]:
    """Checkpoints (last and best), reports, and the export of the trained model.

    Args:
        run: where they go.
        logs: there is a logger, which the learning rate can be written to.
        bar: show how far the training is.
    """
    checkpoints = Path(run.folder) / "checkpoints"
    best = ModelCheckpoint(checkpoints, filename="best", monitor=run.best_by, mode="max", enable_version_counter=False)
    return [
        *([StepBar()] if bar else []),
        Throughput(),
        DataReport(run.folder),
        Health(),
        *([LearningRateMonitor("step")] if logs else []),
        *([EMAWeightAveraging(decay=run.ema)] if run.ema is not None else []),
        *([best] if run.best_by is not None else []),
        LastCheckpoint(checkpoints, run.checkpoint_steps),
        ExportModel(run.folder),
    ]


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
