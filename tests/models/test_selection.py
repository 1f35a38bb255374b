import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vatt.models.selection import random_keep


@given(n=st.integers(1, 60), drop=st.floats(0, 0.99), per_sample=st.booleans())
def test_a_row_holds_different_places_in_order(n: int, drop: float, per_sample: bool) -> None:
    keep = random_keep(3, n, drop, per_sample=per_sample)
    assert keep.shape == (3, max(1, int(n * (1 - drop) + 1e-9)))
    for row in keep.tolist():
        assert row == sorted(set(row))
        assert row[0] >= 0
        assert row[-1] < n


def test_shared_drops_the_same_everywhere_and_per_sample_does_not() -> None:
    shared = random_keep(8, 50, 0.5)
    assert all(torch.equal(shared[0], row) for row in shared)
    assert len({tuple(row) for row in random_keep(8, 50, 0.5, per_sample=True).tolist()}) == 8


def test_the_papers_counts() -> None:
    assert random_keep(1, 1568, 0.5).shape == (1, 784)
    assert random_keep(1, 1200, 0.5).shape == (1, 600)


def test_every_place_is_kept_equally_often() -> None:
    counts = torch.bincount(random_keep(4000, 10, 0.7, per_sample=True).flatten(), minlength=10)
    assert counts.sum() == 12_000
    assert (counts - 1200).abs().max() < 150


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        random_keep(1, 10, 1.0)
