"""Clipping acts on unscaled gradients, and logged norms precede clipping.

Clipping of sharded models is tested in test_sharding.py.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.amp import GradScaler

from tests.training.kinds import KINDS, fit, make_batch, make_module
from vatt.errors import InputError
from vatt.training.finetune import Tuning
from vatt.training.health import Health, gradient_norms
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization, clip_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*have no .val_dataloader.*")
PART, ALL, VALUE = 0.02, 0.015, 0.001
PATHS = ("norm", "value", "parts")
PARTS = ("model.backbone", "model.head", "backbone", "objective")


def half(scale: float = 1024.0, **scaler: Any) -> dict[str, Any]:
    """Return trainer options for float16 with a gradient scaler on the CPU, where Lightning has none."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=scale, **scaler))]}


def module_for(kind: str, path: str) -> TrainingModule:
    part = PART if path == "parts" else None
    optimization = Optimization(lr=1e-3, warmup_steps=0, clip_each=part)
    return make_module(
        kind, optimization, Tuning(0.0, clip_backbone=part, clip_head=part) if kind == "finetune" else None
    )


class Watch(L.Callback):
    """Records gradient norms before and after clipping, and the logged norms."""

    def __init__(self, module: TrainingModule) -> None:
        self.before: list[dict[str, float]] = []
        self.after: list[dict[str, float]] = []
        self.logged: list[dict[str, float]] = []
        clip = module.configure_gradient_clipping

        def watched(*args: Any, **kwargs: Any) -> None:
            self.before.append(norms(module))
            clip(*args, **kwargs)
            self.after.append(norms(module))

        module.configure_gradient_clipping = watched  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.logged.append({name: value for name, value in logged.items() if name.startswith("gradient/")})


def norms(module: TrainingModule) -> dict[str, float]:
    """Return the norms of the two parts and of all gradients, and the largest entry."""
    names = ("model.backbone", "model.head") if hasattr(module, "model") else ("backbone", "objective")
    parts = {name: [p.grad.flatten() for p in module.get_submodule(name).parameters() if p.grad is not None]
             for name in names}  # fmt: skip
    by_part = {name: torch.cat(part).norm().item() for name, part in parts.items() if part}
    gradients = torch.cat([gradient for part in parts.values() for gradient in part])
    return by_part | {"all": gradients.norm().item(), "value": gradients.abs().max().item()}


def run(kind: str, path: str, steps: int = 2, **trainer: Any) -> tuple[TrainingModule, Watch]:
    module = module_for(kind, path)
    watch = Watch(module)
    clip = {"norm": ALL, "value": VALUE, "parts": None}[path]
    kwargs = {"gradient_clip_val": clip, "gradient_clip_algorithm": None if path == "parts" else path}
    fit(module, make_batch(kind), steps, [Health(), watch], **kwargs, **trainer)
    return module, watch


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_unscaled_before_clipping(kind: str, path: str) -> None:
    """Gradients and logged norms equal those of single precision."""
    (_, single), (module, scaled) = run(kind, path), run(kind, path, **half())
    assert not any(group["fused"] for group in module.optimizers().optimizer.param_groups)
    for watch in (single, scaled):
        assert watch.before[0]["all"] > ALL * 1.1
        if path == "parts":
            assert all(value <= PART * 1.001 for name, value in watch.after[0].items() if name in PARTS)
        else:
            largest = watch.after[0]["all" if path == "norm" else "value"]
            assert largest == pytest.approx(ALL if path == "norm" else VALUE, rel=1e-3)
        total = sum(value**2 for value in watch.logged[0].values()) ** 0.5
        assert total == pytest.approx(watch.before[0]["all"], rel=1e-3)
    for name, value in single.before[0].items():
        assert scaled.before[0][name] == pytest.approx(value, rel=0.1), name
    assert module.guard.skipped == module.guard.overflowed == 0


def test_overflowing_step_is_skipped_by_the_scaler() -> None:
    """It is counted and changes neither weights nor running statistics. The scale falls until a step succeeds."""
    module = module_for("contrastive", "norm")
    before = {name: value.clone() for name, value in module.state_dict().items()}
    states: list[dict[str, torch.Tensor]] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            states.append({name: value.clone() for name, value in module.state_dict().items()})

    precision = half(2.0**80, backoff_factor=2.0**-70)
    trainer = fit(module, make_batch("contrastive"), 3, [Keep()], gradient_clip_val=1.0, **precision)
    assert all(torch.equal(value, before[name]) for name, value in states[0].items())
    assert not all(torch.equal(value, before[name]) for name, value in states[1].items())
    assert all(value.isfinite().all() for value in states[2].values())
    assert (module.guard.overflowed, module.guard.skipped) == (1, 0)
    assert trainer.precision_plugin.scaler.get_scale() == 2.0**10
    assert trainer.callback_metrics["train/overflowed_steps"] == 1
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["overflowed_steps"] == 1


@pytest.mark.parametrize("scale", [1024.0, 0.5])
def test_non_finite_loss_is_not_an_overflow(scale: float) -> None:
    """It is reported and counted as without a scaler, as are infinite gradients that the scale has not caused."""
    module, batch = module_for("contrastive", "norm"), make_batch("contrastive")
    if scale > 1:
        batch["audio"][1] = torch.nan
        match = "loss is nan, video_audio is nan.* not finite: audio of clip1"
    else:
        weight = module.backbone.tokenizers["audio"].project.weight
        weight.register_hook(lambda gradient: gradient * torch.inf)
        match = r"the gradient of backbone.tokenizers.audio.project.weight is not finite"
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.warns(UserWarning, match=f"{match}.* Step skipped .1 of"):
        fit(module, batch, 2, gradient_clip_val=1.0, **half(scale))
    assert (module.guard.overflowed, module.guard.skipped) == (0, 2)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_logged_norms_precede_clipping() -> None:
    module = module_for("contrastive", "norm")
    watch = Watch(module)
    fit(module, make_batch("contrastive"), 1, [Health(), watch], gradient_clip_val=ALL)
    assert gradient_norms(module).keys() == {"video", "audio", "text", "head"}
    after = {f"gradient/{name}": value for name, value in gradient_norms(module).items()}
    for name, value in watch.logged[0].items():
        assert value > after[name] * 1.1


def test_parts_without_gradients_and_unknown_algorithms() -> None:
    layer = nn.Linear(2, 2)
    clip_gradients(layer.parameters(), 1.0)
    clip_gradients(layer.parameters(), 1.0, "value")
    with pytest.raises(InputError, match="gradient_clip_algorithm must be norm or value, not 'sum'"):
        clip_gradients(layer.parameters(), 1.0, "sum")
