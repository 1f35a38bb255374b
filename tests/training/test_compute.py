"""Compiling and activation checkpointing change neither what is learned nor what is saved."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import tiny_backbone, tiny_batch
from tests.training.runs import logged, train
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.training.compute import Compute, prepare


def gradients(backbone: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    batch = tiny_batch(3)
    torch.manual_seed(2)
    features = [backbone(m, batch[m] if m != "text" else batch[m][:, 0]).pooled for m in ("video", "text")]
    sum(x.square().sum() for x in features).backward()
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])


class Kept:
    """Bytes that are kept for gradients."""

    def __init__(self) -> None:
        self.bytes = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.bytes += x.numel() * x.element_size()
        return x


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    """With dropout, whose draws are made again."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = tiny_backbone()
        for module in backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        prepare(backbone, Compute(activation_checkpointing=checkpointing))
        found.append(gradients(backbone))
    assert torch.equal(*found)


def test_activation_checkpointing_keeps_little() -> None:
    kept = []
    for checkpointing in (False, True):
        encoder, hooks = Transformer(32, depth=6, heads=2), Kept()
        prepare(encoder, Compute(activation_checkpointing=checkpointing))
        with torch.autograd.graph.saved_tensors_hooks(hooks, lambda x: x):
            encoder(torch.randn(2, 20, 32, requires_grad=True))
        kept.append(hooks.bytes)
    assert kept[1] < 0.2 * kept[0]


@pytest.mark.slow
def test_a_compiled_training_is_saved_as_any_other(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without code generation, which takes long: `tests.models.test_compiled` compiles a model with inductor."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    for name, compute in (("plain", Compute()), ("compiled", Compute(compile=True, activation_checkpointing=True))):
        train(corpus, tmp_path / name, steps=4, compute=compute)
    for loss in ("train/loss", "val/rsum"):
        assert logged(tmp_path / "compiled", loss) == pytest.approx(logged(tmp_path / "plain", loss), rel=1e-3)
    plain, compiled = (VATT.from_pretrained(tmp_path / name / "model") for name in ("plain", "compiled"))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    # A checkpoint of the one is gone on from by the other.
    train(corpus, tmp_path / "compiled", steps=6, resume=True)
