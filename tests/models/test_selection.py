from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vatt.models.blocks import BlockMask, draw_blocks
from vatt.models.selection import draw_masked, drop_token, num_kept, random_keep, to_device
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


KEPT = [[1, 5, 7, 9], [1, 5, 6, 7], [0, 1, 3, 6]]
MASKED = [[[0, 2, 4, 6], [2, 3, 6, 7]], [[1, 3, 5, 7], [0, 1, 4, 5]]]
BLOCKS = [[[0, 1, 2, 3, 5, 6, 7, 8, 9, 11], [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]], [[4, 10], [5, 11]]]


def test_draws_of_a_seed_are_stable() -> None:
    """Draws depend on neither the version nor the device, so that runs can be resumed."""
    draw = torch.Generator().manual_seed(0)
    assert random_keep(3, 10, 4, per_sample=True, generator=draw).tolist() == KEPT
    assert random_keep(2, 10, 4, generator=draw).tolist() == [[1, 7, 8, 9]] * 2
    assert [x.tolist() for x in draw_masked(2, (2, 2, 2), 0.5, generator=draw)] == MASKED
    assert [x.tolist() for x in draw_blocks(2, (2, 2, 3), BlockMask(1, 0.4), generator=draw)] == BLOCKS


@pytest.mark.parametrize("per_sample", [True, False])
def test_row_selection_equals_rows_of_the_complete_draw(per_sample: bool) -> None:
    def draws(part: Callable[[torch.Tensor], torch.Tensor] | None) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        kept = random_keep(6, 20, 7, per_sample=per_sample, generator=generator, part=part)
        return [kept, *draw_masked(6, (2, 3, 3), 0.5, generator=generator, part=part)]

    for complete, half in zip(draws(None), draws(lambda rows: rows[1::2]), strict=True):
        assert torch.equal(complete[1::2], half)


def test_draws_are_moved_to_the_device() -> None:
    for device in (None, torch.device("cpu")):
        assert to_device(torch.ones(2), device).device.type == "cpu"
    meta = torch.device("meta")
    assert random_keep(2, 5, 3, device=meta, generator=torch.Generator()).device == meta
    assert {x.device for x in draw_masked(2, (2, 2, 2), 0.5, device=meta)} == {meta}
