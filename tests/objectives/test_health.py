from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vatt.objectives.health import effective_rank, of_vectors, similarities, spread


def test_spread_is_that_of_the_mean_cosine() -> None:
    x = torch.randn(7, 5) + torch.tensor([2.0, 0, 0, 0, 0])
    unit = x / x.norm(dim=1, keepdim=True)
    assert spread(x).item() == pytest.approx(math.sqrt(1 - (unit @ unit.T).mean()), rel=1e-5)
    assert spread(torch.ones(4, 3)).item() == pytest.approx(0, abs=1e-4)
    assert spread(torch.cat([torch.eye(6), -torch.eye(6)]) * torch.rand(12, 1)).item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_effective_rank_is_the_entropy_of_singular_values(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    singular = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    shares = singular[singular > 1e-9] / singular.sum()
    assert effective_rank(x).item() == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)


def test_effective_rank_counts_dimensions() -> None:
    plane = torch.randn(50, 2) @ torch.linalg.qr(torch.randn(8, 8))[0][:2]
    assert 1.8 < effective_rank(plane).item() < 2.01
    crossed = torch.cat([torch.eye(6), -torch.eye(6)])
    assert effective_rank(crossed).item() == pytest.approx(6, rel=1e-3)
    assert effective_rank(torch.ones(5, 3)).item() == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.full((5, 3), torch.nan)).isnan()


def test_similarities_of_partners_and_of_others() -> None:
    x, y = torch.randn(6, 4), torch.randn(6, 4)
    every = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    own, others = similarities(x, y)
    assert own.item() == pytest.approx(every.diag().mean().item(), abs=1e-6)
    assert others.item() == pytest.approx(every[~torch.eye(6, dtype=torch.bool)].mean().item(), abs=1e-6)
    assert similarities(x[:1], y[:1])[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(20, 6), (8, 30)])
def test_invalid_vectors_are_ignored(shape: tuple[int, int]) -> None:
    x, y, valid = torch.randn(shape) + 1, torch.randn(shape), torch.arange(shape[0]) % 3 != 1
    x[~valid] = torch.nan
    for metric in (spread, effective_rank):
        assert metric(x, valid).item() == pytest.approx(metric(x[valid]).item(), rel=1e-3)
    for masked, alone in zip(similarities(x, y, valid), similarities(x[valid], y[valid]), strict=True):
        assert masked.item() == pytest.approx(alone.item(), abs=1e-6)
    assert of_vectors("x", x, valid)["x_count"] == valid.sum()


@pytest.mark.parametrize("num_valid", [0, 1])
def test_metrics_of_too_few_vectors_are_nan(num_valid: int) -> None:
    x, valid = torch.randn(5, 3), torch.arange(5) < num_valid
    metrics = of_vectors("x", x, valid)
    assert metrics["x_count"] == num_valid
    assert metrics["x_spread"].isnan()
    assert metrics["x_rank"].isnan()
    positive, negative = similarities(x, x, valid)
    assert positive.isnan() == negative.isnan() == (num_valid == 0)
