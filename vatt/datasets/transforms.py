"""How training clips are varied: what of the picture is seen, its colors, and loudness and noise of the sound.

All randomness comes from the generator that is handed in, one draw for all frames of a clip. Which part of the picture
is seen is drawn before the file is decoded, so that only that part is converted; colors are changed after frames have
reached the device, where they become float (`to_float`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from vatt.media.frames import WHOLE_BOX, Box, Cut, inside

TRIES = 10  # rectangles that are drawn until one fits the picture
SAME_COLOR = (0.0, 1.0, 1.0, 0.0)  # brightness is added, saturation and contrast are factors, hue is turned


@dataclass(frozen=True)
class Augment:
    """How training clips are varied. The defaults leave all but the place of the crop as it is.

    Args:
        area: range of the share of the picture that a random crop keeps; (1, 1) crops a square of the short side
            at a random place instead.
        aspect: range of width / height of that crop.
        stretch: range of the factors by which width and height, each by its own, are stretched before a square is
            cropped; not together with ``area``.
        stretch_chance: probability of that.
        flip: probability of a mirror image. Leave it at 0 where captions say left and right.
        brightness: largest shift, on pixels in [0, 1].
        saturation: largest relative change of the saturation (of HSV).
        contrast: largest relative change about the mean of each frame's channel.
        hue: largest turn of the hue (of HSV), in whole turns.
        color_chance: probability that the colors of a clip are changed at all.
        gain_db: largest change of the loudness, in decibels, up or down.
        noise: standard deviation of white noise, relative to the largest sample of the clip.
        speed: range of the factor by which the sound is played faster, and higher. For sound alone: a picture of the
            same clip stays as fast as it was.
        turn: probability that the waveform is turned over, which nobody hears.
    """

    area: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    stretch: tuple[float, float] = (1.0, 1.0)
    stretch_chance: float = 1.0
    flip: float = 0.0
    brightness: float = 0.0
    saturation: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    color_chance: float = 1.0
    gain_db: float = 0.0
    noise: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    turn: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise ValueError(f"area must lie in (0, 1] and aspect above 0, ascending: {self.area}, {self.aspect}")
        if not 0 < self.stretch[0] <= self.stretch[1]:
            raise ValueError(f"stretch must be positive and ascending: {self.stretch}")
        if self.stretch != (1.0, 1.0) and self.area != (1.0, 1.0):
            raise ValueError("stretch is of a crop of the whole short side: set stretch or area, not both")
        if not 0 < self.speed[0] <= self.speed[1]:
            raise ValueError(f"speed must be positive and ascending: {self.speed}")
        for name in ("stretch_chance", "flip", "color_chance", "turn"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, not {getattr(self, name)!r}")


NO_AUGMENT = Augment()

_BOTH = Augment(flip=0.5, brightness=32 / 255, saturation=0.4, contrast=0.4, hue=0.2, color_chance=0.8)
# The paper's (VATT, appendix A.2.1): Inception-style crops.
PAPER = replace(_BOTH, area=(0.08, 1.0), aspect=(0.5, 2.0))
# The released code's: both sides stretched, a square crop, and noise on the sound.
RELEASED = replace(_BOTH, stretch=(0.8, 1.2), stretch_chance=0.8, noise=0.01)


@dataclass(frozen=True)
class View:
    """What a training clip shows of its picture: a `Region` drawn before the size of the picture is known.

    Args:
        size: of its sides, in pixels.
        area, aspect, stretch: as drawn, for each try.
        place: (x, y) in [0, 1] for each try: where the rectangle lies in what is free.
        mirrored: left and right are exchanged.
        box: see `vatt.media.frames.Region`.
    """

    size: int
    area: tuple[float, ...]
    aspect: tuple[float, ...]
    place: tuple[tuple[float, float], ...]
    stretch: tuple[float, float] = (1.0, 1.0)
    mirrored: bool = False
    box: Box = WHOLE_BOX

    def cut(self, width: int, height: int) -> Cut:
        """The first rectangle that fits. Where none does, or none is drawn: the largest square, once stretched."""
        left, top, width, height = inside(self.box, width, height)
        w, h, (x, y) = self._square(width, height)
        for area, aspect, place in zip(self.area, self.aspect, self.place, strict=False):
            pixels = width * height * area
            tried = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < tried[0] <= width and 0 < tried[1] <= height:
                (w, h), (x, y) = tried, place
                break
        left, top = left + _place(x, width - w), top + _place(y, height - h)
        return Cut(left, top, w, h, self.size, self.size, self.mirrored)

    def _square(self, width: int, height: int) -> tuple[int, int, tuple[float, float]]:
        """The rectangle that becomes the largest square when it is stretched: width, height and place."""
        side = min(width * self.stretch[0], height * self.stretch[1])
        w, h = max(1, round(side / self.stretch[0])), max(1, round(side / self.stretch[1]))
        return w, h, (0.5, 0.5) if self.area else self.place[0]


def draw_view(augment: Augment, size: int, box: Box, generator: Generator) -> View:
    """Draw what is seen of a clip's picture ("Inception style", appendix A.2.1, or a stretched square)."""
    draws = torch.rand(TRIES, 4, generator=generator, dtype=torch.float64)
    flip, stretched, *factors = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    low, high = augment.aspect
    free = augment.area == (1.0, 1.0)
    return View(
        size,
        area=() if free else tuple(_between(augment.area, draws[:, 0]).tolist()),
        aspect=() if free else tuple(_between((math.log(low), math.log(high)), draws[:, 1]).exp().tolist()),
        place=tuple((x, y) for x, y in draws[:, 2:].tolist()),
        stretch=tuple(_between(augment.stretch, factor) for factor in factors)
        if stretched < augment.stretch_chance
        else (1.0, 1.0),
        mirrored=flip < augment.flip,
        box=box,
    )


def draw_color(augment: Augment, generator: Generator) -> Tensor:
    """Draw how a clip's colors are changed: (4,) brightness, saturation, contrast and hue, for `to_float`."""
    chance, *draws = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
    if chance >= augment.color_chance:
        return torch.tensor(SAME_COLOR)
    widths = (augment.brightness, augment.saturation, augment.contrast, augment.hue)
    return torch.tensor(
        [same + _between((-w, w), draw) for same, w, draw in zip(SAME_COLOR, widths, draws, strict=True)]
    )


def to_float(video: Tensor, color: Tensor | None = None) -> Tensor:
    """Videos as a model takes them, x * 2 / 255 - 1, with their colors changed on the way.

    Args:
        video: (B, T, 3, H, W) uint8.
        color: (B, 4) of `draw_color`; None, or `SAME_COLOR`, changes none.

    Returns:
        (B, T, 3, H, W) float32 in [-1, 1].
    """
    if color is None:
        return video.to(torch.float32).mul_(2 / 255).sub_(1)
    out = torch.empty(video.shape, dtype=torch.float32, device=video.device)
    same = torch.tensor(SAME_COLOR)
    for clip, factors, into in zip(video, color.cpu(), out, strict=True):
        if torch.equal(factors, same):
            into.copy_(clip).mul_(2 / 255).sub_(1)
            continue
        # Few pixels at a time stay in the cache of a CPU.
        step = len(clip) if clip.is_cuda else max(1, 2**16 // clip[0, 0].numel())
        for frames, part in zip(clip.split(step), into.split(step), strict=True):
            part.copy_(change_color(frames.to(torch.float32).mul_(1 / 255), *factors.tolist()))
            part.clamp_(0, 1).mul_(2).sub_(1)
    return out


def change_color(frames: Tensor, brightness: float, saturation: float, contrast: float, hue: float) -> Tensor:
    """Change colors in the order of the released code: brightness, saturation, contrast, hue.

    Args:
        frames: (T, 3, H, W) RGB in [0, 1]; changed in place.
        brightness: is added.
        saturation: factor of the S of HSV, which ends at 1.
        contrast: factor of the distance from the mean of each frame's channel.
        hue: is added to the H of HSV, in whole turns.

    Returns:
        (T, 3, H, W); not cut to [0, 1] (as tf.image.adjust_*, which it follows).
    """
    if brightness:
        frames.add_(brightness)
    if saturation != 1:
        value = frames.amax(1, keepdim=True)
        chroma = value - frames.amin(1, keepdim=True)
        most = (value / chroma.clamp_min(1e-12)).clamp_(0, saturation)  # saturation 1 is the most there is
        frames.sub_(value).mul_(most).add_(value)
    if contrast != 1:
        mean = frames.mean(dim=(2, 3), keepdim=True)
        frames.sub_(mean).mul_(contrast).add_(mean)
    return frames if hue == 0 else turn_hue(frames, hue)


def turn_hue(frames: Tensor, turns: float) -> Tensor:
    """(T, 3, H, W) RGB with the H of its HSV moved by so many whole turns; value and chroma stay."""
    red, green, blue = frames.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    scale = chroma.clamp_min(1e-12).reciprocal_()
    hue = torch.sub(red, green).mul_(scale).add_(4)  # in sixths of a turn, where blue is the largest
    # lerp(a, b, 0 or 1) in place of torch.where, which takes ten times as long on a CPU
    torch.lerp(torch.sub(blue, red).mul_(scale).add_(2), hue, torch.sub(value, green).sign_(), out=hue)
    torch.lerp(torch.sub(green, blue).mul_(scale), hue, torch.sub(value, red).sign_(), out=hue)
    hue.add_(6 * turns)
    hue.sub_(torch.mul(hue, 1 / 6, out=scale).floor_().mul_(6))  # from 0 to 6
    # red = least + chroma clamp(|hue - 3| - 1, 0, 1); green, blue = least + chroma clamp(2 - |hue - 2 or 4|, 0, 1)
    out = torch.empty_like(frames)
    low, high = torch.sub(least, chroma, out=least), torch.add(value, chroma, out=value)
    for channel, (middle, start, sign) in enumerate(((3, low, 1), (2, high, -1), (4, high, -1))):
        part = torch.sub(hue, middle, out=scale).abs_().clamp_(1, 2)
        torch.addcmul(start, part, chroma, value=sign, out=out[:, channel])
    return out


def draw_speed(augment: Augment | None, generator: Generator | None = None) -> float:
    """The factor by which the sound of a clip is played faster."""
    if augment is None or augment.speed == (1.0, 1.0):
        return 1.0
    return _between(augment.speed, torch.rand((), generator=generator, dtype=torch.float64).item())


def at_speed(samples: Tensor, wanted: int) -> Tensor:
    """A waveform (S,) played so fast that it has the ``wanted`` samples, by linear interpolation with antialiasing."""
    if len(samples) == wanted:
        return samples
    if len(samples) < wanted:  # there is nothing to filter
        return F.interpolate(samples.view(1, 1, -1), wanted, mode="linear").view(-1)
    return F.interpolate(samples.view(1, 1, 1, -1), (1, wanted), mode="bilinear", antialias=True).view(-1)


def vary_waveform(samples: Tensor, augment: Augment | None, generator: Generator | None = None) -> Tensor:
    """Change the loudness of a waveform, add noise, turn it over: (S,) float32 in [-1, 1] in and out."""
    if augment is None:
        return samples
    if augment.turn and torch.rand((), generator=generator, dtype=torch.float64).item() < augment.turn:
        samples = -samples
    if augment.gain_db:
        draw = torch.rand((), generator=generator, dtype=torch.float64).item()
        samples = samples * 10 ** (_between((-augment.gain_db, augment.gain_db), draw) / 20)
    if augment.noise:
        samples = samples + torch.randn(samples.shape, generator=generator) * augment.noise * samples.abs().max()
    return samples.clamp(-1.0, 1.0)


def _between(ends: tuple[float, float], draw: float | Tensor) -> float | Tensor:
    return ends[0] + (ends[1] - ends[0]) * draw


def _place(draw: float, free: int) -> int:
    """A whole number from 0 to ``free``, both included."""
    return min(int(draw * (free + 1)), free)
