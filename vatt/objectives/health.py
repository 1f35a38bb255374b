"""Collapse diagnostics of the vectors that a loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def spread(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """How far vectors (N, E) point in different directions: 1 in all, 0 in one.

    The standard deviation of the unit vectors, all axes together: the root of 1 minus the mean cosine of any two.
    Only ``valid`` rows (N,) count.
    """
    centered, count = _centered(x, valid)
    return (centered.square().sum() / count).sqrt()


@torch.no_grad()
def effective_rank(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the effective number of dimensions of vectors (N, E), from 1 to the smaller of N and E.

    exp of the entropy of the singular values, normalized to sum to 1 (Roy & Vetterli 2007; Garrido et al. 2023,
    "RankMe", equation 1), of the centered unit vectors. Only ``valid`` rows (N,) count.

    Args:
        x: (N, E).
        valid: (N,) bool; None: all rows are valid.

    Returns:
        () effective rank.
    """
    centered, _ = _centered(x, valid)
    small = centered @ centered.T if len(centered) < centered.shape[1] else centered.T @ centered
    squares = torch.linalg.eigvalsh(small.nan_to_num())
    rounding = squares.amax() * len(small) * torch.finfo(squares.dtype).eps  # rounding errors
    singular = squares.where(squares > rounding, 0.0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return rank.where(small.isfinite().all(), torch.nan)


@torch.no_grad()
def similarities(x: Tensor, y: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean cosine of positive pairs of vectors (N, E), and of negative pairs (0 without any).

    Only ``valid`` pairs (N,) count; without any, both are NaN.

    Args:
        x: (N, E).
        y: (N, E), the partners of ``x``.
        valid: (N,) bool; None: all pairs are valid.

    Returns:
        () mean cosine of positive pairs and () of negative pairs.
    """
    x, y = (F.normalize(_zeros_unless(vectors.float(), valid), dim=-1) for vectors in (x, y))
    positive, n = (x * y).sum(), _count(x, valid)
    negative = x.sum(dim=0) @ y.sum(dim=0) - positive
    return positive / n, (negative / (n * (n - 1)).clamp(min=1)).where(n > 0, torch.nan)


@torch.no_grad()
def of_vectors(name: str, x: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Return count, spread and effective rank of vectors (N, E) for `Objective.health`.

    Only ``valid`` rows (N,) count. With fewer than two, spread and rank are NaN.

    Args:
        name: Prefix of the keys.
        x: (N, E).
        valid: (N,) bool; None: all rows are valid.

    Returns:
        ``<name>_count``, ``<name>_spread`` and ``<name>_rank``.
    """
    count = _count(x, valid)
    metrics = {f"{name}_spread": spread(x, valid), f"{name}_rank": effective_rank(x, valid)}
    return {f"{name}_count": count} | {key: value.where(count > 1, torch.nan) for key, value in metrics.items()}


def _zeros_unless(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return (N, E) with zeros in invalid rows."""
    return x if valid is None else x.where(valid[:, None], 0.0)


def _count(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the number of valid rows without synchronizing the device."""
    return x.new_full((), len(x)) if valid is None else valid.sum().to(x.dtype)


def _centered(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return centered unit vectors, zeros in invalid rows, and the number of valid rows (at least 1)."""
    unit = F.normalize(_zeros_unless(x.float(), valid), dim=-1)
    count = _count(unit, valid).clamp(min=1)
    return _zeros_unless(unit - unit.sum(dim=0) / count, valid), count
