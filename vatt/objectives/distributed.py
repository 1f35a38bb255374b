"""Putting the batches of all processes together, with the right gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vatt.objectives.losses import pairwise_logsumexp


def world_size() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if world_size() > 1 else 0


def local_slice(x: Tensor) -> Tensor:
    """Of rows (B * world, …) that all processes have drawn alike, those of this one, (B, …)."""
    return x[rank() :: world_size()]


def assert_same_across_ranks(value: Any, what: str) -> None:
    """Check that a value is the same in all processes.

    Raises:
        ValueError: The value differs; the message lists the values.
    """
    if world_size() > 1:
        values: list[Any] = [None] * world_size()
        dist.all_gather_object(values, value)
        if any(other != value for other in values):
            listed = ", ".join(f"process {number}: {other}" for number, other in enumerate(values))
            raise ValueError(f"processes have different {what} ({listed}), which would end in a deadlock")


def gather(x: Tensor) -> Tensor:
    """Concatenate (B, …) of all processes, in order of their rank: (B * world, …).

    The gradient of a process' own part is the sum of the gradients that all processes have for it. When every
    process computes the same loss on the gathered batch, and gradients are then averaged over the processes as DDP
    does, the result is the gradient of that loss. Without a process group this is the identity.
    """
    return x if world_size() == 1 else _Gather.apply(x)


def gather_in_order(x: Tensor) -> Tensor:
    """`gather`, with the rows where one process alone would have them: `local_slice` gives them back."""
    return gather(x).unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)


def distributed_pairwise_logsumexp(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    max_logits: int | None,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `vatt.objectives.losses.pairwise_logsumexp` of vectors that all processes have, split over the processes.

    Each of N processes computes 2 / N of the similarities. All get the complete result, with a gradient as in `gather`.

    Args:
        x, y, temperature, max_logits, x_valid, y_valid: See `vatt.objectives.losses.pairwise_logsumexp`.
    """
    if world_size() == 1:
        return pairwise_logsumexp(x, y, temperature, max_logits, x_valid=x_valid, y_valid=y_valid)
    of_x = _gathered_pairwise_logsumexp(x, y, temperature, max_logits, x_valid, y_valid)
    return of_x, _gathered_pairwise_logsumexp(y, x, temperature, max_logits, y_valid, x_valid)


def _gathered_pairwise_logsumexp(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    max_logits: int | None,
    x_valid: Tensor | None,
    y_valid: Tensor | None,
) -> Tensor:
    """Return (M,): for each x the sum over all y. Each process computes an equal part of the rows."""
    rows = -(-len(x) // world_size())  # of each process; the last one may have fewer
    chunk = slice(rows * rank(), rows * (rank() + 1))
    chunk_valid = None if x_valid is None else x_valid[chunk]
    local, _ = pairwise_logsumexp(
        x[chunk], y, temperature, max_logits, both=False, x_valid=chunk_valid, y_valid=y_valid
    )
    return gather(F.pad(local, (0, rows - len(local))))[: len(x)]


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
