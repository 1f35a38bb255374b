"""Masked batch norm equals batch norm of the valid rows alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vatt.models.heads import HierarchicalProjection, JointProjection
from vatt.models.masked_norm import apply_to_valid, masked_batch_norm

ROWS = 12


def layers(momentum: float | None) -> nn.Sequential:
    norms = [nn.BatchNorm1d(width, momentum=momentum) for width in (7, 4)]
    inner = nn.Sequential(nn.ReLU(), nn.Linear(7, 4), norms[1])
    stack = nn.Sequential(nn.Linear(5, 7), norms[0], inner).double()
    for parameter in stack.parameters():
        nn.init.normal_(parameter)
    return stack


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("num_valid", [0, 1, 2, 3, 11, 12])
def test_masked_norm_equals_selecting_the_valid_rows(num_valid: int, momentum: float | None) -> None:
    """Compare values, gradients, running statistics and their count over three steps.

    With fewer than two valid rows, the norm is applied in evaluation mode.
    """
    masked = layers(momentum)
    selecting = copy.deepcopy(masked)
    for _ in range(3):
        valid = torch.zeros(ROWS, dtype=torch.bool)
        valid[torch.randperm(ROWS)[:num_valid]] = True
        x = torch.randn(ROWS, 5, dtype=torch.float64)
        x[~valid] = 1e3
        a, b, weight = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn(ROWS, 4).double()
        selecting.train(num_valid > 1)
        y = apply_to_valid(masked, a, valid).where(valid[:, None], 0.0)
        z = torch.zeros_like(y).index_put((valid,), selecting(b[valid]))
        torch.testing.assert_close(y, z)
        (y * weight).sum().backward()
        (z * weight).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
        for (name, p), q in zip(masked.named_parameters(), selecting.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(masked.state_dict(), selecting.state_dict())
        masked.zero_grad()
        selecting.zero_grad()
    assert masked[1].num_batches_tracked == (3 if num_valid > 1 else 0)


def test_masked_norm_of_valid_rows_equals_pytorch_bitwise() -> None:
    norm, x = nn.BatchNorm1d(4), torch.randn(6, 4)
    other = copy.deepcopy(norm)
    assert torch.equal(masked_batch_norm(norm, x, torch.ones(6, dtype=torch.bool)), other(x))
    torch.testing.assert_close(norm.state_dict(), other.state_dict(), rtol=0, atol=0)
    norm.eval()
    other.eval()
    assert torch.equal(masked_batch_norm(norm, x, torch.zeros(6, dtype=torch.bool)), other(x))


def test_content_of_invalid_rows_is_ignored() -> None:
    valid = torch.tensor([True, True, True, False])
    for value in (0.0, 1e30, torch.inf, torch.nan):
        norm, x = nn.BatchNorm1d(3), torch.arange(12.0).view(4, 3)
        x[3] = value
        x.requires_grad_()
        y = masked_batch_norm(norm, x, valid)
        assert torch.allclose(y[:3], nn.BatchNorm1d(3)(torch.arange(9.0).view(3, 3)), atol=1e-5)
        y[:3].square().sum().backward()
        assert x.grad[:3].isfinite().all()
        assert x.grad[3].abs().max() == 0


def test_unsupported_norms_are_reported() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

    valid = torch.ones(2, dtype=torch.bool)
    for layer in (nn.Sequential(Own()), nn.BatchNorm1d(3, track_running_stats=False)):
        with pytest.raises(ValueError, match=r"batch norm in (Own|BatchNorm1d) cannot exclude invalid rows"):
            apply_to_valid(layer, torch.ones(2, 3), valid)


@pytest.mark.parametrize("make", [HierarchicalProjection, JointProjection])
def test_heads_exclude_invalid_rows(make: type) -> None:
    """Vectors of invalid rows are zeros; the others equal those of a batch of the valid rows alone."""
    head = make({"video": 6, "audio": 5, "text": 4})
    alone = copy.deepcopy(head)
    pooled = {"video": torch.randn(5, 6), "audio": torch.randn(5, 5), "text": torch.randn(10, 4)}
    valid = {name: torch.arange(len(x)) % 3 != 1 for name, x in pooled.items()}
    out = head(pooled, valid)
    expected = alone({name: x[valid[name]] for name, x in pooled.items()})
    assert out.keys() == expected.keys()
    for name, x in out.items():
        rows = valid[name.partition("_")[0]]
        torch.testing.assert_close(x[rows], expected[name], rtol=1e-4, atol=1e-5)
        assert x[~rows].abs().max() == 0
    torch.testing.assert_close(head.state_dict(), alone.state_dict(), rtol=1e-5, atol=1e-6)
