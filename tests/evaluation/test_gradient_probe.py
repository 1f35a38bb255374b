from __future__ import annotations

import pytest
import torch

from vatt.evaluation.gradient_probe import train_and_score


@pytest.mark.parametrize("kind", ["lowrank", "attentive"])
def test_classes_that_lie_apart_are_told_apart(kind: str) -> None:
    """Of the tokens only one tells the class, at another place in every clip."""

    def clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        target = torch.arange(count) % 3
        signs = torch.eye(8)[target] * 6
        if kind == "lowrank":
            return signs + torch.randn(count, 8, generator=generator), target
        tokens = torch.randn(count, 5, 8, generator=generator)
        tokens[torch.arange(count), torch.randint(5, (count,), generator=generator)] += signs
        return tokens, target

    (x, y), (x_test, y_test) = clips(300, 0), clips(60, 1)
    before = torch.get_rng_state()
    found = train_and_score(kind, x, y, x_test, 3, steps=700, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    assert (found.argmax(dim=1) == y_test).float().mean() > 0.9
    again = train_and_score(kind, x, y, x_test, 3, steps=700, seed=1)
    assert torch.equal(again, found)


def test_a_readout_knows_when_something_was() -> None:
    """The class is the time of what is there; attention alone knows no order."""

    def clips(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        target = torch.arange(count) % 2
        tokens = torch.randn(count, 2, 3, 16, generator=generator) / 2  # times and places
        tokens[torch.arange(count), target] += torch.tensor([4.0, -4.0]).repeat(8)
        return tokens.flatten(1, 2), target

    (x, y), (x_test, y_test) = clips(400, 0), clips(80, 1)
    right = {}
    for times in (1, 2):
        found = train_and_score("readout", x, y, x_test, 2, steps=500, times=times)
        right[times] = (found.argmax(dim=1) == y_test).float().mean().item()
    assert right[2] > 0.8
    assert right[1] < 0.65
