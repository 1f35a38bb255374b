"""Assumptions of `vatt.training.device_skip` about PyTorch's optimizers, which new versions may change."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vatt.training.device_skip import can_skip_on_device, norms_of, skip_where

MAKE: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.1, fused=True),
    "adamw": lambda p: AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, fused=True),
}


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(5))]


def set_gradients(weights: list[nn.Parameter], value: float | None = None) -> None:
    for number, weight in enumerate(weights):
        weight.grad = torch.full_like(weight, number + 1.0 if value is None else value)


@pytest.mark.parametrize("name", MAKE)
def test_flag_skips_the_step(name: str) -> None:
    """The first step (without momentum) and a later one are skipped; the other steps do not change."""
    weights, reference = parameters(), parameters()
    skipping, plain = MAKE[name](weights), MAKE[name](reference)
    for number in range(5):
        skipped = number in (0, 2)
        set_gradients(weights, torch.nan if skipped else None)
        able = can_skip_on_device(skipping)
        assert able == (name != "sgd" or number > 1), number
        if skipped and not able:
            continue
        before = copy.deepcopy(skipping.state_dict())
        skip_where(skipping, torch.tensor(skipped) if able else None)
        skipping.step()
        if not skipped:
            set_gradients(reference)
            plain.step()
        elif number:
            torch.testing.assert_close(skipping.state_dict(), before, rtol=0, atol=0)
        for weight, expected in zip(weights, reference, strict=True):
            assert torch.equal(weight, expected), number
    assert all(int(state.get("step", 3)) == 3 for state in skipping.state.values())
    skip_where(skipping, None)
    assert not hasattr(skipping, "found_inf")
    skip_where(skipping, None)


def test_other_optimizers_cannot_skip_on_the_device() -> None:
    weights = parameters()
    for optimizer in (AdamW(weights), AdamW(weights, foreach=True), SGD(weights, lr=0.1)):
        set_gradients(weights)
        assert not can_skip_on_device(optimizer)
        skip_where(optimizer, torch.tensor(True))
    refusing = AdamW(weights, foreach=True)
    refusing.found_inf = torch.ones(())
    with pytest.raises(AssertionError):  # the flag must not be set
        refusing.step()
    first = SGD(weights, lr=0.1, momentum=0.9, fused=True)
    assert not can_skip_on_device(first)
    first.step()
    assert can_skip_on_device(first)
    assert can_skip_on_device(SGD(weights, lr=0.1, fused=True))


def test_norms_of_many_tensors() -> None:
    tensors = [torch.randn(3, 4), torch.randn(2), torch.full((2,), torch.inf), torch.randn(4).bfloat16()]
    norms = norms_of(tensors)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms, torch.stack([x.float().norm() for x in tensors]), rtol=1e-2, atol=0)
