"""NCE and MIL-NCE (VATT, section 3.4, equations 4 to 6), as functions of embeddings.

Two forms, as in the released code. Let s be cosine similarity / temperature, x_i the first modality (video) and
y_jl the l-th candidate of clip j in the other one.

- ``asymmetric``: log-sum-exp over {s(x_i, y_jl)} and {s(x_j, y_il)} together, minus log-sum-exp_l s(x_i, y_il). The
  positives stand in the denominator twice, so the loss of a perfect model is ln 2.
- ``symmetric``: the sum of both directions, each against its own negatives; its floor is 0.

Similarities of B clips with B K candidates are more than memory holds where B is large: above `MAX_LOGITS` they are
made in parts, forgotten, and made again for the gradient.

Invalid rows and candidates are excluded from positives and negatives: `MASKED` is added to their logits, so that they
contribute exactly 0 to a sum of exponentials. Shapes do not depend on the number of valid rows, and the device is not
synchronized. The mean is taken over the pairs of which both sides are valid
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
MASKED = -1e30  # finite: the gradient of a log-sum-exp over -inf alone is NaN

Form = Literal["asymmetric", "symmetric"]
Mean = Literal["pairs", "official"]
LogSums = Callable[..., tuple[Tensor, Tensor]]  # see `pairwise_logsumexp`


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
        max_logits: see `pairwise_logsumexp`.
        sums: in place of `pairwise_logsumexp`; see `vatt.objectives.distributed.distributed_pairwise_logsumexp`.

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
        max_logits: see `pairwise_logsumexp`.
        sums: in place of `pairwise_logsumexp`; see `vatt.objectives.distributed.distributed_pairwise_logsumexp`.

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
        x, y = (rows.float().where(ok.unsqueeze(-1), 0.0) for rows, ok in ((x, x_valid), (y, y_valid)))
        x, y = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        y_has = y_valid.any(dim=1)
        paired = x_valid & y_has
        # s(x_i, y_i1), s(x_i, y_i2), …: (B, K)
        positive = _masked(torch.einsum("ie,ike->ik", x, y) / temperature, y_valid).logsumexp(dim=1)
        of_x, of_y = (sums or pairwise_logsumexp)(
            x, y.flatten(0, 1), temperature, max_logits, x_valid=x_valid, y_valid=y_valid.flatten()
        )
        to_all_y = of_x  # (B,): x_i against every candidate
        to_all_x = _masked(of_y.view(b, k), y_valid).logsumexp(dim=1)  # the candidates of x_i against every x
        if form == "asymmetric":
            losses = torch.logaddexp(to_all_y, to_all_x) - positive
        else:
            losses = to_all_y + to_all_x - 2 * positive
        pairs = paired.sum()
        # `where` keeps the values of rows without a pair, and their gradients, out of the sum.
        loss = losses.where(paired, 0.0).sum() / pairs.clamp(min=1)
        if mean == "official":
            loss = loss * pairs * b / (x_valid.sum() * y_has.sum()).clamp(min=1)
        return loss


def _masked(logits: Tensor, valid: Tensor) -> Tensor:
    """Add `MASKED` to invalid logits."""
    return logits + _bias(valid, logits)


def _bias(valid: Tensor, like: Tensor) -> Tensor:
    """Return 0 where valid and `MASKED` elsewhere, with dtype and device of another tensor."""
    return like.new_zeros(valid.shape).masked_fill_(~valid, MASKED)


def pairwise_logsumexp(
    x: Tensor,
    y: Tensor,
    temperature: float | Tensor,
    max_logits: int | None = MAX_LOGITS,
    both: bool = True,
    x_valid: Tensor | None = None,
    y_valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The logarithm of the sum of exp(x y' / temperature), over all y for each x, and over all x for each y.

    Args:
        x: (M, E).
        y: (N, E).
        temperature: of the dot products.
        max_logits: most dot products that are in memory at once; the same comes out. None: all M N of them.
        both: False leaves the second out.
        x_valid, y_valid: (M,) and (N,) bool; invalid rows are excluded from the sums. Sums for an invalid row, and sums
            over invalid rows only, are finite but have no meaning. None: all rows are valid.

    Returns:
        (M,) and (N,), or (0,) without the second.
    """
    x_bias, y_bias = (None if valid is None else _bias(valid, x) for valid in (x_valid, y_valid))
    rows = len(x) if max_logits is None else max(1, max_logits // len(y))
    if rows >= len(x):
        logits = x @ y.T / temperature
        logits = logits if y_bias is None else logits + y_bias
        logits = logits if x_bias is None else logits + x_bias[:, None]
        return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if both else logits.new_empty(0)
    scale = (x.new_ones(()) * temperature).reciprocal()  # not torch.tensor(…, device=…), which synchronizes the GPU
    return _PairwiseLogSumExp.apply(x, y, scale, rows, both, x_bias, y_bias)


class _PairwiseLogSumExp(torch.autograd.Function):
    """The same in parts of some rows of x, none of which is kept for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        rows: int,
        both: bool,
        x_bias: Tensor | None,
        y_bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        parts, of_y = [], y.new_full((len(y) if both else 0,), -torch.inf)
        for begin in range(0, len(x), rows):
            chunk = slice(begin, begin + rows)
            logits = _add_biases((x[chunk] @ y.T).mul_(scale), x_bias, y_bias, chunk)
            parts.append(logits.logsumexp(dim=1))
            if both:
                of_y = torch.logaddexp(of_y, logits.logsumexp(dim=0))
        of_x = torch.cat(parts)
        ctx.rows, ctx.both = rows, both
        ctx.save_for_backward(x, y, scale, of_x, of_y, x_bias, y_bias)
        return of_x, of_y

    @staticmethod
    def backward(ctx: Any, to_x: Tensor, to_y: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, of_x, of_y, x_bias, y_bias = ctx.saved_tensors
        x_gradient, y_gradient, scale_gradient = torch.empty_like(x), torch.zeros_like(y), torch.zeros_like(scale)
        for begin in range(0, len(x), ctx.rows):
            chunk = slice(begin, begin + ctx.rows)
            products = x[chunk] @ y.T
            logits = _add_biases(products * scale, x_bias, y_bias, chunk)
            shares = (logits - of_x[chunk, None]).exp_().mul_(to_x[chunk, None])
            if ctx.both:
                shares += logits.sub_(of_y).exp_().mul_(to_y)
            scale_gradient += products.mul_(shares).sum()
            shares *= scale
            x_gradient[chunk] = shares @ y
            y_gradient.addmm_(shares.T, x[chunk])
        return x_gradient, y_gradient, scale_gradient, None, None, None, None


def _add_biases(logits: Tensor, x_bias: Tensor | None, y_bias: Tensor | None, chunk: slice) -> Tensor:
    """Mask the logits of invalid rows and columns in place."""
    if y_bias is not None:
        logits += y_bias
    if x_bias is not None:
        logits += x_bias[chunk, None]
    return logits
