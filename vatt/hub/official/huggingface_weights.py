"""Weights in the directory of a Hugging Face model: safetensors or PyTorch files, in one file or several."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vatt.errors import InputError
from vatt.untrusted import inner_file, read_json

# In the order in which transformers looks for them.
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
LFS_POINTER = b"version https://git-lfs"
ADAPTER = "adapter_config.json"


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a Hugging Face model.

    Args:
        folder: Directory of the model.

    Raises:
        FileNotFoundError: There are no weights, or a file that the index names is missing.
        InputError: A file is damaged, or does not hold the tensors that the index names.
    """
    if (folder / ADAPTER).exists():
        raise InputError(
            f"{folder} holds an adapter (PEFT): merge it into the model with merge_and_unload, and save that"
        )
    name = next((name for name in FILES if (folder / name).exists()), None)
    if name is None:
        raise FileNotFoundError(f"no weights in {folder}: it has none of {', '.join(FILES)}")
    if not name.endswith(".index.json"):
        return _read_file(inner_file(folder, name))
    index = read_json(inner_file(folder, name), 2**26).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise InputError(f"{folder / name}: 'weight_map' must map names of tensors to names of files")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index.values())):
        try:
            path = inner_file(folder, file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder / file} is missing, which {name} names: download it again") from error
        read = _read_file(path)
        expected = {tensor for tensor, where in index.items() if where == file}
        if expected != read.keys():
            differing = ", ".join(sorted(expected ^ read.keys())[:3])
            raise InputError(f"{path} does not hold the tensors that {name} names: {differing}")
        tensors |= read
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    """Read one file.

    Raises:
        InputError: It is damaged, or holds other objects than tensors.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    try:
        tensors: Any = load_file(path) if path.suffix == ".safetensors" else load_pickle(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Download it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise InputError(f"{path} is not a mapping of names to tensors")
    return tensors


def load_pickle(path: Path) -> Any:
    """Load a file of `torch.save` without executing code in it.

    Raises:
        InputError: It is damaged, or holds other objects than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} cannot be read: it is damaged, or contains Python objects, which are not loaded for security"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, KeyError, ValueError, AttributeError, IndexError) as error:
        if "not enough memory" in str(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path} cannot be read: {reason}") from error
