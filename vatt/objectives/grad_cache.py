"""Large batches on little memory: features in micro-batches, whose gradients are computed one after the other.

A contrastive loss needs the features of the whole batch, but not what the backbone keeps for their gradient. Here every
micro-batch is encoded without keeping that; when the gradient of its features is known it is encoded once more, with
the same random draws, and differentiated (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory
Limited Setup"). Loss and gradients are those of the whole batch, at the price of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def grad_cache_forward(
    encode: Callable[..., Tensor], size: int | None, raw: Tensor, keep: Tensor | None = None
) -> Tensor:
    """``encode(raw, keep)`` of a whole batch, with the memory of one micro-batch.

    Args:
        encode: (b, …) raw signals, and the places (b, M) that are kept of them or None, to (b, D). What it computes for
            a row must not depend on the other rows.
        size: rows of a micro-batch; None takes the batch as one, and keeps everything for the gradient.
        raw: (B, …).
        keep: (B, M), drawn for the whole batch.

    Returns:
        (B, D).

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size is None:
        return encode(raw, keep)
    if size < 1:
        raise ValueError(f"a micro-batch has at least one row, not {size}")
    keeps = [None] * -(-len(raw) // size) if keep is None else keep.split(size)
    parts = [
        checkpoint(encode, part, kept, use_reentrant=False) if torch.is_grad_enabled() else encode(part, kept)
        for part, kept in zip(raw.split(size), keeps, strict=True)
    ]
    return torch.cat(parts)
