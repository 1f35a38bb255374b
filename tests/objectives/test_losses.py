from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.timing import peak_bytes
from vatt.objectives.losses import mil_nce, nce, pairwise_logsumexp

FORMS = ("asymmetric", "symmetric")


def slow(
    x: np.ndarray, y: np.ndarray, temperature: float, x_valid: np.ndarray, y_valid: np.ndarray, form: str
) -> float:
    """The definition, one term at a time."""

    def s(i: int, j: int, k: int) -> float:
        return math.exp(x[i] @ y[j, k] / np.linalg.norm(x[i]) / np.linalg.norm(y[j, k]) / temperature)

    b, candidates = y_valid.shape
    terms = []
    for i in range(b):
        if not x_valid[i] or not y_valid[i].any():
            continue
        own = [k for k in range(candidates) if y_valid[i, k]]
        positive = sum(s(i, i, k) for k in own)
        to_y = sum(s(i, j, k) for j in range(b) for k in range(candidates) if y_valid[j, k])
        to_x = sum(s(j, i, k) for j in range(b) if x_valid[j] for k in own)
        if form == "asymmetric":
            terms.append(math.log((to_y + to_x) / positive))
        else:
            terms.append(math.log(to_y / positive) + math.log(to_x / positive))
    return float(np.mean(terms)) if terms else 0.0


@given(
    b=st.integers(1, 5),
    k=st.integers(1, 4),
    temperature=st.sampled_from([0.07, 0.5, 1.0]),
    missing=st.floats(0, 1),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_mil_nce_against_the_definition(
    b: int, k: int, temperature: float, missing: float, form: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(b, 6)), rng.normal(size=(b, k, 6))
    x_valid, y_valid = rng.uniform(size=b) >= missing / 2, rng.uniform(size=(b, k)) >= missing
    tensors = [torch.from_numpy(array) for array in (x, y)]
    found = mil_nce(*tensors, temperature, torch.from_numpy(x_valid), torch.from_numpy(y_valid), form)
    assert found.item() == pytest.approx(slow(x, y, temperature, x_valid, y_valid, form), rel=1e-4, abs=1e-5)


@given(
    m=st.integers(1, 9),
    n=st.integers(1, 12),
    max_logits=st.integers(1, 60),
    temperature=st.floats(0.02, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_logits_in_parts_give_the_same(m: int, n: int, max_logits: int, temperature: float, seed: int) -> None:
    """In float64, where rounding does not blur it: values and gradients for both sides and the temperature."""

    def found(most: int | None) -> list[torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        x, y, weights = (torch.randn(rows, 6, generator=draw, dtype=torch.float64) for rows in (m, n, m + n))
        given = [value.requires_grad_() for value in (x, y, torch.tensor(temperature, dtype=torch.float64))]
        sums = torch.cat(pairwise_logsumexp(*given, most))
        return [sums, *torch.autograd.grad(sums @ weights[:, 0], given)]

    for part, whole in zip(found(max_logits), found(None), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_logits", [1, 7, 30])
def test_the_loss_in_parts_is_the_same_with_gaps(form: str, max_logits: int) -> None:
    x, y = torch.randn(9, 6, requires_grad=True), torch.randn(9, 3, 6, requires_grad=True)
    valid = torch.rand(9) > 0.2, torch.rand(9, 3) > 0.4

    def found(most: int | None) -> list[torch.Tensor]:
        loss = mil_nce(x, y, 0.3, *valid, form, max_logits=most)
        return [loss, *torch.autograd.grad(loss, [x, y])]

    for part, whole in zip(found(max_logits), found(None), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5)


def test_logits_in_parts_take_a_tenth_of_the_memory() -> None:
    """Forward and backward pass, of 2,048 clips: 16 MiB of similarities, several times over where all are made."""
    x, y = torch.randn(2048, 8, requires_grad=True), torch.randn(2048, 8, requires_grad=True)
    whole, parts = (peak_bytes(lambda most=most: nce(x, y, max_logits=most).backward()) for most in (None, 2**16))
    assert whole > 2 * 4 * 2048**2
    assert parts < whole / 10


def test_nce_is_mil_nce_with_one_candidate() -> None:
    x, y, valid = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([True, True, False, True, True])
    for form in FORMS:
        assert torch.equal(nce(x, y, 0.1, None, valid, form), mil_nce(x, y[:, None], 0.1, None, valid[:, None], form))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_closed_forms(k: int) -> None:
    b = 7
    same, one = torch.ones(b, 3), torch.ones(b, k, 3)
    # Everything equal: ln(2 B) for the asymmetric form, whatever K, and 2 ln B for the symmetric one.
    assert mil_nce(same, one).item() == pytest.approx(math.log(2 * b), abs=1e-5)
    assert mil_nce(same, one, form="symmetric").item() == pytest.approx(2 * math.log(b), abs=1e-5)
    # Perfectly told apart: ln 2, since the positives are counted twice, and 0.
    apart = torch.eye(b)
    assert mil_nce(apart, apart[:, None].expand(b, k, b)).item() == pytest.approx(math.log(2), abs=1e-4)
    assert mil_nce(apart, apart[:, None].expand(b, k, b), form="symmetric").item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_clips_and_candidates_does_not_matter(form: str) -> None:
    x, y = torch.randn(6, 4), torch.randn(6, 3, 4)
    valid = torch.rand(6, 3) > 0.3
    order, inner = torch.randperm(6), torch.randperm(3)
    a = mil_nce(x, y, y_valid=valid, form=form)
    b = mil_nce(x[order], y[order][:, inner], y_valid=valid[order][:, inner], form=form)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_valid_has_neither_value_nor_gradient(form: str) -> None:
    x, y = torch.randn(5, 4, requires_grad=True), torch.randn(5, 2, 4, requires_grad=True)
    x_valid = torch.tensor([True, True, False, True, True])
    y_valid = torch.tensor([[True, True], [True, False], [True, True], [False, False], [True, True]])
    loss = mil_nce(x, y, x_valid=x_valid, y_valid=y_valid, form=form)
    loss.backward()
    assert x.grad[2].abs().max() == 0
    assert y.grad[1, 1].abs().max() == 0
    assert x.grad[3].abs().max() > 0  # a video without text stays a negative
    assert y.grad[2].abs().max() > 0  # and so does the text of a clip without a picture
    changed = y.detach().clone()
    changed[1, 1] += 5
    assert torch.allclose(mil_nce(x, changed, x_valid=x_valid, y_valid=y_valid, form=form), loss)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_valid_gives_a_zero_that_trains_nothing(form: str) -> None:
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(3, 2, 4, requires_grad=True)
    loss = mil_nce(x, y, y_valid=torch.zeros(3, 2, dtype=torch.bool), form=form)
    loss.backward()
    assert loss.item() == 0
    assert x.grad.abs().max() == y.grad.abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 3), torch.randn(4, 2, 3)
    valid = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    x.requires_grad_()
    mil_nce(x, y, 0.5, None, valid, form).backward()
    step = 1e-2
    for i, j in ((0, 0), (2, 1), (3, 2)):
        moved = torch.zeros_like(x)
        moved[i, j] = step
        with torch.no_grad():
            up = mil_nce(x + moved, y, 0.5, None, valid, form)
            down = mil_nce(x - moved, y, 0.5, None, valid, form)
        assert x.grad[i, j].item() == pytest.approx(((up - down) / (2 * step)).item(), rel=2e-2, abs=2e-3)


def test_half_precision_is_computed_in_single() -> None:
    x, y = torch.randn(8, 16), torch.randn(8, 16)
    exact = nce(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nce(x, y).dtype == torch.float32
        assert torch.allclose(nce(x, y), exact, atol=1e-5)
    assert nce(x.bfloat16(), y.bfloat16()).item() == pytest.approx(exact.item(), rel=2e-2)


def test_a_temperature_can_be_learned() -> None:
    temperature = torch.tensor(0.2, requires_grad=True)
    nce(torch.randn(4, 3), torch.randn(4, 3), temperature).backward()
    assert temperature.grad.abs() > 0


def test_wrong_shapes_and_forms_are_named() -> None:
    with pytest.raises(ValueError, match=r"not \(3, 4\) and \(2, 1, 4\)"):
        nce(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="asymmetric or symmetric, not 'best'"):
        nce(torch.ones(3, 4), torch.ones(3, 4), form="best")  # type: ignore[arg-type]


@given(b=st.integers(2, 5), k=st.integers(1, 3), seed=st.integers(0, 1000), form=st.sampled_from(FORMS))
@settings(max_examples=60, deadline=None)
def test_the_released_codes_mean_scales_once_for_each_side(b: int, k: int, seed: int, form: str) -> None:
    """Its own recipe: rows are multiplied by validity and by B over the number of valid ones, then averaged over B."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(b, 6)), rng.normal(size=(b, k, 6))
    x_valid, y_valid = rng.uniform(size=b) > 0.3, np.repeat(rng.uniform(size=(b, 1)) > 0.3, k, axis=1)
    pairs = int((x_valid & y_valid[:, 0]).sum())
    arguments = [torch.from_numpy(array) for array in (x, y)]
    valid = torch.from_numpy(x_valid), torch.from_numpy(y_valid)
    found = mil_nce(*arguments, 0.1, *valid, form, "official").item()
    total = slow(x, y, 0.1, x_valid, y_valid, form) * pairs
    expected = total * b / max(x_valid.sum(), 1) * b / max(y_valid[:, 0].sum(), 1) / b
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    # The same as the mean over pairs where only one side has gaps.
    everything = torch.ones(b, dtype=torch.bool)
    one_side = [mil_nce(*arguments, 0.1, everything, valid[1], form, mean) for mean in ("pairs", "official")]
    assert torch.allclose(*one_side, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_logits", [None, 3])
@pytest.mark.parametrize("content", [0.0, 1e30, math.inf, math.nan])
def test_content_of_invalid_rows_is_ignored(form: str, max_logits: int | None, content: float) -> None:
    """Value and gradients equal those of a batch without the invalid rows. 0 x inf must not give NaN."""
    x, y = torch.randn(6, 4), torch.randn(6, 2, 4)
    x_valid, y_valid = torch.tensor([True, False, True, True, False, True]), torch.ones(6, 2, dtype=torch.bool)
    y_valid[4], y_valid[2, 1] = False, False
    rows = torch.tensor([0, 2, 3, 5])  # valid rows of x
    inputs = [values.clone().requires_grad_() for values in (x, y)]
    with torch.no_grad():
        inputs[0][~x_valid], inputs[1][~y_valid] = content, content
    loss = mil_nce(*inputs, 0.3, x_valid, y_valid, form, max_logits=max_logits)
    gradients = torch.autograd.grad(loss, inputs)
    assert gradients[0][~x_valid].abs().max() == gradients[1][~y_valid].abs().max() == 0
    # The candidates of clip 1, which has no x of its own, are negatives like any other.
    y_alone = torch.cat([y[rows], y[1:2]]).requires_grad_()
    x_alone = torch.cat([x[rows], torch.ones(1, 4)]).requires_grad_()
    valid = torch.arange(5) < 4, torch.cat([y_valid[rows], y_valid[1:2]])
    expected = mil_nce(x_alone, y_alone, 0.3, *valid, form)
    expected_gradients = torch.autograd.grad(expected, [x_alone, y_alone])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for gradient, alone in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient[rows], alone[:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1][1], expected_gradients[1][4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_logits", [None, 3])
@pytest.mark.parametrize("mean", ["pairs", "official"])
def test_loss_and_gradients_are_zero_without_valid_pairs(form: str, max_logits: int | None, mean: str) -> None:
    """No row is valid on one side or on both sides, or each clip is valid on one side only. Temperature is learned."""
    none, every = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    first = torch.tensor([True, True, False, False])
    for x_valid, y_valid in ((none, none), (none, every), (every, none), (first, ~first)):
        inputs = [value.requires_grad_() for value in (torch.randn(4, 3), torch.randn(4, 2, 3), torch.tensor(0.1))]
        loss = mil_nce(*inputs, x_valid, y_valid[:, None].expand(4, 2), form, mean, max_logits)
        loss.backward()
        assert loss == 0
        assert all(value.grad.abs().max() == 0 for value in inputs)
