"""Run directories: locking, choice of the checkpoint to resume from, and moving of files of earlier trainings."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from vatt.errors import InputError
from vatt.locks import DirectoryLock
from vatt.signals import deferred_signals
from vatt.training.checkpoint import best_score
from vatt.training.checkpoint_io import BEST, LAST, PREVIOUS, DamagedCheckpoint, is_intact

CHECKPOINTS = "checkpoints"
EARLIER = "earlier"  # directory in a run that keeps earlier runs
# Everything that a training writes to its directory. Files that `RunDirectory.outputs` looks for are moved last.
OUTPUTS = (
    "logs", "tensorboard", "config.yaml", "data_events*.csv", "loss_by_token.csv", CHECKPOINTS, "hpc_ckpt_*.ckpt",
    "model",
)  # fmt: skip


def find_checkpoint(
    folder: str | Path, ckpt_path: str | None, environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Resolve the option ``--ckpt_path`` of a training.

    Args:
        folder: Directory of the run.
        ckpt_path: One of

            - ``last``, ``best`` or ``hpc``: that checkpoint of this run. Lightning saves ``hpc`` when SLURM requeues a
              job;
            - ``auto``: the newest intact one of ``last``, the previous one and ``hpc``; a new training without any;
            - the path of a checkpoint;
            - None: a new training, or ``auto`` in a requeued job that has an ``hpc`` checkpoint.
        environment: Environment variables. ``SLURM_RESTART_COUNT`` is positive in a requeued job.

    Returns:
        Path of the checkpoint to resume from, or None for a new training.

    Raises:
        InputError: The checkpoint does not exist.
        DamagedCheckpoint: ``auto``, and all checkpoints are damaged.
    """
    folder = Path(folder)
    hpc = _latest_hpc(folder)
    requeued = hpc is not None and int(environment.get("SLURM_RESTART_COUNT") or 0) > 0
    if ckpt_path == "auto" or (ckpt_path is None and requeued):
        return _newest_intact([folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / PREVIOUS, hpc])
    if ckpt_path is None:
        return None
    if not ckpt_path:
        raise InputError("--ckpt_path is empty: pass last, best, hpc, auto or the path of a checkpoint")
    known = {"last": folder / CHECKPOINTS / LAST, "best": folder / CHECKPOINTS / BEST, "hpc": hpc}
    path = known.get(ckpt_path, Path(ckpt_path).expanduser())
    if path is None:
        raise InputError(f"--ckpt_path hpc: {folder} has no hpc_ckpt_*.ckpt")
    if path.is_dir():
        raise InputError(f"--ckpt_path {ckpt_path}: {path} is a directory, not a checkpoint file")
    if not path.is_file():
        if ckpt_path not in known:
            raise InputError(f"--ckpt_path {ckpt_path}: there is no such file")
        hint = f" ({PREVIOUS} exists: pass its path to use it)" if path.with_name(PREVIOUS).is_file() else ""
        raise InputError(
            f"--ckpt_path {ckpt_path}: there is no checkpoint at {path}{hint}. Start a new training without "
            "--ckpt_path, or pass --ckpt_path auto, which resumes if there is a checkpoint"
        )
    return path


class RunDirectory(Callback):
    """Locks a run directory for one training, and moves the files of other trainings to ``earlier``.

    A new training moves all files of an earlier one. If it fails before its first step, they are moved back. A training
    that is resumed from a checkpoint other than ``last.ckpt`` moves ``last.ckpt``, and a ``best.ckpt`` with another
    score, after its own checkpoint was loaded.

    Args:
        folder: Directory of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock = DirectoryLock(self.folder)
        self._checkpoint: Path | None = None
        self._moved: dict[Path, Path] = {}  # present and original paths of moved files
        self._links: dict[Path, str] = {}  # original targets of the symbolic links among them, by original path

    def open(self, checkpoint: Path | None) -> Path | None:
        """Lock the directory. For a new training, also move the files of an earlier one.

        Only the first process of a training calls this.

        Args:
            checkpoint: Checkpoint that the training resumes from, or None for a new training.

        Returns:
            Directory of the moved files, or None if there were none.

        Raises:
            DirectoryInUse: Another training writes to the directory.
        """
        self._lock.acquire()
        self._checkpoint = checkpoint
        return self._move(self.outputs()) if checkpoint is None else None

    def close(self) -> None:
        """Unlock the directory."""
        self._lock.release()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Forget the moved files: after the first step they are not moved back."""
        self._moved = {}

    def restore(self) -> str | None:
        """Move the files of an earlier training back if no step was trained. Signals are deferred meanwhile.

        Returns:
            Sentence for the user about the files, or None if none were moved.
        """
        left: dict[Path, OSError] = {}
        with deferred_signals():
            files, self._moved = self._moved, {}
            for moved, path in files.items():
                try:
                    self._move_back(moved, path)
                except OSError as error:
                    left[moved] = error
                with suppress(OSError):  # not empty
                    moved.parent.rmdir()
            if files:
                with suppress(OSError):
                    (self.folder / EARLIER).rmdir()
        if left:
            reason = next(iter(left.values())).strerror
            return f"files of the earlier training could not be moved back ({reason}): {', '.join(map(str, left))}"
        return f"files of the earlier training are back in {self.folder}" if files else None

    def _move_back(self, moved: Path, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():  # of the failed training: logs without values
            shutil.rmtree(path)
        os.replace(moved, path)
        for link, target in self._links.items():
            if link.is_relative_to(path):
                link.unlink()
                link.symlink_to(target)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the checkpoints that do not precede the resumed one, which was loaded before."""
        if trainer.is_global_zero and self._checkpoint is not None:
            paths = self._foreign(self._checkpoint)
            moved = self._move(paths)
            if moved is not None:
                names = " and ".join(path.name for path in paths)
                print(f"not part of the training that is resumed from {self._checkpoint}: {names}, now in {moved}")

    def _move(self, paths: list[Path]) -> Path | None:
        if not paths:
            return None
        numbers = [int(path.name) for path in (self.folder / EARLIER).glob("*") if path.name.isdigit()]
        target = self.folder / EARLIER / str(max(numbers, default=0) + 1)
        with deferred_signals():  # a signal must not leave files that `restore` does not know
            for path in paths:
                moved = target / path.relative_to(self.folder)
                moved.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, moved)
                self._moved[moved] = path
                self._keep_targets(moved, path, [_real(other) for other in paths])
        return target

    def _keep_targets(self, moved: Path, path: Path, paths: list[Path]) -> None:
        """Adjust the relative symbolic links in a moved file or directory.

        Args:
            moved: Present path.
            path: Original path.
            paths: All paths that are moved. Links to them stay, since they are moved together.
        """
        inside = (Path(folder, name) for folder, *names in os.walk(moved) for name in (*names[0], *names[1]))
        for link in [moved] if moved.is_symlink() else [item for item in inside if item.is_symlink()]:
            original, target = path / link.relative_to(moved), os.readlink(link)
            absolute = Path(os.path.normpath(_real(original).parent / target))
            if os.path.isabs(target) or any(absolute.is_relative_to(other) for other in paths):
                continue
            self._links[original] = target
            link.unlink()
            link.symlink_to(os.path.relpath(absolute, os.path.realpath(link.parent)))

    def outputs(self) -> list[Path]:
        """Return the outputs of an earlier training; none if it has neither a checkpoint nor a model."""
        results = ("hpc_ckpt_*.ckpt", f"{CHECKPOINTS}/*.ckpt", "model/*")
        if not any(True for pattern in results for _ in self.folder.glob(pattern)):
            return []
        return [path for pattern in OUTPUTS for path in sorted(self.folder.glob(pattern))]

    def _foreign(self, checkpoint: Path) -> list[Path]:
        """Return the checkpoints that the resumed one does not continue: they are newer, or of another training."""
        last, best = (self.folder / CHECKPOINTS / name for name in (LAST, BEST))
        resumed = checkpoint.resolve()
        paths = [last] if last.is_file() and last.resolve() != resumed else []
        is_other = best.is_file() and best.resolve() != resumed and best_score(best) != best_score(checkpoint)
        return [*paths, best] if is_other else paths


def _newest_intact(candidates: Sequence[Path | None]) -> Path | None:
    """Return the newest intact checkpoint, or None if there are no files. Warns about newer ones that are damaged.

    Raises:
        DamagedCheckpoint: All are damaged.
    """
    paths = [path for path in candidates if path is not None and path.is_file()]
    damaged = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        if is_intact(path):
            if damaged:
                rank_zero_warn(f"{' and '.join(damaged)} cannot be read: {path} is used instead")
            return path
        damaged.append(str(path))
    if damaged:
        raise DamagedCheckpoint(
            f"--ckpt_path auto: {' and '.join(damaged)} cannot be read: each is truncated, was modified, or is not a "
            "checkpoint. Choose another one, or start a new training without --ckpt_path"
        )
    return None


def _real(path: Path) -> Path:
    """Return the absolute path with links resolved, except for the last component."""
    return Path(os.path.realpath(path.parent), path.name)


def _latest_hpc(folder: Path) -> Path | None:
    by_number = {
        int(match[1]): path
        for path in folder.glob("hpc_ckpt_*.ckpt")
        if (match := re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", path.name))
    }
    return by_number[max(by_number)] if by_number else None
