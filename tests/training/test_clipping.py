"""Every way to clip sees gradients that are not scaled, and what is logged of them is from before.

That they are those of the whole model where processes share it is tested in test_sharding.py.
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
    """Training in float16 with a scaler, on the CPU; Lightning itself has it for GPUs alone."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=scale, **scaler))]}


def module_for(kind: str, path: str) -> TrainingModule:
    part = PART if path == "parts" else None
    optimization = Optimization(lr=1e-3, warmup_steps=0, clip_each=part)
    return make_module(
        kind, optimization, Tuning(0.0, clip_backbone=part, clip_head=part) if kind == "finetune" else None
    )


class Watch(L.Callback):
    """Keeps norms of the gradients before they are clipped and after it, and what is logged of them."""

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
    """Of the two parts, of all, and the largest entry."""
    names = ("model.backbone", "model.head") if hasattr(module, "model") else ("backbone", "objective")
    parts = {name: [p.grad.flatten() for p in module.get_submodule(name).parameters() if p.grad is not None]
             for name in names}  # fmt: skip
    found = {name: torch.cat(part).norm().item() for name, part in parts.items() if part}
    every = torch.cat([gradient for part in parts.values() for gradient in part])
    return found | {"all": every.norm().item(), "value": every.abs().max().item()}


def run(kind: str, path: str, steps: int = 2, **trainer: Any) -> tuple[TrainingModule, Watch]:
    module = module_for(kind, path)
    watch = Watch(module)
    clip = {"norm": ALL, "value": VALUE, "parts": None}[path]
    how = {"gradient_clip_val": clip, "gradient_clip_algorithm": None if path == "parts" else path}
    fit(module, make_batch(kind), steps, [Health(), watch], **how, **trainer)
    return module, watch


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_scaler_has_unscaled_the_gradients(kind: str, path: str) -> None:
    """They are those of single precision, and so are the logged norms, which are from before."""
    (_, single), (module, scaled) = run(kind, path), run(kind, path, **half())
    assert not any(group["fused"] for group in module.optimizers().optimizer.param_groups)
    for watch in (single, scaled):
        assert watch.before[0]["all"] > ALL * 1.1
        if path == "parts":
            assert all(value <= PART * 1.001 for name, value in watch.after[0].items() if name in PARTS)
        else:
            largest = watch.after[0]["all" if path == "norm" else "value"]
            assert largest == pytest.approx(ALL if path == "norm" else VALUE, rel=1e-3)
        whole = sum(value**2 for value in watch.logged[0].values()) ** 0.5
        assert whole == pytest.approx(watch.before[0]["all"], rel=1e-3)
    for name, value in single.before[0].items():
        assert scaled.before[0][name] == pytest.approx(value, rel=0.1), name
    assert module.guard.skipped == module.guard.overflowed == 0


def test_a_step_that_overflows_is_left_out_by_the_scaler() -> None:
    """It is counted, changes neither weights nor running statistics, and the scale falls until a step can be done."""
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
def test_a_loss_that_is_not_finite_is_no_overflow(scale: float) -> None:
    """It is named and counted as without a scaler, and so are infinite gradients where the scale is no cause."""
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


def test_logged_norms_are_from_before_clipping() -> None:
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
