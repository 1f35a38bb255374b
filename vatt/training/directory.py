"""The directory of a run: one training at a time, and nothing of an earlier one among its files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from vatt.errors import InputError
from vatt.io import DirectoryLock
from vatt.training.checkpoint import BEST, LAST, PREVIOUS, best_score

CHECKPOINTS = "checkpoints"
EARLIER = "earlier"  # directory in a run that keeps earlier runs
KEYWORDS = ("last", "best", "auto", "hpc")
# Everything that a training writes into its directory.
OUTPUTS = (
    CHECKPOINTS, "logs", "tensorboard", "model", "config.yaml", "data_events*.csv", "loss_by_token.csv",
    "hpc_ckpt_*.ckpt",
)  # fmt: skip


def find_checkpoint(
    folder: str | Path, ckpt_path: str | None, environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Resolve the option ``--ckpt_path`` of a training.

    Args:
        folder: Directory of the run.
        ckpt_path: ``last``, ``best`` or ``hpc`` (which Lightning writes when SLURM requeues a job): the checkpoint of
            this run; ``auto``: the newest of ``last`` and ``hpc``, or a new training if there is none; or the path of a
            checkpoint. None starts a new training; in a job that was requeued with such a checkpoint it means ``auto``.
        environment: Environment variables, of which ``SLURM_RESTART_COUNT`` tells a requeued job.

    Returns:
        The checkpoint to resume from, None for a new training.

    Raises:
        InputError: There is no such checkpoint.
    """
    folder = Path(folder)
    hpc = _latest_hpc(folder)
    requeued = hpc is not None and int(environment.get("SLURM_RESTART_COUNT") or 0) > 0
    if ckpt_path == "auto" or (ckpt_path is None and requeued):
        paths = [path for path in (folder / CHECKPOINTS / LAST, hpc) if path is not None and path.is_file()]
        return max(paths, key=lambda path: path.stat().st_mtime, default=None)
    if ckpt_path is None:
        return None
    known = {"last": folder / CHECKPOINTS / LAST, "best": folder / CHECKPOINTS / BEST, "hpc": hpc}
    path = known.get(ckpt_path, Path(ckpt_path).expanduser())
    if path is None:
        raise InputError(f"--ckpt_path hpc: {folder} has no hpc_ckpt_*.ckpt")
    if not path.is_file():
        if ckpt_path not in known:
            raise InputError(f"--ckpt_path {ckpt_path}: there is no such file")
        hint = f" ({PREVIOUS} is there: give its path)" if path.with_name(PREVIOUS).is_file() else ""
        raise InputError(
            f"--ckpt_path {ckpt_path}: there is no checkpoint at {path}{hint}. Start a new training without "
            "--ckpt_path, or give --ckpt_path auto, which resumes if there is a checkpoint"
        )
    return path


class RunDirectory(Callback):
    """Reserves the directory of a run for one training, and moves what belongs to another one into ``earlier``.

    A new training moves everything that an earlier one has left. A training that is resumed from another checkpoint
    than the last one of the directory moves ``last.ckpt``, and a ``best.ckpt`` that is not its own, once its checkpoint
    was found to fit.

    Args:
        folder: Directory of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock = DirectoryLock(self.folder)
        self._checkpoint: Path | None = None

    def open(self, checkpoint: Path | None) -> Path | None:
        """Lock the directory; for a new training, move what an earlier one has left.

        Only the first process of a training calls this.

        Args:
            checkpoint: What the training resumes from; None for a new training.

        Returns:
            Where the moved files are now; None if there were none.

        Raises:
            DirectoryInUse: Another training writes to the directory.
        """
        self._lock.acquire()
        self._checkpoint = checkpoint
        return self._move(self._outputs()) if checkpoint is None else None

    def close(self) -> None:
        """Unlock the directory."""
        self._lock.release()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the checkpoints of other trainings, now that the one to resume from is loaded."""
        if trainer.is_global_zero and self._checkpoint is not None:
            moved = self._move(self._foreign(self._checkpoint))
            if moved is not None:
                print(f"checkpoints of another training in {self.folder} are now in {moved}")

    def _move(self, paths: list[Path]) -> Path | None:
        if not paths:
            return None
        numbers = [int(path.name) for path in (self.folder / EARLIER).glob("*") if path.name.isdigit()]
        target = self.folder / EARLIER / str(max(numbers, default=0) + 1)
        for path in paths:
            moved = target / path.relative_to(self.folder)
            moved.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, moved)
        return target

    def _outputs(self) -> list[Path]:
        """Everything of an earlier run; nothing if it has left neither a checkpoint nor a model."""
        results = ("hpc_ckpt_*.ckpt", f"{CHECKPOINTS}/*.ckpt", "model/*")
        if not any(True for pattern in results for _ in self.folder.glob(pattern)):
            return []
        return [path for pattern in OUTPUTS for path in sorted(self.folder.glob(pattern))]

    def _foreign(self, checkpoint: Path) -> list[Path]:
        """Checkpoints that are not of the training which is resumed."""
        last, best = (self.folder / CHECKPOINTS / name for name in (LAST, BEST))
        resumed = checkpoint.resolve()
        paths = [last] if last.is_file() and last.resolve() != resumed else []
        is_other = best.is_file() and best.resolve() != resumed and best_score(best) != best_score(checkpoint)
        return [*paths, best] if is_other else paths


def _latest_hpc(folder: Path) -> Path | None:
    found = {
        int(match[1]): path
        for path in folder.glob("hpc_ckpt_*.ckpt")
        if (match := re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", path.name))
    }
    return found[max(found)] if found else None
