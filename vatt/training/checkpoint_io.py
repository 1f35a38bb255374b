"""Files of checkpoints: written at once, checked when they are read."""

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
KEYS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version")  # that every checkpoint has


class DamagedCheckpoint(VattError, RuntimeError):
    """A checkpoint that cannot be read, and no other one to take."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name first: a run that is killed leaves a whole one behind.

    Of ``last.ckpt`` the one before is kept, and read where the last one is damaged.
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
        with atomic_path(path.with_name(PREVIOUS)) as before:
            try:
                os.link(path, before)  # so that there is a last one at every moment
            except OSError:  # not on every file system
                shutil.copyfile(path, before)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, or the one before the last; always with ``weights_only=True``.

        Raises:
            FileNotFoundError, DamagedCheckpoint: As `whole`; also if a file is no checkpoint of a training.
        """
        path = whole(path)
        try:
            checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError) as error:
            unsafe = isinstance(error, pickle.UnpicklingError)
            reason = "it holds other Python objects, which are not loaded" if unsafe else str(error).split("\n")[0]
            raise DamagedCheckpoint(f"{path} is no checkpoint of a training: {reason}") from error
        keys = checkpoint.keys() if isinstance(checkpoint, dict) else ()
        if missing := [key for key in KEYS if key not in keys]:
            raise DamagedCheckpoint(f"{path} is no checkpoint of a training: it lacks {', '.join(missing)}")
        return checkpoint


def whole(path: str | Path) -> Path:
    """A checkpoint that is as it was written: this one, or in place of the last one the one before.

    Raises:
        FileNotFoundError: it is not there.
        DamagedCheckpoint: it was cut off or changed, and there is no other.
    """
    path, previous = Path(path), Path(path).with_name(PREVIOUS)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if is_intact(path):
        return path
    message = f"{path} cannot be read: it was cut off or changed, or is no checkpoint"
    if path.name != LAST or not previous.is_file():
        raise DamagedCheckpoint(f"{message}. Choose another with --ckpt_path, or begin anew")
    rank_zero_warn(f"{message}. The one before it is taken: {previous}")
    return whole(previous)


def is_intact(path: str | Path) -> bool:
    """Return whether a file is a zip archive with the right checksums, which `torch.load` does not compare."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError):  # RuntimeError: encrypted, or unknown
        return False
