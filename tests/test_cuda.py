"""Tests on a GPU: results equal those of the CPU, and steps do not synchronize.

Skipped without a GPU. ``VATT_CUDA_TESTS=cpu`` runs them on the CPU, to check the tests themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler

from tests.conftest import CUDA_TESTS, TINY, tiny_model
from tests.training.kinds import KINDS, PRETRAINING, fit, make_batch, make_module
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import Views
from vatt.datasets.manifest import read_manifest
from vatt.evaluation.features import FINAL, extract
from vatt.evaluation.gradient_probe import PROBES, train_and_score
from vatt.models.encoding import encode_file
from vatt.models.vatt import VATT
from vatt.retrieval.embeddings import embed
from vatt.retrieval.index import Index
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.search import search
from vatt.training.compute import Compute
from vatt.training.finetune import Tuning
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization, make_optimizer

pytestmark = [pytest.mark.needs_cuda, pytest.mark.filterwarnings("ignore:.*have no .val_dataloader.*")]
DEVICE = os.environ.get(CUDA_TESTS, "cuda")
ON_GPU = DEVICE.startswith("cuda")
TRAINER = {"accelerator": "gpu" if ON_GPU else "cpu"}


def half() -> dict[str, Any]:
    """Return trainer options for float16 with a gradient scaler whose initial scale suits these models."""
    kind = "cuda" if ON_GPU else "cpu"
    return {"plugins": [MixedPrecision("16-mixed", kind, GradScaler(kind, init_scale=1024.0))]}


def moved(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}


def losses_of(kind: str, device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return losses and gradients of an incomplete batch, computed on a device without a trainer."""
    module, batch = make_module(kind).to(device), make_batch(kind, 6, complete=False)
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    if hasattr(module, "objective"):
        module.objective.draws = torch.Generator().manual_seed(0)
        module.objective.watched = True
    losses = module.training_step(moved(batch) if device == DEVICE else batch, 0)
    losses["loss"].backward()
    health = module.objective.health if hasattr(module, "objective") else {}
    values = {name: float(value) for name, value in (losses | health).items()}
    return values, {name: p.grad.cpu() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_those_of_the_cpu(kind: str) -> None:
    """In single precision, with an incomplete batch. Random draws do not depend on the device."""
    (expected, expected_gradients), (losses, gradients) = losses_of(kind, "cpu"), losses_of(kind, DEVICE)
    assert losses == pytest.approx(expected, rel=2e-3, abs=1e-4, nan_ok=True)
    assert gradients.keys() == expected_gradients.keys()
    scale = torch.cat([x.flatten() for x in expected_gradients.values()]).norm()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= 2e-3 * scale, name


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Raise an error at every synchronization of the GPU."""
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")


class StubTrainer:
    """The attributes of a trainer that a step needs."""

    global_step, global_rank, max_steps, accumulate_grad_batches = 3, 0, 10, 1
    precision_plugin = None


@pytest.mark.parametrize("kind", KINDS)
def test_step_does_not_synchronize(kind: str) -> None:
    """Forward and backward pass, check of the gradients, clipping, and the step of the optimizer.

    The second step is tested, after caches were filled.
    """
    module, batch = make_module(kind).to(DEVICE), moved(make_batch(kind, complete=False))
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module.trainer = StubTrainer()  # type: ignore[assignment]
    optimizer, _ = make_optimizer(module, module.optimization, 10)

    def step() -> None:
        module.on_train_batch_start(batch, 0)
        module.training_step(batch, 0)["loss"].backward()
        module.on_before_optimizer_step(optimizer)
        module.configure_gradient_clipping(optimizer, 1.0, "norm")
        optimizer.step()
        optimizer.zero_grad()
        if hasattr(module, "objective"):
            module.objective.after_step(module.backbone)

    step()
    module.guard.read(module)
    with no_synchronization():
        step()
    module.guard.read(module)
    assert module.guard.skipped == 0


class Watch(L.Callback):
    """Records the losses, and the gradient norms before clipping."""

    def __init__(self, module: TrainingModule) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        clip = module.configure_gradient_clipping

        def watched(*args: Any, **kwargs: Any) -> None:
            self.norms.append(
                torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm().item()
            )
            clip(*args, **kwargs)

        module.configure_gradient_clipping = watched  # type: ignore[method-assign]

    def on_train_batch_end(self, trainer: L.Trainer, module: TrainingModule, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


def trained(kind: str, path: str = "norm", steps: int = 3, **trainer: Any) -> tuple[TrainingModule, Watch]:
    part = 0.02 if path == "parts" else None
    optimization = Optimization(lr=1e-3, warmup_steps=0, clip_each=part)
    module = make_module(kind, optimization, Tuning(dropout=0.0, clip_backbone=part, clip_head=part))
    watch = Watch(module)
    clip = {} if path == "parts" else {"gradient_clip_val": 0.01, "gradient_clip_algorithm": path}
    done = fit(module, make_batch(kind), steps, [watch], **TRAINER, **clip, **trainer)
    assert done.global_step == steps
    assert all(p.isfinite().all() for p in module.parameters())
    return module, watch


@pytest.mark.parametrize("path", ["norm", "value", "parts"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_steps_in_half_precision(kind: str, path: str, precision: str) -> None:
    """The first loss and its gradient norm before clipping equal those of single precision."""
    _, single = trained(kind, path, steps=1, precision="32-true")
    module, watch = trained(kind, path, **(half() if precision == "16-mixed" else {"precision": precision}))
    assert watch.losses[0] == pytest.approx(single.losses[0], rel=0.1)
    assert watch.norms[0] == pytest.approx(single.norms[0], rel=0.2)
    assert module.guard.skipped == module.guard.overflowed == 0


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_equals_an_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    deterministic = {"deterministic": "warn", "default_root_dir": tmp_path}
    try:
        states = []
        for last, checkpoint in ((4, None), (2, None), (4, tmp_path / "last.ckpt")):
            module = make_module(kind, Optimization(lr=1e-3, warmup_steps=0, decay="constant"))
            trainer = fit(module, make_batch(kind), last, checkpoint=checkpoint, **TRAINER, **deterministic)
            trainer.save_checkpoint(tmp_path / "last.ckpt")
            states.append({name: x.cpu() for name, x in module.state_dict().items()})
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(states[2], states[0], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(x, states[1][name]) for name, x in states[0].items())


@pytest.mark.slow
@pytest.mark.skipif(not ON_GPU and shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_step() -> None:
    losses = []
    for compile in (False, True):
        module = make_module("contrastive")
        module.compute = Compute(compile=compile)
        watch = Watch(module)
        fit(module, make_batch("contrastive"), 2, [watch], **TRAINER, precision="32-true")
        losses.append(watch.losses[0])
    torch.compiler.reset()
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_embeddings_an_index_and_a_search(model_folder: Path, video_file: Path, tmp_path: Path) -> None:
    vectors = {}
    for device in dict.fromkeys(("cpu", DEVICE)):
        folder = tmp_path / device
        embed(video_file, model_folder, folder, num_workers=0, device=device)
        vectors[device] = Embeddings(folder).select("video", "video_text").vectors
    np.testing.assert_allclose(vectors[DEVICE], vectors["cpu"], rtol=1e-3, atol=1e-3)
    Index.build([tmp_path / DEVICE]).save(tmp_path / "index")
    Index.build([tmp_path / "cpu"]).save(tmp_path / "index_of_cpu")
    hits, expected = (search(tmp_path / index, "a red ring", k=3, spans=False) for index in ("index", "index_of_cpu"))
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-3)
    model = VATT.from_pretrained(model_folder)
    on_cpu = encode_file(model, video_file).pooled("video", "video_text")
    on_device = encode_file(model.to(DEVICE), video_file).pooled("video", "video_text")
    torch.testing.assert_close(on_device, on_cpu, rtol=1e-3, atol=1e-3)


def test_features_for_probes(video_file: Path) -> None:
    clips, features = read_manifest(video_file), {}
    for device in dict.fromkeys(("cpu", DEVICE)):
        torch.manual_seed(0)
        reader = ClipReader(TINY, None, modalities=["video"])
        tower = tiny_model().backbone.tower("video")
        features[device] = extract(tower, clips, reader, Views(2, 1), tokens=(FINAL,), num_workers=0, device=device)
    for name, layer in features["cpu"].layers.items():
        torch.testing.assert_close(features[DEVICE].layers[name], layer, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(features[DEVICE].tokens, features["cpu"].tokens, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", PROBES)
def test_probes_learn(kind: str) -> None:
    target = torch.arange(60) % 3
    x = torch.randn(60, 8) + 4 * torch.eye(3, 8)[target]
    x = x if kind == "lowrank" else x[:, None].repeat(1, 4, 1)
    probabilities = train_and_score(kind, x, target, x, classes=3, steps=200, device=DEVICE)
    assert (probabilities.argmax(dim=1) == target).float().mean() > 0.9


@pytest.mark.parametrize("kind", [kind for kind in PRETRAINING if kind != "autoregressive_codes"])
def test_non_finite_step_is_skipped_on_the_device(kind: str) -> None:
    """The weights do not change, and the host reports the step later."""
    states: list[dict[str, torch.Tensor]] = []

    class Spoil(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: TrainingModule, batch: Any, *_: Any) -> None:
            states.append({name: x.detach().clone() for name, x in module.named_parameters()})
            if trainer.global_step == 1:
                batch["video"].fill_(torch.nan)

    module = make_module(kind, Optimization(lr=1e-3, warmup_steps=0))
    with pytest.warns(UserWarning, match="step 1: .* Step skipped .1 of"):
        fit(module, make_batch(kind), 3, [Spoil()], **TRAINER)
    same = [name for name, x in states[1].items() if name.startswith("backbone.")]
    assert all(torch.equal(states[2][name], states[1][name]) for name in same)
    assert module.guard.skipped == 1
