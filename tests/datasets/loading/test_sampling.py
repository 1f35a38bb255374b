from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.datasets.identity import read_segments
from vatt.datasets.loading.sampling import BLOCK, Balanced, Mix, Shuffled, StepSampler, seeded
from vatt.errors import InputError
from vatt.structures import Clip


def keys(sampler: StepSampler) -> list[list[tuple[int, int, int]]]:
    return list(sampler)


@given(
    clips=st.integers(8, 60), batch=st.integers(1, 4), world=st.integers(1, 2), start=st.integers(0, 30),
    seed=st.integers(0, 5), mixed=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_order_is_a_function_of_seed_and_slot(
    clips: int, batch: int, world: int, start: int, seed: int, mixed: bool
) -> None:
    def sampler(rank: int, world: int, batch: int) -> StepSampler:
        if not mixed:
            return StepSampler([Shuffled(clips, seed, batch * world)], batch, 40, None, rank, world)
        orders = [Shuffled(clips, seed), Balanced([["a"], ["b"], ["a", "c"]], seed)]
        return StepSampler(orders, batch, 40, Mix([3, 1], seed), rank, world)

    one = keys(sampler(0, 1, batch * world))
    resumed = sampler(0, 1, batch * world)
    resumed.load_state_dict(one_state(resumed, start))
    assert keys(resumed) == one[start:]
    parts = [keys(sampler(rank, world, batch)) for rank in range(world)]
    assert {len(part) for part in parts} == {40}
    for whole, *shares in zip(one, *parts, strict=True):
        assert sorted(key for share in shares for key in share) == sorted(whole)
    assert len({key for step in one for key in step}) == 40 * batch * world  # every draw is another one


def one_state(sampler: StepSampler, steps: int) -> dict[str, int]:
    """The state after some steps."""
    return sampler.state_dict() | {"step": steps, "slot": steps * sampler.whole}


@given(
    clips=st.integers(8, 60), first=st.integers(1, 8), then=st.integers(1, 8), start=st.integers(0, 40),
    seed=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_run_resumed_with_other_batches_repeats_no_draw(
    clips: int, first: int, then: int, start: int, seed: int
) -> None:
    before = StepSampler([Shuffled(clips, seed, first)], first, start)
    drawn = [key for step in keys(before) for key in step]
    resumed = StepSampler([Shuffled(clips, seed, then)], then, start + 30)
    resumed.load_state_dict(one_state(before, start))
    later = keys(resumed)
    assert len(later) == 30
    assert not set(drawn) & {key for step in later for key in step}
    for step in later:
        assert len({index for _, index, _ in step}) == then
        assert len({number for _, _, number in step}) == 1


@given(clips=st.integers(8, 60), whole=st.integers(1, 8), seed=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_pass_has_no_clip_twice_and_a_batch_lies_in_one_pass(clips: int, whole: int, seed: int) -> None:
    order = Shuffled(clips, seed, whole)
    used = clips // whole * whole
    for number in range(3):
        drawn = [order[draw] for draw in range(number * used, (number + 1) * used)]
        assert len({index for index, _ in drawn}) == used
        assert {each for _, each in drawn} == {number}
    assert {order[draw][0] for draw in range(60 * used)} == set(range(clips))  # nobody is always left out


@given(seed=st.integers(0, 20), mixed=st.booleans(), world=st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_no_batch_holds_a_segment_twice(seed: int, mixed: bool, world: int) -> None:
    """Each file is in the dataset several times, or in both datasets."""
    clips = [Clip(id=str(i), path=f"{i % 30}.mp4", start_s=5.0 * (i % 60 >= 30)) for i in range(90)]
    segments = read_segments([clips, clips])

    def sampler(rank: int, step: int = 0) -> StepSampler:
        orders = [Shuffled(90, seed), Shuffled(90, seed + 1)] if mixed else [Shuffled(90, seed, 8)]
        mix = Mix([1, 2], seed) if mixed else None
        result = StepSampler(orders, 8 // world, 40, mix, rank, world, segments)
        result.load_state_dict(one_state(result, step))
        return result

    parts = [keys(sampler(rank)) for rank in range(world)]
    batches = [[key for part in parts for key in part[step]] for step in range(40)]
    for batch in batches:
        assert len({clips[index].path for _, index, _ in batch}) == 8
    assert len({key for batch in batches for key in batch}) == 40 * 8  # every draw is another one
    assert keys(sampler(0, 13)) == parts[0][13:]
    assert len({index for batch in batches for _, index, _ in batch}) > 85


def test_a_dataset_with_fewer_segments_than_a_batch_is_drawn_from() -> None:
    segments = read_segments([[Clip(id=str(i), path="a.mp4") for i in range(6)]])
    batches = keys(StepSampler([Shuffled(6, 0, 4)], 4, 5, segments=segments))
    assert [len({index for _, index, _ in batch}) for batch in batches] == [4] * 5


def test_too_few_clips_for_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match="3 clips do not fill one batch of 4"):
        Shuffled(3, 0, 4)


def test_classes_come_equally_often_and_their_clips_too() -> None:
    labels = [["speech"]] * 90 + [["dog"]] * 9 + [["siren", "dog"]]
    order = Balanced(labels, seed=3)
    drawn = [order[draw] for draw in range(3 * 900)]
    counts = Counter(index for index, _ in drawn)
    assert {counts[i] for i in range(90)} == {10}  # 900 rounds over 90 clips
    assert {counts[i] for i in range(90, 99)} == {90}  # 900 rounds over 10 clips
    assert counts[99] == 900 + 90  # all of one class, and one of ten of the other
    assert len(set(drawn)) == len(drawn)
    assert drawn[:50] == [Balanced(labels, seed=3)[draw] for draw in range(50)]
    assert drawn[:50] != [Balanced(labels, seed=4)[draw] for draw in range(50)]


def test_clips_without_a_label_cannot_be_balanced() -> None:
    with pytest.raises(InputError, match="1 of 2 clips have no label"):
        Balanced([["a"], []], 0)


@given(weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_weights_are_met_in_every_block(weights: list[float], seed: int) -> None:
    mix = Mix(weights, seed)
    drawn = [mix[slot] for slot in range(2 * BLOCK)]
    for number in range(2):
        counts = Counter(dataset for dataset, _ in drawn[number * BLOCK : (number + 1) * BLOCK])
        for dataset, weight in enumerate(weights):
            assert abs(counts[dataset] - weight / sum(weights) * BLOCK) < 1
    for dataset in range(len(weights)):  # each dataset is drawn from without a gap
        assert [before for each, before in drawn if each == dataset] == list(range(2 * int(mix.counts[dataset])))


def test_batches_are_mixed() -> None:
    mix = Mix([1, 1], 0)
    shares = [sum(mix[slot][0] for slot in range(64 * step, 64 * step + 64)) / 64 for step in range(100)]
    assert 0.2 < min(shares) < 0.45
    assert 0.55 < max(shares) < 0.8


@pytest.mark.parametrize("weights", [[1, 0], [1, -1], [1, 1e-6]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weight"):
        Mix(weights, 0)


def test_neighbouring_seeds_are_unrelated() -> None:
    draws = torch.stack([torch.rand(200, generator=seeded(0, epoch, 7)) for epoch in range(40)])
    correlation = torch.corrcoef(draws) - torch.eye(40)
    assert correlation.abs().max() < 0.35
    assert len({seeded(a, b).initial_seed() for a in range(30) for b in range(30)}) == 900
