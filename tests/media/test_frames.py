from __future__ import annotations

import gc
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SHARED
from vatt.media.decoding import open_media
from vatt.media.frames import Cut, Painter, Part, Region, Square, _stored

HALF = (0.25, 0.5, 0.75, 1.0)


def test_a_box_is_in_fractions_of_the_picture() -> None:
    frames = torch.randint(256, (2, 3, 20, 40), dtype=torch.uint8)
    assert torch.equal(Part(box=HALF).cut(40, 20).apply(frames), frames[..., 10:20, 10:30])


def test_the_short_side_is_that_of_the_box() -> None:
    """Of 180 x 144 pixels the box has 90 x 36; 18 of them ask for half the size."""
    cut = Part(18, (0.5, 0.25, 1.0, 0.5)).cut(180, 144)
    assert (cut.width, cut.height, cut.new_width, cut.new_height) == (90, 36, 45, 18)
    assert cut.apply(torch.zeros(1, 3, 144, 180, dtype=torch.uint8)).shape == (1, 3, 18, 45)


@given(width=st.integers(1, 300), height=st.integers(1, 300), short_side=st.integers(1, 300))
def test_pictures_shrink_to_the_short_side_or_stay(width: int, height: int, short_side: int) -> None:
    cut = Part(short_side).cut(width, height)
    new = cut.new_width, cut.new_height
    assert min(new) == min(short_side, width, height)
    assert abs(new[0] * height - new[1] * width) <= max(width, height)  # proportions, to half a pixel


@pytest.mark.parametrize("width", [1, 7, 48, 50, 203])
@pytest.mark.parametrize("region", [Part(), Part(box=HALF), Square(16), Part(9)])
def test_pyav_frames_are_cut_and_scaled_as_tensors_are(width: int, region: Region) -> None:
    """The two ways of the same region: FFmpeg's filters on a frame, PyTorch on a tensor."""
    rows, columns = np.mgrid[0:34, 0:width]
    pixels = np.stack([rows * 7, columns * 255 // width, 255 - rows * 7], axis=-1).astype(np.uint8)
    painter = Painter(region, 1)
    painter.add(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
    expected = region.cut(width, 34).apply(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert painter.frames.shape == expected.shape
    assert (painter.frames.float() - expected.float()).abs().max() <= (2 if width > 2 else 8)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "nv12", "p010le", "yuv444p", "gray", "rgba"])
@pytest.mark.parametrize("left", [20, 21])
@pytest.mark.parametrize("top", [10, 11])
def test_every_format_is_cut_at_every_place(pix_fmt: str, left: int, top: int) -> None:
    rows, columns = np.mgrid[0:64, 0:96]
    pixels = np.stack([columns * 2 + 20, 220 - columns * 2, 60 + rows * 2], axis=-1).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
    whole = Painter(Part(), 1).picture(frame).float()
    region = Part(box=(left / 96, top / 64, (left + 33) / 96, (top + 21) / 64))
    part = Painter(region, 1).picture(frame).float()
    assert part.shape == (3, 21, 33)
    assert (part - whole[:, top : top + 21, left : left + 33]).abs().mean() < 6  # place and size may be off by one


@given(
    turns=st.integers(0, 3), left=st.integers(0, 5), top=st.integers(0, 3), width=st.integers(1, 7),
    height=st.integers(1, 5),
)  # fmt: skip
def test_a_cut_of_a_turned_picture_is_cut_where_it_is_stored(
    turns: int, left: int, top: int, width: int, height: int
) -> None:
    upright = torch.arange(12 * 8).view(1, 8, 12)
    lying = torch.rot90(upright, -turns, dims=(1, 2))
    x, y, w, h = _stored(Cut(left, top, width, height, width, height), lying.shape[2], lying.shape[1], turns)
    assert x >= 0
    assert y >= 0
    turned = torch.rot90(lying[:, y : y + h, x : x + w], turns, dims=(1, 2))
    assert torch.equal(turned, upright[:, top : top + height, left : left + width])


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


def test_pictures_are_freed_without_the_help_of_the_garbage_collector(video_file: Path) -> None:
    """Of many that were looked at hardly one may live on: a loader of large videos would grow by gigabytes."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
        with open_media(video_file) as media:
            media.frames([i / 25 for i in range(50)], Square(32))
        alive = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) - before
    finally:
        gc.enable()
    assert alive <= 2  # of 50
