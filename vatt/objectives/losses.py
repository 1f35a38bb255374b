"""NCE and MIL-NCE (VATT, section 3.4, equations 4 to 6), as functions of embeddings.

Two forms, as in the released code. Let s be cosine similarity / temperature, x_i the first modality (video) and
y_jl the l-th candidate of clip j in the other one.

- ``asymmetric``: log-sum-exp over {s(x_i, y_jl)} and {s(x_j, y_il)} together, minus log-sum-exp_l s(x_i, y_il). The
  positives stand in the denominator twice, so the loss of a perfect model is ln 2.
- ``symmetric``: the sum of both directions, each against its own negatives; its floor is 0.

What is not valid is no positive and no negative. The mean is taken over the pairs of which both sides are valid
(``mean="pairs"``). The released code multiplies by B over the number of valid rows once for each side, which is the
same where only one side has gaps, and too much where both have (``mean="official"``; its asymmetric form knows no gaps
in x at all).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["asymmetric", "symmetric"]
Mean = Literal["pairs", "official"]


def nce(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor = 0.07,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
    form: Form = "asymmetric",
    mean: Mean = "pairs",
) -> Tensor:
    """Noise-contrastive estimation between paired rows.

    Args:
        x: (B, E), normalised here.
        y: (B, E); row i belongs to row i of ``x``.
        temperature: of the similarities.
        x_valid, y_valid: (B,) bool; an invalid row is no positive and no negative.
        form, mean: see the module.

    Returns:
        Scalar: the mean over the pairs of which both sides are valid; 0 without any.
    """
    y_valid = None if y_valid is None else y_valid.unsqueeze(1)
    return mil_nce(x, y.unsqueeze(1), temperature, x_valid, y_valid, form, mean)


def mil_nce(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor = 0.07,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
    form: Form = "asymmetric",
    mean: Mean = "pairs",
) -> Tensor:
    """Multiple-instance NCE: each row of ``x`` has K candidates, of which some may be wrong.

    Args:
        x: (B, E), normalised here.
        y: (B, K, E); the candidates of row i of ``x``.
        temperature: of the similarities.
        x_valid: (B,) bool.
        y_valid: (B, K) bool; an invalid candidate is no positive and no negative. A row without any valid candidate
            has no loss of its own, and its ``x`` stays a negative for the others.
        form, mean: see the module.

    Returns:
        Scalar: the mean over the rows that are valid and have a candidate; 0 without any.
    """
    if form not in ("asymmetric", "symmetric"):
        raise ValueError(f"form must be asymmetric or symmetric, not {form!r}")
    if x.ndim != 2 or y.ndim != 3 or x.shape[0] != y.shape[0] or x.shape[1] != y.shape[2]:
        raise ValueError(f"x must be (B, E) and y (B, K, E), not {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.autocast(x.device.type, enabled=False):  # similarities and loss in float32
        b, k, _ = y.shape
        x_valid = x.new_ones(b, dtype=torch.bool) if x_valid is None else x_valid
        y_valid = x.new_ones(b, k, dtype=torch.bool) if y_valid is None else y_valid
        x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
        similarity = torch.einsum("ie,jke->ijk", x, y) / temperature
        similarity = similarity.masked_fill(~(x_valid[:, None, None] & y_valid[None]), -torch.inf)

        rows = (x_valid & y_valid.any(dim=1)).nonzero().squeeze(1)
        if len(rows) == 0:
            return (x.sum() + y.sum()) * 0.0
        positive = similarity[rows, rows].logsumexp(dim=1)
        to_all_y = similarity[rows].flatten(1)  # (R, B K): x_i against every candidate
        to_all_x = similarity[:, rows].transpose(0, 1).flatten(1)  # (R, B K): the candidates of i against every x
        if form == "asymmetric":
            loss = (torch.cat([to_all_y, to_all_x], dim=1).logsumexp(dim=1) - positive).mean()
        else:
            loss = (to_all_y.logsumexp(dim=1) + to_all_x.logsumexp(dim=1) - 2 * positive).mean()
        if mean == "official":
            loss = loss * len(rows) * b / (x_valid.sum() * y_valid.any(dim=1).sum())
        return loss
