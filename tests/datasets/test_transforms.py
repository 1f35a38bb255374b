from __future__ import annotations

import colorsys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from vatt.datasets.loading.sampling import seeded
from vatt.datasets.transforms import (
    PAPER,
    RELEASED,
    SAME_COLOR,
    Augment,
    change_color,
    draw_color,
    draw_view,
    to_float,
    vary_waveform,
)
from vatt.media.frames import Square

WHOLE = (0.0, 0.0, 1.0, 1.0)


def pictures(frames: int = 3, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)


def test_pixels_reach_both_ends() -> None:
    values = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    assert torch.allclose(to_float(values).flatten(), torch.tensor([-1.0, -0.6, 1.0]))


@given(
    width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 999), left=st.floats(0, 0.9),
    top=st.floats(0, 0.9), augment=st.sampled_from([Augment(), PAPER, RELEASED]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_view_lies_inside_the_box(
    width: int, height: int, seed: int, left: float, top: float, augment: Augment
) -> None:
    box = (left, top, 1.0, 1.0)
    for cut in (draw_view(augment, 32, box, seeded(seed)).cut(width, height), Square(32, box).cut(width, height)):
        assert (cut.new_width, cut.new_height) == (32, 32)
        assert cut.width >= 1
        assert cut.height >= 1
        assert round(left * width) - 1 <= cut.left <= cut.left + cut.width <= width
        assert round(top * height) - 1 <= cut.top <= cut.top + cut.height <= height


def test_views_of_the_paper_have_its_areas_and_proportions() -> None:
    cuts = [draw_view(PAPER, 224, WHOLE, seeded(seed)).cut(640, 480) for seed in range(400)]
    areas = np.array([cut.width * cut.height / (640 * 480) for cut in cuts])
    ratios = np.array([cut.width / cut.height for cut in cuts])
    assert 0.078 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1.0
    assert 0.49 < ratios.min() < 0.55
    assert 1.8 < ratios.max() < 2.02
    assert np.mean([cut.mirrored for cut in cuts]) == pytest.approx(0.5, abs=0.08)
    assert min(cut.left for cut in cuts) == 0
    assert max(cut.left + cut.width for cut in cuts) == 640


def test_views_of_the_released_code_are_stretched_squares() -> None:
    """It scales the picture to (f w, g h), then its short side to 224, and crops 224 x 224."""
    cuts = [draw_view(RELEASED, 224, WHOLE, seeded(seed)).cut(640, 480) for seed in range(400)]
    plain = [cut for cut in cuts if cut.width == cut.height == 480]
    assert len(plain) / len(cuts) == pytest.approx(0.2, abs=0.06)
    assert all(cut.width == 640 or cut.height == 480 for cut in cuts)  # one side is used up
    ratios = np.array([cut.width / cut.height for cut in cuts])
    assert 0.66 < ratios.min() < 0.72
    assert 1.3 < ratios.max() < 1.5  # stretched by 0.8 and 1.2, or until the long side is used up


def test_a_square_reaches_every_place() -> None:
    lefts = {draw_view(Augment(), 8, WHOLE, seeded(seed)).cut(13, 10).left for seed in range(60)}
    assert lefts == {0, 1, 2, 3}


def test_a_cut_is_cut_scaled_and_mirrored() -> None:
    frames = pictures(2, 16, 24)
    flip = draw_view(Augment(flip=1.0), 16, WHOLE, seeded(0)).cut(24, 16)
    assert torch.equal(flip.apply(frames), frames[..., flip.left : flip.left + 16].flip(-1))
    assert torch.equal(Square(16).cut(24, 16).apply(frames), frames[..., 4:20])
    ramp = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64, 64)
    small = Square(16).cut(64, 64).apply(ramp)[0, 0, 8].float()
    assert small.tolist() == pytest.approx([4 * i + 1.5 for i in range(16)], abs=1.0)


def test_the_same_generator_state_gives_the_same_clip() -> None:
    sound = torch.rand(100) - 0.5
    augment = Augment(area=(0.2, 0.9), flip=0.5, brightness=0.2, gain_db=6, noise=0.01)
    assert draw_view(augment, 8, WHOLE, seeded(1)) == draw_view(augment, 8, WHOLE, seeded(1))
    assert draw_view(augment, 8, WHOLE, seeded(1)) != draw_view(augment, 8, WHOLE, seeded(2))
    assert torch.equal(draw_color(augment, seeded(1)), draw_color(augment, seeded(1)))
    assert torch.equal(vary_waveform(sound, augment, seeded(1)), vary_waveform(sound, augment, seeded(1)))


def test_colors_are_drawn_in_their_ranges() -> None:
    draws = torch.stack([draw_color(PAPER, seeded(seed)) for seed in range(500)])
    same = (draws == torch.tensor(SAME_COLOR)).all(1)
    assert same.float().mean().item() == pytest.approx(0.2, abs=0.06)
    low, high = draws.amin(0).tolist(), draws.amax(0).tolist()
    assert low == pytest.approx([-32 / 255, 0.6, 0.6, -0.2], abs=0.02)
    assert high == pytest.approx([32 / 255, 1.4, 1.4, 0.2], abs=0.02)
    assert torch.equal(draw_color(Augment(), seeded(0)), torch.tensor(SAME_COLOR))


def slow_color(frame: np.ndarray, brightness: float, saturation: float, contrast: float, hue: float) -> np.ndarray:
    """One (3, H, W) frame in [0, 1], pixel by pixel through colorsys."""
    x = frame + brightness
    for i, j in np.ndindex(x.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*x[:, i, j])
        x[:, i, j] = colorsys.hsv_to_rgb(h, min(1.0, s * saturation), v)
    mean = x.mean((1, 2), keepdims=True)
    x = mean + (x - mean) * contrast
    for i, j in np.ndindex(x.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*x[:, i, j])
        x[:, i, j] = colorsys.hsv_to_rgb((h + hue) % 1.0, s, v)
    return x


@pytest.mark.parametrize(
    "factors",
    [(0.1, 1.0, 1.0, 0.0), (0.0, 1.4, 1.0, 0.0), (0.0, 0.6, 0.7, 0.0), (0.0, 1.0, 1.0, 0.2), (0.0, 1.0, 1.0, -0.17),
     (0.12, 1.3, 0.8, 0.15), (0.05, 0.0, 1.0, 0.1)],
)  # fmt: skip
def test_colors_against_colorsys(factors: tuple[float, float, float, float]) -> None:
    frames = pictures(2, 6, 7).double() / 255 * 0.7 + 0.15
    frames[0, :, 0, :3] = 0.4  # grey has no hue
    expected = np.stack([slow_color(frame, *factors) for frame in frames.numpy().copy()])
    assert np.abs(change_color(frames.clone(), *factors).numpy() - expected).max() < 1e-9


def test_each_clip_of_a_batch_has_its_own_colors_whatever_its_neighbours() -> None:
    video = pictures(6, 8, 8).view(2, 3, 3, 8, 8)
    color = torch.tensor([[0.1, 1.2, 0.8, 0.1], SAME_COLOR])
    both = to_float(video, color)
    assert torch.equal(both[:1], to_float(video[:1], color[:1]))
    assert torch.allclose(both[1], to_float(video[1:])[0], atol=1e-6)
    frames = change_color(video[0].float() / 255, *color[0].tolist()).clamp(0, 1) * 2 - 1
    assert torch.allclose(both[0], frames, atol=1e-6)
    assert both.abs().max() <= 1


def test_gain_and_noise_stay_in_range_and_have_their_size() -> None:
    sound = torch.sin(torch.arange(4000) / 10) * 0.1
    louder = vary_waveform(sound, Augment(gain_db=6), seeded(0))
    ratio = (louder / sound).nanmedian().item()
    assert 10 ** (-6 / 20) <= ratio <= 10 ** (6 / 20)
    noisy = vary_waveform(sound, Augment(noise=0.1), seeded(0))
    assert (noisy - sound).std() == pytest.approx(0.01, rel=0.1)
    assert vary_waveform(sound * 10, Augment(gain_db=6), seeded(0)).abs().max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [{"area": (0.5, 0.2)}, {"area": (0.0, 1.0)}, {"aspect": (2.0, 0.5)}, {"stretch": (1.2, 0.8)}, {"flip": 1.5},
     {"stretch": (0.8, 1.2), "area": (0.5, 1.0)}],
)  # fmt: skip
def test_impossible_ranges_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"ascending|probability|not both"):
        Augment(**wrong)


@pytest.mark.parametrize(("name", "preset"), [("paper", PAPER), ("released", RELEASED)])
def test_the_files_of_the_presets_say_the_same(name: str, preset: Augment) -> None:
    said = yaml.safe_load(Path(ROOT / f"configs/data/augment/{name}.yaml").read_text())
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    assert Augment(**said) == preset
    assert said.keys() == asdict(preset).keys()  # so that it replaces another one whole
