"""Pixels as targets."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

PixelTarget = Literal["normalised", "raw"]
VARIANCE_EPS = 1e-6


def check_target(kind: str) -> None:
    """Raises ValueError for an unknown kind of target."""
    if kind not in get_args(PixelTarget):
        raise ValueError(f"a target is {' or '.join(get_args(PixelTarget))}, not {kind!r}")


@torch.no_grad()
def pixel_targets(patches: Tensor, kind: PixelTarget) -> Tensor:
    """What is to be predicted of patches.

    Args:
        patches: (B, N, P) in [-1, 1], of which the three colours are the last axis.
        kind: "raw" pixels in [0, 1]; or "normalised": of each patch and colour less the mean, over the deviation (He et
            al. 2022, "Masked Autoencoders", section 4.1; by colour as the released VideoMAE has it).

    Returns:
        (B, N, P) float32.
    """
    pixels = (patches.float() + 1) / 2
    if kind == "raw":
        return pixels
    pixels = pixels.unflatten(-1, (-1, 3))
    deviation = pixels.var(dim=-2, keepdim=True).sqrt() + VARIANCE_EPS
    return ((pixels - pixels.mean(dim=-2, keepdim=True)) / deviation).flatten(2)
