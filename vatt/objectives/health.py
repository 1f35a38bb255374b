"""Signs of a training that goes well or collapses, of the vectors that a loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def spread(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """How far vectors (N, E) point in different directions: 1 in all, 0 in one.

    The standard deviation of the unit vectors, all axes together: the root of 1 minus the mean cosine of any two.
    Only those are counted that are ``valid`` (N,).
    """
    centered, count = _centered(x, valid)
    return (centered.square().sum() / count).sqrt()


@torch.no_grad()
def effective_rank(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """How many dimensions vectors (N, E) fill, from 1 to the smaller of N and E.

    exp of the entropy of the singular values as shares of their sum (Roy & Vetterli 2007; Garrido et al. 2023,
    "RankMe", equation 1), of the unit vectors without their mean. Only those are counted that are ``valid`` (N,).
    """
    centered, _ = _centered(x, valid)
    small = centered @ centered.T if len(centered) < centered.shape[1] else centered.T @ centered
    squares = torch.linalg.eigvalsh(small.nan_to_num())
    rounding = squares.amax() * len(small) * torch.finfo(squares.dtype).eps  # directions that are not there
    singular = squares.where(squares > rounding, 0.0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return rank.where(small.isfinite().all(), torch.nan)


@torch.no_grad()
def similarities(x: Tensor, y: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cosine of vectors (N, E) with their own partner, and with all the others' (0 without others).

    Only pairs are counted that are ``valid`` (N,); without any, both are NaN.
    """
    x, y = (F.normalize(_zeros_unless(vectors.float(), valid), dim=-1) for vectors in (x, y))
    own, n = (x * y).sum(), _count(x, valid)
    others = x.sum(dim=0) @ y.sum(dim=0) - own
    return own / n, (others / (n * (n - 1)).clamp(min=1)).where(n > 0, torch.nan)


@torch.no_grad()
def of_vectors(name: str, x: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """Of vectors (N, E), for `Objective.health`: how many, how far apart, and in how many dimensions.

    Only those are counted that are ``valid`` (N,); of fewer than two, spread and rank are NaN.
    """
    count = _count(x, valid)
    signs = {f"{name}_spread": spread(x, valid), f"{name}_rank": effective_rank(x, valid)}
    return {f"{name}_count": count} | {key: sign.where(count > 1, torch.nan) for key, sign in signs.items()}


def _zeros_unless(x: Tensor, valid: Tensor | None) -> Tensor:
    """(N, E) with zeros in the rows that are not valid."""
    return x if valid is None else x.where(valid[:, None], 0.0)


def _count(x: Tensor, valid: Tensor | None) -> Tensor:
    """Number of valid rows, without reading it from the device."""
    return x.new_full((), len(x)) if valid is None else valid.sum().to(x.dtype)


def _centered(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit vectors without their mean, zeros where not valid, and how many are valid (at least 1)."""
    unit = F.normalize(_zeros_unless(x.float(), valid), dim=-1)
    count = _count(unit, valid).clamp(min=1)
    return _zeros_unless(unit - unit.sum(dim=0) / count, valid), count
