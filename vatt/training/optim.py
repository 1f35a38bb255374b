"""Optimizer and learning-rate schedule (VATT, section 4.1: Adam, linear warm-up, cosine decay)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vatt.errors import InputError


@dataclass(frozen=True)
class Optimization:
    """How weights are changed.

    Args:
        name: "adamw" decays weights apart from the gradient, "adam" (the paper's) does so through it.
        lr: highest learning rate.
        final_lr: learning rate of the last step.
        warmup_steps: steps in which the rate rises to ``lr``.
        weight_decay: on matrices only; biases, norms and AGG tokens have none.
        betas: of Adam.
        eps: of Adam. The released code: 1e-7.
        decay: after the warm-up, half a period of a cosine, as the released code has it, or a quarter, as the paper
            says: half-way there, of a fall from 1e-4 to 5e-5, the rate is 7.50e-5 or 8.54e-5.
    """

    name: Literal["adamw", "adam"] = "adamw"
    lr: float = 1e-4
    final_lr: float = 5e-5
    warmup_steps: int = 5_000
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: Literal["half_cosine", "quarter_cosine"] = "half_cosine"

    def __post_init__(self) -> None:
        if not (0 <= self.final_lr <= self.lr and self.lr > 0):
            raise InputError(f"final_lr must lie between 0 and lr {self.lr}, not {self.final_lr}")


def make_optimizer(module: nn.Module, how: Optimization, steps: int) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of all parameters of a module and its schedule over ``steps`` steps.

    Raises:
        InputError: the warm-up is as long as the training.
    """
    if how.warmup_steps >= steps:
        raise InputError(f"warmup_steps {how.warmup_steps} must be fewer than the {steps} steps of the training")
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": how.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = AdamW if how.name == "adamw" else Adam
    optimizer = kind(groups, lr=how.lr, betas=how.betas, eps=how.eps)

    # In closed form, because a schedule that keeps its length in the checkpoint would not see that a run is resumed
    # with more steps.
    def factor(step: int) -> float:
        if step < how.warmup_steps:
            return (step + 1) / (how.warmup_steps + 1)
        done = min(1.0, (step - how.warmup_steps) / (steps - how.warmup_steps))
        low = how.final_lr / how.lr
        if how.decay == "quarter_cosine":
            return low + (1.0 - low) * math.cos(math.pi / 2 * done)
        return low + (1.0 - low) * (1.0 + math.cos(math.pi * done)) / 2

    return optimizer, LambdaLR(optimizer, factor)
