"""Which tokens are kept: index tensors (B, M), applied with `vatt.structures.Tokens.take`."""

from __future__ import annotations

import torch
from torch import Tensor


def random_keep(
    batch: int, num_tokens: int, drop: float, *, per_sample: bool = False, device: torch.device | None = None
) -> Tensor:
    """DropToken (VATT, section 3.2): a random part of the tokens.

    Args:
        batch: B.
        num_tokens: N.
        drop: share of the tokens that is dropped, in [0, 1).
        per_sample: draw for every clip of the batch; False drops the same places in all of them, as the released
            code does.
        device: where the indices live.

    Returns:
        (B, M) int64 with M = max(1, floor(N * (1 - drop))), ascending within each row.
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop must lie in [0, 1), not {drop}")
    kept = max(1, int(num_tokens * (1 - drop) + 1e-9))
    scores = torch.rand(batch if per_sample else 1, num_tokens, device=device)
    keep = scores.topk(kept, dim=1).indices.sort(dim=1).values
    return keep.expand(batch, -1)
