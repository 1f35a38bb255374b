"""NCE and MIL-NCE (VATT, section 3.4, equations 4 to 6), as functions of embeddings.

Two forms, as in the released code. Let s be cosine similarity / temperature, x_i the first modality (video) and
y_jl the l-th candidate of clip j in the other one.

- ``asymmetric``: log-sum-exp over {s(x_i, y_jl)} and {s(x_j, y_il)} together, minus log-sum-exp_l s(x_i, y_il). The
  positives stand in the denominator twice, so the loss of a perfect model is ln 2.
- ``symmetric``: the sum of both directions, each against its own negatives; its floor is 0.

Similarities of B clips with B K candidates are more than memory holds where B is large: above `MAX_LOGITS` they are
made in parts, forgotten, and made again for the gradient.

What is not valid is no positive and no negative. The mean is taken over the pairs of which both sides are valid
(``mean="pairs"``). The released code multiplies by B over the number of valid rows once for each side, which is the
same where only one side has gaps, and too much where both have (``mean="official"``; its asymmetric form knows no gaps
in x at all).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.models.precision import single_precision

MAX_LOGITS = 2**21  # 8 MiB, a few times over

Form = Literal["asymmetric", "symmetric"]
Mean = Literal["pairs", "official"]
LogSums = Callable[[Tensor, Tensor, "float | Tensor", "int | None"], tuple[Tensor, Tensor]]


def nce(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor = 0.07,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
    form: Form = "asymmetric",
    mean: Mean = "pairs",
    max_logits: int | None = MAX_LOGITS,
    sums: LogSums | None = None,
) -> Tensor:
    """Noise-contrastive estimation between paired rows.

    Args:
        x: (B, E), normalised here.
        y: (B, E); row i belongs to row i of ``x``.
        temperature: of the similarities.
        x_valid, y_valid: (B,) bool; an invalid row is no positive and no negative.
        form, mean: see the module.
        max_logits: see `log_sums`.
        sums: in place of `log_sums`; see `vatt.objectives.distributed.shared_log_sums`.

    Returns:
        Scalar: the mean over the pairs of which both sides are valid; 0 without any.
    """
    y_valid = None if y_valid is None else y_valid.unsqueeze(1)
    return mil_nce(x, y.unsqueeze(1), temperature, x_valid, y_valid, form, mean, max_logits, sums)


def mil_nce(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor = 0.07,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
    form: Form = "asymmetric",
    mean: Mean = "pairs",
    max_logits: int | None = MAX_LOGITS,
    sums: LogSums | None = None,
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
        max_logits: see `log_sums`.
        sums: in place of `log_sums`; see `vatt.objectives.distributed.shared_log_sums`.

    Returns:
        Scalar: the mean over the rows that are valid and have a candidate; 0 without any.
    """
    if form not in ("asymmetric", "symmetric"):
        raise ValueError(f"form must be asymmetric or symmetric, not {form!r}")
    if x.ndim != 2 or y.ndim != 3 or x.shape[0] != y.shape[0] or x.shape[1] != y.shape[2]:
        raise ValueError(f"x must be (B, E) and y (B, K, E), not {tuple(x.shape)} and {tuple(y.shape)}")
    with single_precision(x):  # similarities and loss in float32
        b, k, _ = y.shape
        x_valid = x.new_ones(b, dtype=torch.bool) if x_valid is None else x_valid
        y_valid = x.new_ones(b, k, dtype=torch.bool) if y_valid is None else y_valid
        x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
        rows = (x_valid & y_valid.any(dim=1)).nonzero().squeeze(1)
        if len(rows) == 0:
            return (x.sum() + y.sum()) * 0.0
        never = x.new_tensor(-torch.inf)
        # s(x_i, y_i1), s(x_i, y_i2), …: (R, K)
        own = (torch.einsum("ie,ike->ik", x[rows], y[rows]) / temperature).where(y_valid[rows], never)
        positive = own.logsumexp(dim=1)
        of_x, of_y = (sums or log_sums)(x[x_valid], y[y_valid], temperature, max_logits)
        to_all_y = never.expand(b).index_put((x_valid,), of_x)[rows]  # (R,): x_i against every candidate
        to_all_x = never.expand(b, k).index_put((y_valid,), of_y)[rows].logsumexp(dim=1)  # its candidates and every x
        if form == "asymmetric":
            loss = (torch.logaddexp(to_all_y, to_all_x) - positive).mean()
        else:
            loss = (to_all_y + to_all_x - 2 * positive).mean()
        if mean == "official":
            loss = loss * len(rows) * b / (x_valid.sum() * y_valid.any(dim=1).sum())
        return loss


def log_sums(
    x: Tensor, y: Tensor, temperature: float | Tensor, max_logits: int | None = MAX_LOGITS, both: bool = True
) -> tuple[Tensor, Tensor]:
    """The logarithm of the sum of exp(x y' / temperature), over all y for each x, and over all x for each y.

    Args:
        x: (M, E).
        y: (N, E).
        temperature: of the dot products.
        max_logits: most dot products that are in memory at once; the same comes out. None: all M N of them.
        both: False leaves the second out.

    Returns:
        (M,) and (N,), or (0,) without the second.
    """
    rows = len(x) if max_logits is None else max(1, max_logits // len(y))
    if rows >= len(x):
        logits = x @ y.T / temperature
        return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if both else logits.new_empty(0)
    scale = torch.as_tensor(temperature, dtype=x.dtype, device=x.device).reciprocal()
    return _LogSums.apply(x, y, scale, rows, both)


class _LogSums(torch.autograd.Function):
    """The same in parts of some rows of x, none of which is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, rows: int, both: bool) -> tuple[Tensor, Tensor]:
        parts, of_y = [], y.new_full((len(y) if both else 0,), -torch.inf)
        for part in x.split(rows):
            logits = (part @ y.T).mul_(scale)
            parts.append(logits.logsumexp(dim=1))
            if both:
                of_y = torch.logaddexp(of_y, logits.logsumexp(dim=0))
        of_x = torch.cat(parts)
        ctx.rows, ctx.both = rows, both
        ctx.save_for_backward(x, y, scale, of_x, of_y)
        return of_x, of_y

    @staticmethod
    def backward(ctx: Any, to_x: Tensor, to_y: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, of_x, of_y = ctx.saved_tensors
        x_gradient, y_gradient, scale_gradient = torch.empty_like(x), torch.zeros_like(y), torch.zeros_like(scale)
        for begin in range(0, len(x), ctx.rows):
            here = slice(begin, begin + ctx.rows)
            products = x[here] @ y.T
            logits = products * scale
            shares = (logits - of_x[here, None]).exp_().mul_(to_x[here, None])
            if ctx.both:
                shares += logits.sub_(of_y).exp_().mul_(to_y)
            scale_gradient += products.mul_(shares).sum()
            shares *= scale
            x_gradient[here] = shares @ y
            y_gradient.addmm_(shares.T, x[here])
        return x_gradient, y_gradient, scale_gradient, None, None
