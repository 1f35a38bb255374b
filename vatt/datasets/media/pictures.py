"""Decoded frames to (3, H, W) uint8: the part of the picture that is looked at, upright and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from torch import Tensor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Part:
    """What of a picture is read, and how large.

    Args:
        short_side: pixels of the shorter side of what is read, proportions kept; smaller pictures are not enlarged.
            None leaves the size.
        box: left, top, right and bottom of what is read, as fractions of the upright picture.
    """

    short_side: int | None = None
    box: Box = (0.0, 0.0, 1.0, 1.0)

    def scale(self, width: int, height: int) -> tuple[int, int]:
        """The size to which a whole picture of this size is scaled before it is cut."""
        if self.short_side is None:
            return width, height
        left, top, right, bottom = self.box
        factor = min(1.0, self.short_side / min(width * (right - left), height * (bottom - top)))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def cut(self, frames: Tensor) -> Tensor:
        """(..., H, W) to what lies inside the box, at least a pixel."""
        height, width = frames.shape[-2:]
        left, top = round(self.box[0] * width), round(self.box[1] * height)
        right, bottom = max(left + 1, round(self.box[2] * width)), max(top + 1, round(self.box[3] * height))
        return frames[..., top:bottom, left:right]

    def apply(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 frames, scaled and cut."""
        height, width = frames.shape[-2:]
        new_width, new_height = self.scale(width, height)
        if (new_width, new_height) != (width, height):
            scaled = F.interpolate(frames.float(), (new_height, new_width), mode="bilinear", antialias=True)
            frames = scaled.round_().clamp_(0, 255).to(torch.uint8)
        return self.cut(frames)


WHOLE = Part()


class Painter:
    """Converts PyAV frames; a frame that is shown twice in a row is converted once.

    Args:
        part: of the picture.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self._reformatter = VideoReformatter()
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, frame: Any) -> Tensor:
        """(3, H, W) uint8."""
        if self._last is None or self._last[0] is not frame:
            self._last = (frame, self._convert(frame))
        return self._last[1]

    def _convert(self, frame: Any) -> Tensor:
        turns = round(frame.rotation / 90) % 4
        width, height = (frame.width, frame.height) if turns % 2 == 0 else (frame.height, frame.width)
        width, height = self.part.scale(width, height)
        if turns % 2:
            width, height = height, width
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
        picture = torch.from_numpy(rgb.to_ndarray()).permute(2, 0, 1)
        if turns:
            picture = torch.rot90(picture, turns, dims=(1, 2))
        return self.part.cut(picture)
