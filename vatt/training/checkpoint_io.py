"""Atomic writing and checked reading of checkpoint files."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from vatt.errors import VattError
from vatt.io import atomic_path, atomic_write

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
KEYS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version")  # of every checkpoint


class DamagedCheckpoint(VattError, RuntimeError):
    """A checkpoint cannot be read, and there is no previous one to use instead."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, so that a killed run leaves an intact one.

    The previous ``last.ckpt`` is kept as ``previous.ckpt``, and is loaded if ``last.ckpt`` is damaged.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Raises:
            WriteError: The disk is full or read-only.
        """
        path = Path(path)
        with atomic_write(path) as file:
            torch.save(checkpoint, file)
            if path.name == LAST and path.is_file():
                self._keep_previous(path)

    @staticmethod
    def _keep_previous(path: Path) -> None:
        with atomic_path(path.with_name(PREVIOUS)) as previous:
            try:
                os.link(path, previous)  # not moved: `path` must exist at any time
            except OSError:  # a file system without hard links
                shutil.copyfile(path, previous)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, always with ``weights_only=True``.

        Args:
            path: Checkpoint file.
            map_location: Device of the tensors, see `torch.load`.
            weights_only: Ignored.

        Returns:
            Contents of the checkpoint.

        Raises:
            FileNotFoundError: There is no such file.
            DamagedCheckpoint: The file is damaged (see `intact_checkpoint`), or is not a training checkpoint.
        """
        path = intact_checkpoint(path)
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            unsafe = isinstance(error, pickle.UnpicklingError)
            reason = (
                "it contains Python objects that are not loaded for security" if unsafe else str(error).split("\n")[0]
            )
            raise DamagedCheckpoint(f"{path} is not a training checkpoint: {reason}") from error
        keys = checkpoint.keys() if isinstance(checkpoint, dict) else ()
        if missing := [key for key in KEYS if key not in keys]:
            raise DamagedCheckpoint(f"{path} is not a training checkpoint: it has no {', '.join(missing)}")
        return checkpoint


def intact_checkpoint(path: str | Path) -> Path:
    """Return the path of a checkpoint, or of ``previous.ckpt`` if ``last.ckpt`` is damaged.

    Args:
        path: Checkpoint file.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCheckpoint: The file is damaged, and there is no intact previous checkpoint.
    """
    path, previous = Path(path), Path(path).with_name(PREVIOUS)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if is_intact(path):
        return path
    message = f"{path} cannot be read: it is truncated, was modified, or is not a checkpoint"
    if path.name != LAST or not previous.is_file():
        raise DamagedCheckpoint(f"{message}. Choose another checkpoint with --ckpt_path, or start a new training")
    rank_zero_warn(f"{message}. The previous checkpoint is used instead: {previous}")
    return intact_checkpoint(previous)


def is_intact(path: str | Path) -> bool:
    """Return whether a file is a zip archive with correct checksums. `torch.load` does not verify them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError):  # RuntimeError: encrypted
        return False
