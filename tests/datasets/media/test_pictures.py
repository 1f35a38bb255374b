from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SHARED, numbered_frames
from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.pictures import Part

HALF = (0.25, 0.5, 0.75, 1.0)


def test_a_box_is_in_fractions_of_the_picture() -> None:
    frames = torch.randint(256, (2, 3, 20, 40), dtype=torch.uint8)
    assert torch.equal(Part(box=HALF).cut(frames), frames[..., 10:20, 10:30])
    assert torch.equal(Part(box=HALF).apply(frames), frames[..., 10:20, 10:30])


def test_the_short_side_is_that_of_the_box() -> None:
    """Of 180 x 144 pixels the box has 90 x 36; 18 of them ask for half the size."""
    assert Part(18, (0.5, 0.25, 1.0, 0.5)).scale(180, 144) == (90, 72)
    frames = torch.zeros(1, 3, 144, 180, dtype=torch.uint8)
    assert Part(18, (0.5, 0.25, 1.0, 0.5)).apply(frames).shape == (1, 3, 18, 45)


@given(width=st.integers(1, 300), height=st.integers(1, 300), short_side=st.integers(1, 300))
def test_pictures_shrink_to_the_short_side_or_stay(width: int, height: int, short_side: int) -> None:
    new = Part(short_side).scale(width, height)
    assert min(new) == min(short_side, width, height)
    assert abs(new[0] * height - new[1] * width) <= max(width, height)  # proportions, to half a pixel


def test_averages_are_kept() -> None:
    frames = torch.from_numpy(numbered_frames(1, 48, 64)).permute(0, 3, 1, 2) + 0
    frames[...] = torch.arange(64, dtype=torch.uint8)
    small = Part(12).apply(frames).float()
    assert small.shape == (1, 3, 12, 16)
    assert small.mean() == pytest.approx(31.5, abs=0.5)
    assert small[0, 0, 0].tolist() == pytest.approx([4 * i + 1.5 for i in range(16)], abs=1.0)


@pytest.mark.needs_shared
def test_the_box_is_cut_from_the_upright_picture() -> None:
    """A file whose frames are stored lying: its upper half, read alone, is the upper half of what is seen."""
    path = SHARED / "data" / "media" / "video_90.mov"
    if not path.is_file():
        pytest.skip(f"no real data at {SHARED} (set VATT_SHARED to its folder)")
    with open_media(path) as media:
        whole = media.frames([0.0]).frames
        upper = media.frames([0.0], Part(box=(0.0, 0.0, 1.0, 0.5))).frames
        small = media.frames([0.0], Part(32, (0.0, 0.0, 1.0, 0.5))).frames
    assert torch.equal(upper, whole[..., : round(whole.shape[-2] / 2), :])
    assert min(small.shape[-2:]) == 32
