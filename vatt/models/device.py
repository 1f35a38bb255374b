"""The device that a model runs on."""

from __future__ import annotations

import torch

from vatt.errors import InputError


def resolve_device(name: str | None = None) -> torch.device:
    """Return a device by name. The default is a GPU if available, else the CPU.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ``mps``. None selects a GPU if available, else the CPU.

    Raises:
        InputError: The machine has no such device.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    count = torch.cuda.device_count()
    if name is None:
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise InputError(f"device {name!r} is unknown: choose cpu, cuda, cuda:0 or mps") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        available = f"{count} GPU{'s' * (count > 1)}" if count else "no GPU"
        raise InputError(
            f"device {name!r}: PyTorch finds {available} on this machine; choose another device, such as cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"device {name!r}: this machine has no Apple GPU that PyTorch can use; choose cpu")
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise InputError(f"device {name!r} is not supported: choose cpu, cuda or mps")
    return device
