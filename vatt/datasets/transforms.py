"""Pure tensor functions on what was read: crop, flip, colour and normalise frames; gain and noise on a waveform.

Frames come in as (T, 3, H, W) uint8. All randomness comes from the generator that is handed in, one draw for all
frames of a clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Augment:
    """How training clips are varied. Zeros, and an area of (1, 1), leave them as they are.

    Args:
        area: range of the share of the picture that a random crop keeps; (1, 1) crops a square of the short side
            at a random place instead.
        aspect: range of width / height of that crop.
        flip: probability of a mirror image. Leave it at 0 where captions say left and right.
        brightness: largest shift, on pixels in [0, 1].
        contrast: largest relative change about the mean of each frame's channel.
        saturation: largest relative change about the grey value.
        gain_db: largest change of the loudness, in decibels, up or down.
        noise: standard deviation of white noise, relative to the largest sample of the clip.
    """

    area: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    gain_db: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise ValueError(f"area must lie in (0, 1] and aspect above 0, ascending: {self.area}, {self.aspect}")


NO_AUGMENT = Augment()


def prepare_frames(frames: Tensor, size: int, augment: Augment | None, generator: Generator | None = None) -> Tensor:
    """Frames as a model takes them.

    Args:
        frames: (T, 3, H, W) uint8.
        size: side of the square that is cut out, in pixels.
        augment: None for evaluation: the centre square.
        generator: source of randomness, with ``augment``.

    Returns:
        (T, 3, size, size) float32 in [-1, 1].
    """
    if augment is None:
        return normalize(resize(centre_square(frames), size))
    if augment.area == (1.0, 1.0):
        frames = resize(random_square(frames, generator), size)
    else:
        frames = resize(random_area(frames, augment.area, augment.aspect, generator), size)
    if augment.flip and _uniform(0.0, 1.0, generator) < augment.flip:
        frames = frames.flip(-1)
    if augment.brightness or augment.contrast or augment.saturation:
        frames = jitter_colour(frames, augment.brightness, augment.contrast, augment.saturation, generator)
    return normalize(frames)


def prepare_waveform(samples: Tensor, augment: Augment | None, generator: Generator | None = None) -> Tensor:
    """A waveform as a model takes it: (S,) float32 in [-1, 1] in and out."""
    if augment is None:
        return samples
    if augment.gain_db:
        samples = samples * 10 ** (_uniform(-augment.gain_db, augment.gain_db, generator) / 20)
    if augment.noise:
        samples = samples + torch.randn(samples.shape, generator=generator) * augment.noise * samples.abs().max()
    return samples.clamp(-1.0, 1.0)


def normalize(frames: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]: x * 2 / 255 - 1 (VATT, appendix A.2.1)."""
    return frames.to(torch.float32).mul_(2.0 / 255.0).sub_(1.0)


def resize(frames: Tensor, size: int) -> Tensor:
    """Scale to (size, size) with antialiasing; frames that have the size already pass untouched."""
    if frames.shape[-2:] == (size, size):
        return frames
    scaled = F.interpolate(frames.float(), (size, size), mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def centre_square(frames: Tensor) -> Tensor:
    """The largest square in the middle."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    return _cut(frames, (height - side) // 2, (width - side) // 2, side, side)


def random_square(frames: Tensor, generator: Generator | None) -> Tensor:
    """The largest square, at a random place along the longer side."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    return _cut(frames, _integer(height - side, generator), _integer(width - side, generator), side, side)


def random_area(
    frames: Tensor, area: tuple[float, float], aspect: tuple[float, float], generator: Generator | None
) -> Tensor:
    """A rectangle of random area and proportions at a random place ("Inception style", appendix A.2.1).

    Ten draws are made; where none fits the picture, the largest square in the middle is taken.
    """
    height, width = frames.shape[-2:]
    for _ in range(10):
        pixels = height * width * _uniform(*area, generator)
        ratio = math.exp(_uniform(math.log(aspect[0]), math.log(aspect[1]), generator))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return _cut(frames, _integer(height - h, generator), _integer(width - w, generator), h, w)
    return centre_square(frames)


def jitter_colour(
    frames: Tensor, brightness: float, contrast: float, saturation: float, generator: Generator | None
) -> Tensor:
    """Shift brightness, then scale saturation, then contrast, by factors drawn once for the clip."""
    x = frames.float() / 255.0
    x = x + _uniform(-brightness, brightness, generator)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (x * weights).sum(dim=1, keepdim=True)
    x = grey + (x - grey) * _uniform(1 - saturation, 1 + saturation, generator)
    mean = x.mean(dim=(2, 3), keepdim=True)
    x = mean + (x - mean) * _uniform(1 - contrast, 1 + contrast, generator)
    return x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _cut(frames: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return frames[..., top : top + height, left : left + width]


def _uniform(low: float, high: float, generator: Generator | None) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _integer(high: int, generator: Generator | None) -> int:
    """An integer from 0 to ``high``, both included."""
    return int(torch.randint(high + 1, (), generator=generator).item())
