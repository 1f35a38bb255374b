"""Losses of fine-tuning: classes that exclude each other, classes that do not, and mixtures of clips."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.models.selection import to_device

Weighting = Literal["none", "rarity"]


def classification_loss(
    logits: Tensor,
    target: Tensor,
    multi_label: bool = False,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy, or sigmoid cross-entropy summed over the classes (VATT, appendices A.2.5 and A.3).

    Args:
        logits: (B, C).
        target: (B, C) float: a distribution over the classes, or a probability for each of them.
        multi_label: sigmoid instead of softmax.
        label_smoothing: share of every target that is spread over all classes; softmax only.
        weights: (B,) of the clips; 1 each unless given.

    Returns:
        Mean over the clips, in nats.

    Raises:
        ValueError: smoothing of targets that do not exclude each other.
    """
    if multi_label:
        if label_smoothing:
            raise ValueError("label_smoothing is for classes that exclude each other")
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
    else:
        losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)
    return (losses if weights is None else losses * weights).mean()


def rarity_weights(target: Tensor) -> Tensor:
    """Weights of clips by how rare their classes are in the batch, as the released code has them for AudioSet.

    Args:
        target: (B, C), the share of each class in each clip: 0 or 1, or between where clips were mixed.

    Returns:
        (B,): the mean, over the classes of a clip and by their shares, of 1 / (sum of that class over the batch); 0
        without a class.
    """
    rarity = torch.where(target.sum(dim=0) > 0, 1 / target.sum(dim=0), 0.0)
    shares = target.sum(dim=1)
    return torch.where(shares > 0, (target * rarity).sum(dim=1) / shares, 0.0)


def mixup(x: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every clip, and its target, with another one of the batch (Zhang et al. 2018; VATT, appendix A.3).

    The share of each is drawn from Beta(alpha, alpha) for every clip, from PyTorch's random state.

    Args:
        x: (B, …) float.
        target: (B, C) float.
        alpha: positive; the paper has 5.

    Returns:
        Mixed ``x`` and ``target`` of the same shapes.
    """
    share = to_device(
        torch.distributions.Beta(alpha, alpha, validate_args=False).sample((len(x),)).to(x.dtype), x.device
    )
    partner = to_device(torch.randperm(len(x)), x.device)
    wide = share.view(-1, *[1] * (x.ndim - 1))
    return wide * x + (1 - wide) * x[partner], share[:, None] * target + (1 - share[:, None]) * target[partner]
