"""Undocumented interfaces of PyTorch's optimizers for skipping a step on the device.

`torch.amp.GradScaler` skips a step on the device by setting ``found_inf`` on a fused optimizer: the kernels then change
neither weights nor state, and the device is not synchronized. Checked with torch 2.14.
tests/training/test_device_skip.py fails if a version behaves differently.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Return whether a flag on the device can skip the next step of an optimizer.

    This requires a fused optimizer and parameters that are not sharded (FSDP). SGD with momentum cannot skip its first
    step: it allocates uninitialized momentum buffers, which a skipped kernel would not fill.
    """
    for group in optimizer.param_groups:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not group.get("fused") or any(isinstance(parameter, DTensor) for parameter in trained):
            return False
        if isinstance(optimizer, SGD) and group["momentum"]:
            states = (optimizer.state.get(parameter, {}) for parameter in trained)
            if any(state.get("momentum_buffer") is None for state in states):
                return False
    return True


def skip_where(optimizer: Optimizer, flag: Tensor | None) -> None:
    """Skip the next step of a fused optimizer if a flag is True.

    Args:
        optimizer: Fused optimizer.
        flag: () bool on the device. None removes the flag.
    """
    if flag is not None:
        optimizer.found_inf = flag.float()  # type: ignore[attr-defined]
    elif hasattr(optimizer, "found_inf"):
        del optimizer.found_inf


def norms_of(tensors: list[Tensor]) -> Tensor:
    """Return the norm of each tensor, (N,) float32, computed with a few kernels for all of them."""
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
