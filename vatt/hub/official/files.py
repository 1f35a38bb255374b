"""Reading an official checkpoint: TensorFlow 2's own files, or an ``.npz`` of the same variables."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from vatt.errors import InputError
from vatt.hub.official.rules import Array
from vatt.hub.official.tensorflow_reader import NO_TENSORFLOW, VALUE

WEIGHT = "weight/"
ABOVE = re.compile(r"^(model/)?(layer_with_weights-\d+/)?")  # what stands above the Keras model in a checkpoint


def read_variables(path: str | Path) -> dict[str, Array]:
    """Every variable of a checkpoint by its path below the Keras model.

    Args:
        path: ``ckpt-N.index``, ``ckpt-N``, a folder with one or more of them (the last is taken), or an ``.npz`` with
            keys ``weight/<path>``, whose other keys are left out.

    Raises:
        FileNotFoundError: there is no checkpoint.
        InputError: it cannot be read.
        ImportError: TensorFlow is missing.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    return _read_tensorflow(_prefix(path))


def _read_npz(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [key for key in file.files if key.startswith(WEIGHT)]
            found = {_below(key.removeprefix(WEIGHT)): file[key] for key in keys}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not found:
        raise InputError(f"{path} has no key that begins with {WEIGHT}")
    if len(found) < len(keys):
        raise InputError(f"{path}: {len(keys) - len(found)} variables have the path of another one")
    return found


def _prefix(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.index"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.stem)])
        if not found:
            raise FileNotFoundError(f"no checkpoint in {path}: it has no .index file")
        path = found[-1]
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if re.search(r"\.data-\d+-of-\d+$", prefix.name):
        prefix = prefix.with_suffix("")
    if not Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(f"no checkpoint at {prefix}: {prefix.name}.index is missing")
    if not any(prefix.parent.glob(f"{prefix.name}.data-*")):
        raise FileNotFoundError(f"{prefix.name}.index has no {prefix.name}.data-00000-of-00001 beside it")
    return prefix


def _read_tensorflow(prefix: Path) -> dict[str, Array]:
    """In a process of its own: see `vatt.hub.official.tensorflow_reader`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "variables.npz"
        program = Path(__file__).with_name("tensorflow_reader.py")
        done = subprocess.run(
            [sys.executable, "-P", str(program), str(prefix), str(output)], capture_output=True, text=True, check=False
        )
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        if done.returncode == NO_TENSORFLOW:
            raise ImportError(f'TensorFlow checkpoints need TensorFlow: pip install "vatt[tensorflow]" ({said[0]})')
        if done.returncode != 0:
            raise InputError(f"{prefix} cannot be read: {said[0]}")
        return _read_npz(output)


def _below(key: str) -> str:
    return ABOVE.sub("", key.removesuffix(VALUE), count=1)
