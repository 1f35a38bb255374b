from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.datasets.clips import seeded
from vatt.datasets.transforms import (
    Augment,
    jitter_colour,
    normalize,
    prepare_frames,
    prepare_waveform,
    random_area,
    random_square,
)


def picture(height: int = 20, width: int = 30, frames: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)


def test_normalize_reaches_both_ends() -> None:
    values = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.allclose(normalize(values), torch.tensor([-1.0, -0.6, 1.0]))


def test_evaluation_cuts_the_middle_square_and_is_the_same_every_time() -> None:
    frames = picture()
    out = prepare_frames(frames, 20, None)
    assert torch.equal(out, normalize(frames[..., 5:25]))


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_picture_becomes_a_square_in_range(height: int, width: int, seed: int) -> None:
    augment = Augment(area=(0.08, 1.0), aspect=(0.5, 2.0), flip=0.5, brightness=0.3, contrast=0.4, saturation=0.4)
    for how in (None, Augment(), augment):
        out = prepare_frames(picture(height, width, 2), 16, how, seeded(seed))
        assert out.shape == (2, 3, 16, 16)
        assert out.min() >= -1
        assert out.max() <= 1


def test_all_frames_of_a_clip_are_cut_and_flipped_alike() -> None:
    still = picture(frames=1).expand(4, -1, -1, -1)
    augment = Augment(area=(0.2, 0.9), aspect=(0.5, 2.0), flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2)
    out = prepare_frames(still, 16, augment, seeded(3))
    assert all(torch.equal(out[0], frame) for frame in out)


def test_the_same_generator_state_gives_the_same_clip() -> None:
    frames, sound = picture(), torch.rand(100) - 0.5
    augment = Augment(area=(0.2, 0.9), flip=0.5, brightness=0.2, gain_db=6, noise=0.01)
    first = prepare_frames(frames, 16, augment, seeded(1)), prepare_waveform(sound, augment, seeded(1))
    again = prepare_frames(frames, 16, augment, seeded(1)), prepare_waveform(sound, augment, seeded(1))
    other = prepare_frames(frames, 16, augment, seeded(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other)


def test_random_area_keeps_to_its_bounds() -> None:
    frames = picture(100, 100, 1)
    for seed in range(50):
        cut = random_area(frames, (0.3, 0.6), (0.8, 1.25), seeded(seed))
        height, width = cut.shape[-2:]
        assert 0.28 < height * width / 10_000 < 0.62
        assert 0.75 < width / height < 1.33


def test_random_square_reaches_every_place() -> None:
    frames = torch.arange(13).to(torch.uint8).expand(1, 3, 10, 13)
    lefts = {int(random_square(frames, seeded(seed))[0, 0, 0, 0]) for seed in range(60)}
    assert lefts == {0, 1, 2, 3}


def test_flip_mirrors_left_and_right() -> None:
    frames = picture(16, 16)
    assert torch.equal(prepare_frames(frames, 16, Augment(flip=1.0), seeded(0)), normalize(frames.flip(-1)))


def test_colour_jitter_against_numpy() -> None:
    frames = picture(6, 7, 2)
    brightness, saturation, contrast = (
        low + (high - low) * torch.rand((), generator=g, dtype=torch.float64).item()
        for g in [seeded(5)]
        for low, high in [(-0.1, 0.1), (0.6, 1.4), (0.7, 1.3)]
    )
    x = frames.numpy().astype(np.float64) / 255 + brightness
    grey = (x * np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdims=True)
    x = grey + (x - grey) * saturation
    mean = x.mean((2, 3), keepdims=True)
    x = np.clip(mean + (x - mean) * contrast, 0, 1) * 255
    out = jitter_colour(frames, 0.1, 0.3, 0.4, seeded(5))
    assert np.abs(out.numpy() - x).max() <= 0.51


def test_gain_and_noise_stay_in_range_and_have_their_size() -> None:
    sound = torch.sin(torch.arange(4000) / 10) * 0.1
    louder = prepare_waveform(sound, Augment(gain_db=6), seeded(0))
    ratio = (louder / sound).nanmedian().item()
    assert 10 ** (-6 / 20) <= ratio <= 10 ** (6 / 20)
    noisy = prepare_waveform(sound, Augment(noise=0.1), seeded(0))
    assert (noisy - sound).std() == pytest.approx(0.01, rel=0.1)
    assert prepare_waveform(sound * 10, Augment(gain_db=6), seeded(0)).abs().max() <= 1


@pytest.mark.parametrize("wrong", [{"area": (0.5, 0.2)}, {"area": (0.0, 1.0)}, {"aspect": (2.0, 0.5)}])
def test_impossible_ranges_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Augment(**wrong)
