"""Atomic writing and checked reading of checkpoint files."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from packaging.version import InvalidVersion, Version

from vatt.errors import VattError
from vatt.io import atomic_path, atomic_write
from vatt.training.private import has_progress, raised_while_restoring

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
KEYS = ("state_dict", "epoch", "global_step", "pytorch-lightning_version")  # of every checkpoint


def _is_version(value: Any) -> bool:
    try:
        return Version(value).major >= 2
    except (InvalidVersion, TypeError):
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def _is_optimizer_state(value: Any) -> bool:
    try:
        return isinstance(value["state"], dict) and all(isinstance(g["params"], list) for g in value["param_groups"])
    except (TypeError, KeyError):
        return False


def _list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_valid, value))


# Entries of a checkpoint: whether a value is valid, and what it must be.
ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "state_dict": (_are_tensors, "a mapping of tensors"),
    "current_model_state": (_are_tensors, "a mapping of tensors"),
    "averaging_state": (_are_tensors, "a mapping of tensors"),
    "epoch": (_is_count, "a number"),
    "global_step": (_is_count, "a number of steps"),
    "skipped_steps": (_is_count, "a number of steps"),
    "overflowed_steps": (_is_count, "a number of steps"),
    "pytorch-lightning_version": (_is_version, "a version of Lightning, 2.0 or later"),
    "loops": (has_progress, "a mapping with the progress of the training"),
    "callbacks": (lambda x: isinstance(x, dict) and all(isinstance(v, dict) for v in x.values()), "states by name"),
    "optimizer_states": (_list_of(_is_optimizer_state), "a list of states with param_groups"),
    "lr_schedulers": (
        _list_of(lambda x: isinstance(x, dict) and _is_count(x.get("last_epoch"))),
        "a list of states with last_epoch",
    ),
    "settings": (lambda x: isinstance(x, dict) and isinstance(x.get("optimization"), dict), "a mapping"),
    "ids": (lambda x: isinstance(x, dict), "a mapping of hashes"),
    "clips": (lambda x: isinstance(x, dict), "a mapping of hashes"),
    "finetuning": (lambda x: isinstance(x, dict), "a mapping"),
}


class DamagedCheckpoint(VattError, RuntimeError):
    """A checkpoint cannot be read or restored, and there is no previous one to use instead."""


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
        return read_checkpoint(intact_checkpoint(path), map_location)


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read an intact file, and check that its entries are those of a training checkpoint.

    Args:
        path: Checkpoint file, see `intact_checkpoint`.
        map_location: Device of the tensors.
        mmap: Read tensors from the file when they are used.

    Raises:
        DamagedCheckpoint: The file is not a training checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location, weights_only=True, mmap=mmap)
    except (RuntimeError, pickle.UnpicklingError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it contains Python objects that are not loaded for security" if unsafe else str(error).split("\n")[0]
        raise DamagedCheckpoint(f"{path} is not a training checkpoint: {reason}") from error
    keys = checkpoint.keys() if isinstance(checkpoint, dict) else ()
    if missing := [key for key in KEYS if key not in keys]:
        raise DamagedCheckpoint(f"{path} is not a training checkpoint: it has no {', '.join(missing)}")
    for key, (is_valid, expected) in ENTRIES.items():
        if key in checkpoint and not is_valid(checkpoint[key]):
            raise DamagedCheckpoint(f"{path} is not a training checkpoint: its {key} must be {expected}")
    return checkpoint


@contextmanager
def naming_checkpoint(path: str | Path | None) -> Iterator[None]:
    """Convert errors of Lightning and of hooks that restore a checkpoint to a message that names the file.

    Args:
        path: Checkpoint file.

    Raises:
        DamagedCheckpoint: The checkpoint cannot be restored.
    """
    try:
        yield
    except (VattError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not raised_while_restoring(error) or "not enough memory" in str(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DamagedCheckpoint(
            f"{path} cannot be restored ({reason}): choose another checkpoint with --ckpt_path, or start a new training"
        ) from error


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
