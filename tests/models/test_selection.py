import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vatt.models.selection import drop_token, num_kept, random_keep
from vatt.structures import Tokens


@given(n=st.integers(1, 60), drop=st.floats(0, 0.99), per_sample=st.booleans())
def test_a_row_holds_different_places_in_order(n: int, drop: float, per_sample: bool) -> None:
    keep = random_keep(3, n, num_kept(n, drop), per_sample=per_sample)
    assert keep.shape == (3, max(1, int(n * (1 - drop) + 1e-9)))
    for row in keep.tolist():
        assert row == sorted(set(row))
        assert row[0] >= 0
        assert row[-1] < n


def test_shared_drops_the_same_everywhere_and_per_sample_does_not() -> None:
    shared = random_keep(8, 50, 25)
    assert all(torch.equal(shared[0], row) for row in shared)
    assert len({tuple(row) for row in random_keep(8, 50, 25, per_sample=True).tolist()}) == 8


def test_the_papers_counts() -> None:
    assert num_kept(1568, 0.5) == 784
    assert num_kept(1200, 0.5) == 600


def test_every_place_is_kept_equally_often() -> None:
    counts = torch.bincount(random_keep(4000, 10, 3, per_sample=True).flatten(), minlength=10)
    assert counts.sum() == 12_000
    assert (counts - 1200).abs().max() < 150


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        num_kept(10, 1.0)


def tokens(n: int) -> Tokens:
    x = torch.arange(2 * n).reshape(2, n, 1).float()
    return Tokens(x, torch.zeros(2, n, 3, dtype=torch.int64), grid=(n,))


def test_the_share_is_of_the_tokens_there_are_or_of_the_tables_places() -> None:
    # A longer clip than the tables are for: half of its tokens, or as many as of a clip that fills the tables.
    assert drop_token(tokens(40), 0.5, (20,)).x.shape[1] == 20
    assert drop_token(tokens(40), 0.5, (20,), rule="table").x.shape[1] == 10
    assert drop_token(tokens(6), 0.5, (4, 5), rule="table").x.shape[1] == 6  # there are no more
    assert drop_token(tokens(20), 0.5, (20,), rule="table").x.shape[1] == 10


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    all_of_them, state = tokens(5), torch.get_rng_state()
    assert drop_token(all_of_them, 0.0, (5,)) is all_of_them
    assert torch.equal(state, torch.get_rng_state())
