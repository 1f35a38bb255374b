"""Directories of saved models, read without trusting them.

A model directory may be untrusted. Its configuration may name classes of ``vatt.models`` only, and no file, no name on
the Hub and no code. The model is first built on the meta device and compared with the header of the weights, so that
loading allocates little more memory than the weights have.
"""

from __future__ import annotations

import math
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from vatt.errors import InputError
from vatt.io import atomic_path, file_hash
from vatt.structures import ClipFormat
from vatt.untrusted import inner_file, read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
WEIGHTS_HASH = "weights_sha256"  # key in config.json
MAX_CONFIG = 2**24  # bytes
MAX_NUMBER, MAX_DEPTH = 2**31, 2**16  # largest integer, and largest number of layers
MAX_CLIP = 2**30  # values in a clip
FORMAT_TYPES: dict[str, tuple[type, ...]] = {  # of the values of a format; int unless given
    "crop_box": (list,),
    "fps": (int, float),
    "audio_s": (int, float),
    "audio_downmix": (str,),
    "audio_overflow": (str,),
}
MAX_PAGE = 2**22  # bytes of a model card
MAX_COPIED = 2**26  # bytes of a file of a vocabulary
SHOWN = 3  # tensors listed in an error
FILLS = frozenset(  # functions that fill a tensor
    "normal_ uniform_ trunc_normal_ xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ "
    "zeros_ ones_ constant_ zero_ fill_ _no_grad_normal_ _no_grad_uniform_ _no_grad_trunc_normal_".split()
)
ELEMENTWISE = frozenset(
    "add sub mul div true_divide pow exp log log1p log10 sin cos sqrt neg abs clamp minimum maximum".split()
)
EXTRA_BYTES = 2**28  # for tables that are not saved, beyond four times the size of the weights
_COUNTS = re.compile(r"depth|layers|blocks|groups")


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a model directory.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is damaged, or refers to external weights or code; the message names file and key.
    """
    try:
        config = read_json(inner_file(folder, CONFIG), MAX_CONFIG)
        _check_values(config, "")
    except InputError as error:
        text = str(error)
        raise InputError(text if str(folder) in text else f"{folder / CONFIG} is damaged: {text}") from error
    return config


def read_weights(folder: Path, digest: Any) -> dict[str, Tensor]:
    """Read ``model.safetensors``.

    Args:
        folder: Model directory.
        digest: SHA-256 of the file in the configuration, or None.

    Raises:
        InputError: The file is damaged, or does not belong to the configuration.
    """
    path = inner_file(folder, WEIGHTS)
    if digest is not None and file_hash(path) != digest:
        raise InputError(
            f"{path} is damaged, or does not belong to {CONFIG}: its SHA-256 differs from {WEIGHTS_HASH!r} there (was "
            f"saving interrupted?). Save the model again, or remove {WEIGHTS_HASH!r} from {CONFIG} to load it anyway"
        )
    try:
        return load_file(path)
    except (ValueError, OSError, SafetensorError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def check_fits(make: Callable[[], nn.Module], folder: Path) -> None:
    """Check that the state dict of a model matches the file of the weights before allocating memory.

    Args:
        make: Builds the model.
        folder: Model directory.

    Raises:
        InputError: The file is damaged, or does not match the model; the message names the tensors.
    """
    path = inner_file(folder, WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    max_bytes = 4 * path.stat().st_size + EXTRA_BYTES
    with torch.device("meta"), _NoValues(max_bytes), _at_most(10 * len(shapes) + 100):
        model = make()
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    mismatches = {
        "missing": [name for name in expected if name not in shapes],
        "unexpected": [name for name in shapes if name not in expected],
        "shape mismatch": [
            f"{name} ({shape} in the file, {expected[name]} in the model)"
            for name, shape in shapes.items()
            if expected.get(name, shape) != shape
        ],
    }
    if problems := [f"{kind}: {_listed(names)}" for kind, names in mismatches.items() if names]:
        raise InputError(f"{folder}: {WEIGHTS} does not match {CONFIG}; {'; '.join(problems)}")
    size = sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))
    if size > max_bytes:
        raise InputError(
            f"{folder / CONFIG} describes a model of {size:,} bytes, but {WEIGHTS} has {path.stat().st_size:,} bytes"
        )


def read_format(values: Any) -> ClipFormat:
    """Return the clip format of a configuration.

    Raises:
        InputError: A value is missing or has the wrong type, or a clip would be too large.
    """
    if not isinstance(values, dict):
        raise InputError("not a JSON object")
    values = {key: value for key, value in values.items() if value is not None or key != "audio_s"}
    missing = [field.name for field in fields(ClipFormat) if field.name not in (*values, "audio_s")]
    if missing:
        raise InputError(f"{missing[0]!r} is missing")
    for key, value in values.items():
        kinds = FORMAT_TYPES.get(key, (int,))
        numbers = value if key == "crop_box" and isinstance(value, list) else [] if kinds == (str,) else [value]
        if type(value) not in kinds or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
            raise InputError(f"{key!r} has an invalid value: {str(value)[:60]!r}")
    try:
        format = ClipFormat.from_dict(values)
        sizes = (3 * format.num_frames * format.size**2, format.num_samples, format.num_words * format.num_texts)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(str(error)) from error
    if max(sizes) > MAX_CLIP:
        raise InputError(f"a clip would have {max(sizes):,} values, more than {MAX_CLIP:,}")
    return format


def copy_directory(source: Path, target: Path) -> None:
    """Copy the files of a vocabulary. Links to other directories are refused, since the copy may be published.

    Args:
        source: Directory of a vocabulary.
        target: New directory.

    Raises:
        InputError: A file is a link to another directory, not a regular file, or too large.
        WriteError: The disk is full or read-only.
    """
    for path in sorted(source.iterdir(), key=lambda path: path.name == "vocabulary.json"):  # last
        if path.is_dir() and not path.is_symlink():
            copy_directory(path, target / path.name)
            continue
        if inner_file(source, path.name).stat().st_size > MAX_COPIED:
            raise InputError(f"{path} has more than {MAX_COPIED >> 20} MiB, the limit for a file of a vocabulary")
        with atomic_path(target / path.name) as copy:
            shutil.copyfile(path, copy)


def read_page(folder: Path, name: str) -> str | None:
    """Return the text of the model card in a model directory, or None if it cannot be read.

    Args:
        folder: Model directory.
        name: Name of the file.
    """
    try:
        path = inner_file(folder, name)
        return path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_PAGE else None
    except (OSError, InputError, UnicodeDecodeError):
        return None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _check_values(value: Any, where: str) -> None:
    """Check that a configuration refers to nothing external and has plausible sizes.

    Raises:
        InputError: A value refers to external weights or code, or is too large; the message names the key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{where}.{key}" if where else key
            if key in ("pretrained", "auto_map") and item is not None:
                raise InputError(f"{inner!r} refers to external weights or code, which a saved model may not do")
            if key.endswith("_implementation") and (item is not None and not str(item).isidentifier()):
                raise InputError(f"{inner!r} is {str(item)[:60]!r}, which may refer to external code")
            if type(item) is int and item > (MAX_DEPTH if _COUNTS.search(key) else MAX_NUMBER):
                raise InputError(f"{inner!r} is {str(item)[:20]}, which is too large")
            _check_values(item, inner)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check_values(item, f"{where}[{number}]")
    elif type(value) is int and abs(value) > MAX_NUMBER:
        raise InputError(f"{where!r} is {str(value)[:20]}, which is too large")


class _NoValues(TorchFunctionMode):
    """Create tensors on the meta device from their shapes alone, and refuse tensors that are too large.

    The meta device computes no values anyway, but PyTorch imports its compiler for many functions, which takes longer
    than everything else. Functions that are not listed here are called as usual.

    Args:
        max_bytes: Largest size of a tensor.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self.max_bytes = max_bytes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function.

        Raises:
            InputError: The result would be too large.
        """
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in FILLS:
            return args[0] if args else kwargs["tensor"]
        if name == "hann_window" or (name in ("randn", "rand") and not kwargs):
            result = torch.empty(*args)
        elif name in ELEMENTWISE and "out" not in kwargs:
            tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            result = torch.empty(np.broadcast_shapes(*(x.shape for x in tensors)), dtype=tensors[0].dtype)
        else:
            result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.numel() * result.element_size() > self.max_bytes:
            raise InputError(f"a tensor of shape {tuple(result.shape)} is too large for the size of {WEIGHTS}")
        return result


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Limit the number of parameters of a model that is built in this thread, and its modules to ten times as many.

    Raises:
        InputError: The model has more.
    """
    thread, remaining = threading.get_ident(), [parameters, 10 * parameters]

    def count(kind: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if threading.get_ident() == thread:
                remaining[kind] -= 1
                if remaining[kind] < 0:
                    raise InputError(f"the configuration describes far more tensors than {WEIGHTS} has")

        return hook

    handles = [
        register_module_parameter_registration_hook(count(0)),
        register_module_module_registration_hook(count(1)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
