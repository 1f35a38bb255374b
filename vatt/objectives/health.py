"""Signs of a training that goes well or collapses, of the vectors that a loss compares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def spread(x: Tensor) -> Tensor:
    """How far vectors (N, E) point in different directions: 1 in all, 0 in one.

    The standard deviation of the unit vectors, all axes together: the root of 1 minus the mean cosine of any two.
    """
    unit = F.normalize(x.float(), dim=-1)
    return (unit - unit.mean(dim=0)).square().sum(dim=1).mean().sqrt()


@torch.no_grad()
def effective_rank(x: Tensor) -> Tensor:
    """How many dimensions vectors (N, E) fill, from 1 to the smaller of N and E.

    exp of the entropy of the singular values as shares of their sum (Roy & Vetterli 2007; Garrido et al. 2023,
    "RankMe", equation 1), of the unit vectors without their mean.
    """
    unit = F.normalize(x.float(), dim=-1)
    unit = unit - unit.mean(dim=0)
    small = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    singular = torch.linalg.eigvalsh(small.nan_to_num()).clamp(min=0).sqrt()
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp()
    return rank.where(small.isfinite().all(), torch.nan)


@torch.no_grad()
def similarities(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine of vectors (N, E) with their own partner, and with all the others' (0 without others)."""
    x, y = F.normalize(x.float(), dim=-1), F.normalize(y.float(), dim=-1)
    own, n = (x * y).sum(dim=1), len(x)
    everyone = x.sum(dim=0) @ y.sum(dim=0)
    return own.mean(), (everyone - own.sum()) / max(n * (n - 1), 1)


@torch.no_grad()
def of_vectors(name: str, x: Tensor) -> dict[str, Tensor]:
    """Of vectors (N, E), for `Objective.health`: how many, how far apart, and in how many dimensions."""
    found = {f"{name}_count": x.new_tensor(len(x))}
    if len(x) > 1:
        found |= {f"{name}_spread": spread(x), f"{name}_rank": effective_rank(x)}
    return found
