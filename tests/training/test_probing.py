from __future__ import annotations

import pytest
import torch

from vatt.training.probing import train_and_score


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
