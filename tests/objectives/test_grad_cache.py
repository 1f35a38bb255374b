"""Gradient caching: the loss and the gradients of the whole batch, whatever the size of the micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import SMALL_HEAD, tiny_backbone, tiny_batch
from vatt.models.attention import Block
from vatt.objectives import grad_cache as caching
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.grad_cache import grad_cache_forward


def found(dropout: float, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradients of one step, always of the same weights, clips and seed."""
    torch.manual_seed(5)
    backbone = tiny_backbone()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        if isinstance(module, Block):
            module.attention.dropout = dropout
    objective = Contrastive(SMALL_HEAD, drop_video=0.5, drop_audio=0.5, **options)  # type: ignore[arg-type]
    objective.build(backbone)
    batch = tiny_batch(6)
    batch["text_valid"][1] = False
    torch.manual_seed(7)
    loss = objective(backbone, batch)["loss"]
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for m in (backbone, objective) for p in m.parameters()])


@pytest.fixture
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches that keep everything for the gradient, as one graph."""
    monkeypatch.setattr(caching, "checkpoint", lambda encode, *given, use_reentrant: encode(*given))


def same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.allclose(a[0], b[0], rtol=1e-5) and bool((a[1] - b[1]).norm() <= 1e-5 * b[1].norm())


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_droptoken_is_that_of_the_whole_batch(size: int, per_sample: bool) -> None:
    whole = found(0.0, per_sample=per_sample)
    assert same(found(0.0, per_sample=per_sample, micro_batch=size), whole)


@pytest.mark.parametrize("size", [2, 4])
def test_dropout_is_drawn_again_as_it_was(size: int, uncached: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = found(0.1, micro_batch=size)
    monkeypatch.undo()
    assert same(found(0.1, micro_batch=size), kept)
    assert not same(found(0.0, micro_batch=size), kept)


class Encoded(TorchDispatchMode):
    """Rows of every batch that was encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if op is torch.ops.aten.tanh.default:
            self.rows.append(len(args[0]))
        return op(*args, **(kwargs or {}))


def test_every_micro_batch_is_encoded_again_for_its_gradient() -> None:
    for size, rows in ((None, [40]), (16, [16, 16, 8, 8, 16, 16])):
        with Encoded() as seen:
            x = grad_cache_forward(lambda raw, keep: raw.tanh(), size, torch.ones(40, 3, requires_grad=True))
            x.sum().backward()
        assert seen.rows == rows


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (6, 3), (1, 1), (3, 7)])
def test_places_go_with_their_rows(rows: int, size: int) -> None:
    x, keep = torch.randn(rows, 5), torch.randint(0, 5, (rows, 2))
    taken = grad_cache_forward(lambda raw, kept: raw.gather(1, kept), size, x, keep)
    assert torch.equal(taken, x.gather(1, keep))


def test_a_micro_batch_has_a_row() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        grad_cache_forward(lambda x, keep: x, 0, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="micro_batch"):
        Contrastive(micro_batch=0)
