"""Every kind of training runs three steps with every pair of options, in single precision and in bf16."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from tests.training.kinds import KINDS, fit, make_batch, make_module
from vatt.models.backbone import Backbone
from vatt.models.positions import make_positions
from vatt.training.callbacks import DataReport, Throughput
from vatt.training.finetune import Tuning
from vatt.training.health import Health
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization
from vatt.training.run import Run, run_callbacks

Options = dict[str, Any]
NORM, VALUE, PART = 0.02, 0.001, 0.01  # below the norms and values of gradients without clipping

COMMON: dict[str, list[Any]] = {
    "gradient_clip": [None, "norm", "value"],
    "clip_parts": [False, True],
    "accumulate": [1, 2],
    "ema": [False, True],
    "optimizer": ["adam", "adamw", "sgd"],
    "complete": [True, False],
}
OWN: dict[str, dict[str, list[Any]]] = {
    "contrastive": {"micro_batch": [None, 2], "learn_temperature": [False, True], "statistics": ["valid", "all"]},
    "masked": {"trunk_blocks": [0, 1]},
    "autoregressive_patches": {"images": [0.0, 0.5]},
}


def pairwise(options: dict[str, list[Any]]) -> list[Options]:
    """Return a small set of combinations that covers every pair of values of two options, by greedy search."""

    def pairs(values: tuple[Any, ...]) -> set[tuple[int, Any, int, Any]]:
        numbered = itertools.combinations(enumerate(values), 2)
        return {(i, repr(a), j, repr(b)) for (i, a), (j, b) in numbered}

    candidates = list(itertools.product(*options.values()))
    missing, chosen = set().union(*map(pairs, candidates)), []
    while missing:
        best = max(candidates, key=lambda values: len(pairs(values) & missing))
        missing -= pairs(best)
        chosen.append(dict(zip(options, best, strict=True)))
    return chosen


CASES = [(kind, options) for kind in KINDS for options in pairwise(COMMON | OWN.get(kind, {}))]


class Watch(L.Callback):
    """Records losses, and checks the gradients that the optimizer gets."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.losses: list[float] = []
        self.steps = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Options, batch: Any, *_: int
    ) -> None:
        self.losses.append(outputs["loss"].item() * trainer.accumulate_grad_batches)
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        assert torch.cat(gradients).isfinite().all()
        if self.options["gradient_clip"] is None and not self.options["clip_parts"]:
            assert torch.cat(gradients).norm() > max(NORM, PART)
            assert torch.cat(gradients).abs().max() > VALUE
        if self.options["gradient_clip"] == "value":
            assert torch.cat(gradients).abs().max() <= VALUE * 1.0001
        if self.options["gradient_clip"] == "norm":
            assert torch.cat(gradients).norm() <= NORM * 1.0001
        if self.options["clip_parts"] and self.steps > 1:  # pretraining clips parts after the warm-up
            names = ("model.backbone", "model.head") if hasattr(module, "model") else ("backbone", "objective")
            for part in map(module.get_submodule, names):
                own = [p.grad.flatten() for p in part.parameters() if p.grad is not None]
                assert not own or torch.cat(own).norm() <= PART * 1.0001


def train(kind: str, options: Options, precision: str, folder: Path) -> tuple[TrainingModule, Watch]:
    optimization = Optimization(
        name=options["optimizer"], lr=1e-3, warmup_steps=1, clip_each=PART if options["clip_parts"] else None
    )
    part = PART if options["clip_parts"] else None
    tuning = Tuning(dropout=0.0, clip_backbone=part, clip_head=part)
    own = {name: options[name] for name in OWN.get(kind, {})}
    module = make_module(kind, optimization, tuning, **own)
    run = Run(folder=str(folder), ema=0.5 if options["ema"] else None)
    kept = (DataReport, Throughput, Health, EMAWeightAveraging)
    callbacks = [callback for callback in run_callbacks(run, bar=False) if isinstance(callback, kept)]
    watch, clip = Watch(options), options["gradient_clip"]
    trainer = fit(
        module,
        make_batch(kind, complete=options["complete"]),
        callbacks=[watch, *callbacks],
        precision=precision,
        accumulate_grad_batches=options["accumulate"],
        gradient_clip_val={None: None, "norm": NORM, "value": VALUE}[clip],
        gradient_clip_algorithm=clip,
        default_root_dir=folder,
    )
    assert trainer.global_step == watch.steps == 3
    assert module.guard.skipped == module.guard.overflowed == 0
    return module, watch


@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(CASES)])
@pytest.mark.filterwarnings("ignore:.*each part is compared with its own clips only.*")
@pytest.mark.filterwarnings("ignore:.*using the WeightAveraging callback.*")
@pytest.mark.filterwarnings("ignore:.*have no .val_dataloader.*")
def test_three_steps(kind: str, options: Options, tmp_path: Path) -> None:
    before = make_module(kind, **{name: options[name] for name in OWN.get(kind, {})}).state_dict()
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        module, watch = train(kind, options, precision, tmp_path)
        losses[precision] = watch.losses
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        assert all(p.isfinite().all() for p in trained.values())
        changed = [name for name, p in trained.items() if not torch.equal(p, before[name])]
        assert changed
        assert all(math.isfinite(loss) for loss in watch.losses)
    # The contrastive loss divides similarities and their errors by 0.07.
    tolerance = 0.1 if kind == "contrastive" else 0.02
    assert losses["bf16-mixed"][0] == pytest.approx(losses["32-true"][0], rel=tolerance)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*have no .val_dataloader.*")
def test_all_weights_may_be_in_half_precision(kind: str, precision: str) -> None:
    module, dtype = make_module(kind), torch.bfloat16 if precision == "bf16-true" else torch.float16
    for backbone in module.modules():
        if isinstance(backbone, Backbone):  # the target of V-JEPA is one, too
            grid, width = backbone.tokenizers["video"].grid, backbone.encoder("video").width
            backbone.tokenizers["video"].positions = make_positions("fixed", grid, width)  # in single precision
    watch = Watch({"gradient_clip": "none", "clip_parts": False})
    fit(module, make_batch(kind), steps=2, callbacks=[watch], precision=precision)
    assert {p.dtype for p in module.parameters()} == {dtype}
    assert len(watch.losses) == 2
    assert all(map(math.isfinite, watch.losses))


def test_every_pair_of_options_is_tried() -> None:
    for kind in KINDS:
        options = COMMON | OWN.get(kind, {})
        rows = [row for other, row in CASES if other == kind]
        for a, b in itertools.combinations(options, 2):
            together = {(repr(row[a]), repr(row[b])) for row in rows}
            assert len(together) == len(options[a]) * len(options[b]), (kind, a, b)
        assert len(rows) < 16
