"""Steps and forward passes on a fake GPU, where tensors on the wrong device and reads from the device fail.

A read, such as ``bool(x.all())``, synchronizes the GPU in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from tests.conftest import TINY, tiny_model
from tests.fake_device import DEVICE, backward, fake, fake_gpu, outside
from tests.training.kinds import KINDS, PRETRAINING, make_batch, make_module
from vatt.datasets.loading.batches import finish
from vatt.evaluation.readouts import TASKS, TaskReadout
from vatt.models import positions
from vatt.models.encoding import encode_windows
from vatt.models.heads import LinearClassifier
from vatt.models.probes import AttentiveClassifier, LowRankClassifier
from vatt.models.readouts import ReadoutClassifier
from vatt.models.selection import same_keep
from vatt.models.vatt import Classifier
from vatt.objectives import jepa
from vatt.objectives.losses import mil_nce
from vatt.training import finetune
from vatt.training.finetune import Tuning
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization, make_optimizer

pytestmark = pytest.mark.filterwarnings("ignore:.*(CUDA is not available|user-provided tensor is not).*")

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in KINDS),
    ("contrastive", {"micro_batch": 2, "learn_temperature": True, "per_sample": True}),
    ("contrastive", {"statistics": "all", "form": "symmetric", "mean": "official", "per_sentence": False}),
    ("masked", {"trunk_blocks": 1}),
    ("jepa", {"truncate": "random"}),
    ("autoregressive_patches", {"images": 0.5}),
    ("autoregressive_codes", {"tied": False}),
    ("finetune", {"tuning": Tuning(drop_token=0.5, mixup=0.2, weighting="rarity", clip_head=0.1, clip_backbone=0.1)}),
    ("finetune", {"tuning": Tuning(freeze=1, label_smoothing=0.1)}),
]


@pytest.fixture(autouse=True)
def _allowed_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace the intended reads on the host: sizes of masks, drawn on the CPU, and flags of valid views."""
    monkeypatch.setattr(jepa, "draw_blocks", outside(jepa.draw_blocks))
    monkeypatch.setattr(finetune, "read_flags", lambda flags: [True] * len(flags))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # no pinned memory or events on a real GPU
    yield
    positions._spline_at.cache_clear()


Prepared = tuple[TrainingModule, dict[str, Any]]


@pytest.fixture
def prepared(request: pytest.FixtureRequest) -> Prepared:
    """Return a module and an incomplete batch, built outside `fake_gpu`, since codebooks and tables need values."""
    kind, options = request.param
    optimization = Optimization(warmup_steps=1, clip_each=0.1)
    return make_module(kind, optimization, **options), make_batch(kind, complete=False)


def on_gpu(prepared: Prepared) -> Prepared:
    """Move module and batch to the fake GPU, with a trainer after three steps. Call this inside `fake_gpu`."""
    module, batch = prepared
    without_scaler = SimpleNamespace(scaler=None)
    counts = {"global_step": 3, "global_rank": 0, "max_steps": 10, "accumulate_grad_batches": 1}
    module.trainer = SimpleNamespace(**counts, precision_plugin=without_scaler)  # type: ignore[assignment]
    module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return fake(module), fake(batch)


def named(variant: tuple[str, dict[str, Any]]) -> str:
    return "-".join([variant[0], *variant[1]])


every_variant = pytest.mark.parametrize("prepared", VARIANTS, indirect=True, ids=named)


@every_variant
def test_a_training_step(prepared: Prepared) -> None:
    """Forward and backward pass, check of the gradients, clipping, the step of the optimizer, and `after_step`."""
    with fake_gpu():
        module, batch = on_gpu(prepared)
        optimizer, _ = make_optimizer(module, module.optimization, 10)
        module.on_train_batch_start(batch, 0)
        if hasattr(module, "objective"):
            module.objective.watched = True
        losses = module.training_step(batch, 0)
        assert losses["loss"].device == DEVICE
        assert isinstance(losses.get("tokens", 0), int)
        backward(losses["loss"])
        gradients = [p.grad for p in module.parameters() if p.requires_grad and p.grad is not None]
        assert gradients
        assert all(gradient.device == DEVICE for gradient in gradients)
        module.on_before_optimizer_step(optimizer)
        assert optimizer.found_inf.device == DEVICE  # computed on the device, and read later
        assert module.guard._pending.broken.device.type == "cpu"
        for algorithm in ("norm", "value"):
            module.configure_gradient_clipping(optimizer, 1.0, algorithm)
        optimizer.step()
        if hasattr(module, "objective"):
            module.objective.after_step(module.backbone)
            assert all(value.numel() == 1 for value in module.objective.health.values())


@every_variant
def test_a_validation_step(prepared: Prepared) -> None:
    with fake_gpu(), torch.no_grad():
        module, batch = on_gpu(prepared)
        module.eval()
        module.validation_step(batch, 0)


@pytest.mark.parametrize("prepared", [(kind, {}) for kind in PRETRAINING], indirect=True, ids=named)
def test_features_for_probes(prepared: Prepared) -> None:
    """Features of every layer, and a training step of probes and readouts on them."""
    width = prepared[0].backbone.width("video")
    pooled = LowRankClassifier(width, 3), LinearClassifier(width, 3)
    of_tokens = AttentiveClassifier(width, 3, heads=2), ReadoutClassifier(width, 3, times=2, inner=8, heads=2)
    with fake_gpu():
        module, batch = on_gpu(prepared)
        backbone = module.backbone.eval()
        for modality in reversed(backbone.modalities):  # video last
            raw = batch[modality].flatten(0, 1) if modality == "text" else batch[modality]
            with torch.no_grad():
                features = backbone.encode(modality, backbone.tokenize(modality, raw), layers=True)
            assert {x.device for x in (*features.layers, features.pooled, features.tokens)} == {DEVICE}
        inputs = [(probe, features.pooled) for probe in pooled] + [(probe, features.tokens) for probe in of_tokens]
        for probe, x in inputs:
            loss = fake(probe)(x).logsumexp(dim=1).mean()
            backward(loss)
            assert loss.device == DEVICE


@pytest.mark.parametrize("task", TASKS)
def test_readouts_of_scenes(task: str) -> None:
    clips, frames = 2, 8
    truth = {
        "depth": torch.rand(clips, frames, 16, 16) + 0.5,
        "camera": torch.rand(clips, frames, 3),
        "boxes": torch.rand(clips, frames, 2, 4),
        "points": torch.rand(clips, frames, 5, 2),
        "visible": torch.ones(clips, frames, 5, dtype=torch.bool),
    }
    readout = TaskReadout(task, 16, 2, truth)
    with fake_gpu():
        readout, truth = fake(readout), fake(truth)
        loss = readout.loss(readout(torch.empty(clips, 8, 16, device=DEVICE), truth), truth)
        backward(loss)
        assert loss.device == DEVICE


def test_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and classifiers, on windows from the loader and of another size."""
    model = tiny_model()
    video, audio = (tiny_model().backbone.tower(modality) for modality in ("video", "audio"))
    classifier = Classifier(video, LinearClassifier(16, 3), TINY, drop_token=0.5)
    dropping = Classifier(audio, LinearClassifier(16, 3), TINY, drop_token=0.5, drop_in_use=True)
    monkeypatch.setattr("vatt.models.vatt.same_keep", lambda *args: outside(lambda: (same_keep(*args),))()[0])
    with fake_gpu(), torch.inference_mode():
        for part in (model, classifier, dropping):
            fake(part.eval())
        batch = fake({name: x for name, x in make_batch("contrastive").items() if name != "events"})
        raw = {**batch, "video": torch.empty(4, 8, 3, 32, 32, dtype=torch.uint8, device=DEVICE)}
        assert finish(raw)["video"].dtype == torch.float32
        outputs = model(video=raw["video"], audio=batch["audio"], text=batch["text"][:, 0])
        assert {x.device for x in outputs.values()} == {DEVICE}
        assert model.encode_video(torch.empty(2, 8, 3, 48, 48, device=DEVICE)).device == DEVICE
        assert classifier(video=raw["video"])["probabilities"].device == DEVICE
        assert classifier.train()(video=raw["video"])["logits"].device == DEVICE
        assert dropping(audio=batch["audio"])["logits"].device == DEVICE
        valid = SimpleNamespace(any=lambda: True)  # whether there is anything to encode is read on the host
        windows = encode_windows(model, {**batch, "video_valid": valid, "audio_valid": valid})
        assert {x.device.type for x in windows.values()} == {"cpu"}


@pytest.mark.parametrize("max_logits", [None, 7])
def test_losses_in_chunks(max_logits: int | None) -> None:
    with fake_gpu():
        x, y = (torch.empty(*shape, 4, device=DEVICE, requires_grad=True) for shape in ((5,), (5, 2)))
        valid = torch.empty(5, dtype=torch.bool, device=DEVICE), torch.empty(5, 2, dtype=torch.bool, device=DEVICE)
        backward(mil_nce(x, y, 0.1, *valid, max_logits=max_logits))
        assert x.grad.device == y.grad.device == DEVICE


def test_a_tensor_on_the_wrong_device_fails() -> None:
    """Check the tests themselves with a weight, a part of the batch, and a new tensor on the CPU."""
    module, batch = make_module("contrastive"), make_batch("contrastive")

    def plant_weight() -> None:
        module.backbone.agg["video"] = nn.Parameter(torch.zeros(16))

    def plant_part_of_the_batch() -> None:
        gpu["audio_valid"] = batch["audio_valid"]

    def plant_new_tensor() -> None:
        encode = module.backbone.encode
        module.backbone.encode = lambda modality, tokens, **kwargs: encode(  # type: ignore[method-assign]
            modality, replace(tokens, x=tokens.x + torch.zeros(tokens.x.shape[1], 1)), **kwargs
        )

    def step() -> None:
        backward(module.training_step(gpu, 0)["loss"])

    for plant in (None, plant_weight, plant_part_of_the_batch, plant_new_tensor):
        module = make_module("contrastive")
        with fake_gpu():
            module, gpu = on_gpu((module, batch))
            if plant is None:
                step()
            else:
                plant()
                with pytest.raises(RuntimeError, match=r"(?i)devices?.* cpu|cpu.* devices?"):
                    step()


@pytest.mark.parametrize(
    "read", [lambda x: bool(x.all()), lambda x: int(x.sum()), lambda x: x.nonzero(), lambda x: x[x]]
)
def test_a_read_from_the_device_fails(read: Callable[[torch.Tensor], Any]) -> None:
    with fake_gpu(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        read(torch.ones(3, dtype=torch.bool, device=DEVICE))


@pytest.mark.parametrize("kind", KINDS)
def test_backward_equals_that_of_pytorch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare `backward` on real tensors."""
    monkeypatch.undo()
    gradients = []
    for differentiate in (torch.Tensor.backward, backward):
        module, batch = make_module(kind), make_batch(kind, complete=False)
        module.log = module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
        if hasattr(module, "objective"):
            module.objective.draws = torch.Generator().manual_seed(0)
        differentiate(module.training_step(batch, 0)["loss"])
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
