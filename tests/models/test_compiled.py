"""``torch.compile`` on a whole model: the same outputs, for batches of any size."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch

from tests.conftest import TINY, tiny_backbone, tiny_batch, tiny_model
from vatt.models.heads import LinearClassifier
from vatt.models.vatt import Classifier

BACKENDS = [
    pytest.param("aot_eager"),
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU"),
    ),
]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def inputs(clips: int) -> dict[str, torch.Tensor]:
    batch = tiny_batch(clips)
    return {"video": batch["video"], "audio": batch["audio"], "text": batch["text"][:, 0]}


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_compiled_model_gives_the_same(backend: str) -> None:
    model = tiny_model(shared=True)
    compiled = torch.compile(model, backend=backend, dynamic=True if backend == "inductor" else None)  # one compilation
    for clips in (2, 5):
        raw = inputs(clips)
        wanted, found = model(**raw), compiled(**raw)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            close(found[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio", "text"])
@torch.no_grad()
def test_compiled_encoders_give_the_same(modality: str) -> None:
    model = tiny_model()
    encode = getattr(model, f"encode_{modality}")
    compiled = torch.compile(encode, backend="aot_eager", fullgraph=True)
    for clips in (2, 5):
        raw = inputs(clips)[modality]
        close(compiled(raw), encode(raw))


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_classifier_drops_the_same_tokens() -> None:
    options = {"drop_token": 0.5, "drop_in_use": True}
    model = Classifier(tiny_backbone().tower("video"), LinearClassifier(16, 3), TINY, **options).eval()
    compiled = torch.compile(model, backend="aot_eager")
    for clips in (2, 5):
        raw = inputs(clips)["video"]
        close(compiled(video=raw)["logits"], model(video=raw)["logits"])
