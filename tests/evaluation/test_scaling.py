"""Power laws are found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vatt.errors import InputError
from vatt.evaluation.scaling import fit_power_law, frontier


@given(factor=st.floats(0.1, 100), exponent=st.floats(-1, -0.01), seed=st.integers(0, 9))
def test_a_law_is_found_again(factor: float, exponent: float, seed: int) -> None:
    operations = 10 ** np.random.default_rng(seed).uniform(10, 20, 12)
    law = fit_power_law(operations, factor * operations**exponent)
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.factor == pytest.approx(factor, rel=1e-6)
    assert law.error < 1e-9
    assert law(operations) == pytest.approx(factor * operations**exponent)


def test_noise_is_told() -> None:
    operations = np.logspace(10, 16, 200)
    losses = 7.32 * operations**-0.0378 * np.exp(0.02 * np.random.default_rng(0).normal(size=200))
    law = fit_power_law(operations, losses)
    assert law.exponent == pytest.approx(-0.0378, abs=0.002)
    assert law.error == pytest.approx(0.02, rel=0.2)


def test_the_frontier_is_what_none_reaches_with_less() -> None:
    small, large = ([1, 2, 3], [5.0, 4.0, 3.9]), ([2, 4, 8], [6.0, 3.5, 3.0])
    assert frontier([small, large]) == ([1, 2, 3, 4, 8], [5.0, 4.0, 3.9, 3.5, 3.0])
    assert frontier([([1, 2], [1.0, 2.0])]) == ([1], [1.0])


@pytest.mark.parametrize(
    ("operations", "losses"), [([1], [1]), ([1, 1], [1, 2]), ([1, 2], [0, 1]), ([1, 2], [1, np.nan])]
)
def test_what_has_no_law_is_refused(operations: list[float], losses: list[float]) -> None:
    with pytest.raises(InputError, match="two or more positive"):
        fit_power_law(operations, losses)
