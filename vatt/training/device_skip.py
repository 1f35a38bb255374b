"""What is used of PyTorch's optimizers that is not part of their documented interface.

`torch.amp.GradScaler` leaves a step out on the device by setting ``found_inf`` on a fused optimizer: the kernels then
change neither weights nor state, and nothing is read back. Checked with torch 2.14; tests/training/test_device_skip.py
fails when a version behaves otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Optimizer


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether a step of an optimizer can be left out by a flag on the device.

    Only fused optimizers can. SGD cannot before its momentum exists: the first step makes it without initial values,
    and a kernel that is skipped leaves them so. Neither can sharded parameters (FSDP).
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
    """Have the next step of a fused optimizer left out where a flag () is True; None takes the flag away."""
    if flag is not None:
        optimizer.found_inf = flag.float()  # type: ignore[attr-defined]
    elif hasattr(optimizer, "found_inf"):
        del optimizer.found_inf


def norms_of(tensors: list[Tensor]) -> Tensor:
    """The norm of each tensor, (N,) float32, in a few kernels for all of them."""
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors)])
