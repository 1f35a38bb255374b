"""Optimizer and learning-rate schedule (VATT, section 4.1: Adam, linear warm-up, cosine decay; A.2.5: SGD)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vatt.errors import InputError
from vatt.ranges import check_range


@dataclass(frozen=True)
class Optimization:
    """How weights are changed.

    Args:
        name: "adamw" decays weights apart from the gradient, "adam" (the paper's, to pretrain) does so through it;
            "sgd" (the paper's, to fine-tune).
        lr: highest learning rate.
        final_lr: learning rate of the last step.
        warmup_steps: steps in which the rate rises to ``lr``.
        weight_decay: on matrices only; biases, norms and AGG tokens have none.
        betas: of Adam.
        eps: of Adam. The released code: 1e-7.
        momentum: of SGD, without Nesterov's form.
        layer_decay: what each block's learning rate is of that of the block after it; the head has the whole rate,
            tokenizers the smallest (Clark et al. 2020, "ELECTRA"). 1 has one rate.
        decay: after the warm-up, half a period of a cosine, as the released code has it, or a quarter, as the paper
            says: half-way there, of a fall from 1e-4 to 5e-5, the rate is 7.50e-5 or 8.54e-5; "constant" stays at
            ``lr``, as V-JEPA 2 does in its first phase.
        first_lr: rate that the warm-up begins with; a share of ``lr`` unless given.
        final_weight_decay: to which ``weight_decay`` goes along a cosine from the first step on (V-JEPA: 0.04 to 0.4);
            None leaves it as it is.
        schedule_length: lengths of training for which cosines are made; those of V-JEPA are made for 1.25, and the end
            of them is never reached.
        clip_each: largest norm of the backbone's gradient, and of that of the objective's own layers, each by itself
            and once the warm-up is over, as V-JEPA has it; beside ``trainer.gradient_clip_val``, which is of both.
        width_ratio: how many times wider the model is than the one for which ``lr`` was found: muP (Yang et al. 2022,
            "Tensor Programs V", table 8) divides the rate of the blocks' matrices by it, so that one rate serves all
            widths. Its other halves are ``width_ratio`` of `Autoregressive`, and of `Transformer` ``scaled`` and
            ``init_std``, which shrinks by the root of the ratio; ``configs/pretrain_toto_mup_*.yaml`` have all of them.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-4
    final_lr: float = 5e-5
    warmup_steps: int = 5_000
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    layer_decay: float = 1.0
    decay: Literal["half_cosine", "quarter_cosine", "constant"] = "half_cosine"
    first_lr: float | None = None
    final_weight_decay: float | None = None
    schedule_length: float = 1.0
    clip_each: float | None = None
    width_ratio: float = 1.0

    def __post_init__(self) -> None:
        up_to_lr = f"[0, {self.lr}]"
        intervals = {"lr": "(0, inf)", "final_lr": up_to_lr, "first_lr": up_to_lr}
        decays = ("weight_decay", "final_weight_decay")
        intervals |= dict.fromkeys((*decays, "warmup_steps", "eps", "momentum"), "[0, inf)")
        intervals |= {"layer_decay": "(0, 1]", "schedule_length": "[1, inf)"}
        intervals |= dict.fromkeys(("clip_each", "width_ratio"), "(0, inf)")
        for name, interval in intervals.items():
            check_range(f"model.optimization.{name}", getattr(self, name), interval)
        for beta in self.betas:
            check_range("model.optimization.betas", beta, "[0, 1)")


def depth_of(name: str) -> int | None:
    """Where a parameter lies: 0 in tokenizers and AGG tokens, i + 1 in block i, None after them."""
    if re.search(r"\b(tokenizers|agg)\.", name):
        return 0
    block = re.search(r"\bblocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else None


def parameter_groups(module: nn.Module, how: Optimization) -> list[dict[str, Any]]:
    """The trained parameters by weight decay and, with ``layer_decay``, by depth: each with its own learning rate."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    last = max((depth_of(name) or 0 for name, _ in module.named_parameters()), default=0) + 1
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        depth, is_vector = depth_of(name), parameter.ndim < 2
        place = last if depth is None or how.layer_decay == 1 else depth
        # A matrix between layers that all become wider.
        is_hidden = how.width_ratio != 1 and not is_vector and depth not in (None, 0)
        groups.setdefault((is_vector, place, is_hidden), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_vector else how.weight_decay,
            "lr": how.lr * how.layer_decay ** (last - place) / (how.width_ratio if is_hidden else 1.0),
        }
        for (is_vector, place, is_hidden), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


class Schedule(LambdaLR):
    """Learning rates, and weight decay, as closed functions of the step.

    A schedule that keeps its length in the checkpoint would not see that a run is resumed with more steps.

    Args:
        optimizer: of `parameter_groups`.
        how: the rates.
        steps: of the training.
    """

    def __init__(self, optimizer: Optimizer, how: Optimization, steps: int) -> None:
        self.how, self.steps = how, steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """What a group's highest rate is multiplied by."""
        how, warm = self.how, self.how.warmup_steps
        if step < warm:
            if how.first_lr is None:
                return (step + 1) / (warm + 1)
            first = how.first_lr / how.lr
            return first + (1 - first) * step / warm
        if how.decay == "constant":
            return 1.0
        done = min(1.0, (step - warm) / (self.steps * how.schedule_length - warm))
        low = how.final_lr / how.lr
        if how.decay == "quarter_cosine":
            return low + (1.0 - low) * math.cos(math.pi / 2 * done)
        return low + (1.0 - low) * (1.0 + math.cos(math.pi * done)) / 2

    def weight_decay(self, step: int) -> float:
        """Of matrices."""
        first, last = self.how.weight_decay, self.how.final_weight_decay
        if last is None:
            return first
        done = min(1.0, step / (self.steps * self.how.schedule_length))
        return last + (first - last) * (1 + math.cos(math.pi * done)) / 2

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; not how long it is, so that a run that is resumed with more steps has the longer one."""
        return {name: value for name, value in vars(self).items() if name in ("last_epoch", "_last_lr", "base_lrs")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state_dict.items() if name in self.state_dict()})

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if self.how.final_weight_decay is not None:
            for group in self.optimizer.param_groups:
                if all(parameter.ndim > 1 for parameter in group["params"]):
                    group["weight_decay"] = self.weight_decay(self.last_epoch)


def clip_gradients(parameters: Iterable[Tensor], limit: float, algorithm: str = "norm") -> None:
    """Clip gradients in place, also those of sharded parameters (FSDP).

    Args:
        parameters: Parameters. Those without a gradient are ignored.
        limit: Maximum norm of all gradients as one vector, or maximum absolute value of each entry.
        algorithm: "norm" or "value".

    Raises:
        InputError: The algorithm is unknown.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if algorithm not in ("norm", "value"):
        raise InputError(f"trainer.gradient_clip_algorithm must be norm or value, not {algorithm!r}")
    if not parameters:  # the step is skipped
        return
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        norm = norm_of([parameter.grad for parameter in parameters])
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def norm_of(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all tensors as one vector."""
    norm = nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # sharded tensors (FSDP)


def make_optimizer(
    module: nn.Module, how: Optimization, steps: int, scaled: bool = False
) -> tuple[Optimizer, LRScheduler]:
    """Return an optimizer of all parameters of a module, and its schedule over ``steps`` steps.

    Args:
        module: Module to train.
        how: Learning rates and other hyperparameters.
        steps: Number of training steps.
        scaled: Whether gradients are scaled (``16-mixed``). Then the optimizer is not fused: a fused one unscales
            gradients in its step, after they were clipped.

    Raises:
        InputError: the warm-up is as long as the training.
    """
    if how.warmup_steps >= steps:
        raise InputError(
            f"model.optimization.warmup_steps {how.warmup_steps} must be less than trainer.max_steps {steps}"
        )
    groups = parameter_groups(module, how)
    # One pass over all weights; on a CPU it takes a quarter of the time.
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    fused = True if devices <= {"cpu", "cuda"} and not scaled else None
    if how.name == "sgd":
        optimizer: Optimizer = SGD(groups, lr=how.lr, momentum=how.momentum, fused=fused)
    else:
        kind = AdamW if how.name == "adamw" else Adam
        optimizer = kind(groups, lr=how.lr, betas=how.betas, eps=how.eps, fused=fused)

    return optimizer, Schedule(optimizer, how, steps)
