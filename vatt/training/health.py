"""Whether a training is well: what its vectors and gradients look like, and how much of the hardware it uses."""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from vatt.structures import MODALITIES, Batch
from vatt.training.optim import norm_of

COLLAPSED_SPREAD, COLLAPSED_RANK = 0.1, 2.0  # below them the log says so in words
BY_TOKEN, KEPT = "loss_by_token.csv", 0.9  # of that average
MANY = 8  # vectors from which on these say something
HALF = {"16-mixed": torch.float16, "16-true": torch.float16, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16}


class Health(Callback):
    """Logs every ``trainer.log_every_n_steps`` steps

    - of the vectors that the loss compares ``health/<vectors>_spread``, ``health/<vectors>_rank`` and, of how many,
      ``health/<vectors>_count``; their mean similarities ``health/positive_<pair>`` and ``health/negative_<pair>``, and
      ``health/temperature_<pair>``: see `vatt.objectives.health`;
    - ``gradient/<tower>``: the gradient norm of each encoder, before clipping and without the loss scale of
      ``16-mixed``;

    and says in words when vectors have collapsed. Of objectives that predict token after token the loss of each is kept
    in the run's ``loss_by_token.csv``, a moving average over these steps.
    """

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._by_token: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self._by_token is None else {"by_token": self._by_token}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._by_token = state_dict.get("by_token")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        objective = getattr(pl_module, "objective", None)
        if objective is not None:
            objective.watched = (batch_idx + 1) % trainer.log_every_n_steps == 0

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            pl_module.log_dict({f"gradient/{tower}": norm for tower, norm in gradient_norms(pl_module).items()})

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        objective = getattr(pl_module, "objective", None)
        if objective is None or not objective.watched:
            return
        if objective.by_token is not None:
            now = objective.by_token.float().cpu()
            self._by_token = now if self._by_token is None else self._by_token.lerp(now, 1 - KEPT)
        values = {name: float(value) for name, value in objective.health.items()}
        health = {name: value for name, value in values.items() if not math.isnan(value)}  # NaN: too few vectors
        pl_module.log_dict({f"health/{name}": value for name, value in health.items()})
        if trainer.global_step <= max(pl_module.optimization.warmup_steps, 2 * trainer.log_every_n_steps):
            return  # at first all vectors are alike
        for name in {name.rpartition("_")[0] for name in health if name.endswith("_rank")} - self._warned:
            spread, rank = health[f"{name}_spread"], health[f"{name}_rank"]
            if health[f"{name}_count"] >= MANY and (spread < COLLAPSED_SPREAD or rank < COLLAPSED_RANK):
                self._warned.add(name)
                rank_zero_warn(
                    f"step {trainer.global_step}: the vectors {name} of all clips are almost the same (spread "
                    f"{spread:.2f} of 1, effective rank {rank:.1f}): the training has collapsed. Lower "
                    "model.optimization.lr, warm up longer, or raise data.batch_size"
                )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._by_token is not None and trainer.is_global_zero:
            rows = [f"{number},{value:.6g}" for number, value in enumerate(self._by_token.tolist())]
            text = "\n".join(["token,loss", *rows]) + "\n"
            (Path(trainer.default_root_dir) / BY_TOKEN).write_text(text, encoding="utf-8")


def gradient_norms(module: nn.Module) -> dict[str, float]:
    """The norm of the gradient of each tower, by modality ("shared": the transformer of all), and of the "head"."""
    towers = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            part = re.search(rf"\bbackbone\.\w+\.({'|'.join(MODALITIES)}|shared)\b", name)
            towers[part[1] if part else "head"].append(parameter.grad)
    return {tower: float(norm_of(gradients)) for tower, gradients in towers.items()}


def peak_flops(trainer: L.Trainer) -> float | None:
    """Operations a second that the device can do by its datasheet, for the precision of the training; None: unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not known
        return get_available_flops(trainer.strategy.root_device, HALF.get(trainer.precision, torch.float32))
