"""Putting the batches of all processes together, with the right gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vatt.objectives.losses import log_sums


def world_size() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if world_size() > 1 else 0


def own_part(x: Tensor) -> Tensor:
    """Of rows (B * world, …) that all processes have drawn alike, those of this one, (B, …)."""
    return x[rank() :: world_size()]


def agree(value: Any, what: str) -> None:
    """See that all processes have the same.

    Raises:
        ValueError: they have not.
    """
    if world_size() > 1:
        values: list[Any] = [None] * world_size()
        dist.all_gather_object(values, value)
        if any(other != value for other in values):
            found = ", ".join(f"process {number}: {other}" for number, other in enumerate(values))
            raise ValueError(f"processes have different {what} ({found}), and would wait for each other forever")


def gather(x: Tensor) -> Tensor:
    """Concatenate (B, …) of all processes, in order of their rank: (B * world, …).

    The gradient of a process' own part is the sum of the gradients that all processes have for it. When every
    process computes the same loss on the gathered batch, and gradients are then averaged over the processes as DDP
    does, the result is the gradient of that loss. Without a process group this is the identity.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def gather_in_order(x: Tensor) -> Tensor:
    """`gather`, with the rows where one process alone would have them: `own_part` gives them back."""
    return gather(x).unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)


def shared_log_sums(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    max_logits: int | None,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`vatt.objectives.losses.log_sums` of vectors that all processes have, of which each computes its share.

    All have all of the result, with a gradient as `gather` has it. Of N processes each makes 2 / N of the similarities.
    """
    if world_size() == 1:
        return log_sums(x, y, temperature, max_logits, x_valid=x_valid, y_valid=y_valid)
    of_x = _share(x, y, temperature, max_logits, x_valid, y_valid)
    return of_x, _share(y, x, temperature, max_logits, y_valid, x_valid)


def _share(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    max_logits: int | None,
    x_valid: Tensor | None,
    y_valid: Tensor | None,
) -> Tensor:
    """(M,): for each x over all y."""
    rows = -(-len(x) // world_size())  # of all but the last
    here = slice(rows * rank(), rows * (rank() + 1))
    here_valid = None if x_valid is None else x_valid[here]
    mine, _ = log_sums(x[here], y, temperature, max_logits, both=False, x_valid=here_valid, y_valid=y_valid)
    return gather(F.pad(mine, (0, rows - len(mine))))[: len(x)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
