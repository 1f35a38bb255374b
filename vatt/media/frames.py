"""Decoded frames to (3, H, W) uint8: a region of the frame, upright, scaled and in square pixels.

What is looked at is a `Region`. It says, for a picture of any size, which rectangle is cut out and how large that
becomes; the rectangle is cut before anything is scaled or converted, so that nothing is done for pixels outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.media.formats.aspect import display_size, fit, pixel_aspect

Box = tuple[float, float, float, float]
WHOLE_BOX: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Cut:
    """A rectangle of an upright picture, in pixels, and what becomes of it.

    Args:
        left, top, width, height: of the rectangle.
        new_width, new_height: its size after scaling.
        mirrored: left and right are exchanged.
    """

    left: int
    top: int
    width: int
    height: int
    new_width: int
    new_height: int
    mirrored: bool = False

    def apply(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) uint8 upright frames to (T, 3, new_height, new_width), with antialiasing."""
        frames = frames[..., self.top : self.top + self.height, self.left : self.left + self.width]
        if (self.height, self.width) != (self.new_height, self.new_width):
            scaled = F.interpolate(frames.float(), (self.new_height, self.new_width), mode="bilinear", antialias=True)
            frames = scaled.round_().clamp_(0, 255).to(torch.uint8)
        return frames.flip(-1) if self.mirrored else frames


class Region(Protocol):
    """What of a picture is looked at: see `Part`, `Square`, and `vatt.datasets.transforms.View`.

    Attributes:
        box: left, top, right and bottom as fractions of the upright picture; nothing outside is ever seen.
    """

    @property
    def box(self) -> Box: ...

    def cut(self, width: int, height: int) -> Cut:
        """The rectangle of an upright picture of this size."""


def inside(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box in pixels, at least one each."""
    left, top = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    right, bottom = max(left + 1, round(box[2] * width)), max(top + 1, round(box[3] * height))
    return left, top, right - left, bottom - top


@dataclass(frozen=True)
class Part:
    """The whole box, proportions kept.

    Args:
        short_side: pixels of the shorter side of what is read; smaller pictures are not enlarged. None leaves the size.
        box: see `Region`.
    """

    short_side: int | None = None
    box: Box = WHOLE_BOX

    def cut(self, width: int, height: int) -> Cut:
        left, top, width, height = inside(self.box, width, height)
        factor = 1.0 if self.short_side is None else min(1.0, self.short_side / min(width, height))
        new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
        return Cut(left, top, width, height, new_width, new_height)


@dataclass(frozen=True)
class Square:
    """The largest square of the box, as it is looked at in evaluation.

    Args:
        size: of its sides, in pixels.
        box: see `Region`.
        place: along the longer side: 0 is left or top, 0.5 the middle, 1 right or bottom.
    """

    size: int
    box: Box = WHOLE_BOX
    place: float = 0.5

    def cut(self, width: int, height: int) -> Cut:
        left, top, width, height = inside(self.box, width, height)
        side = min(width, height)
        left, top = left + int((width - side) * self.place), top + int((height - side) * self.place)
        return Cut(left, top, side, side, self.size, self.size)


WHOLE = Part()


class Painter:
    """Puts PyAV frames into one tensor; a frame that comes twice in a row is converted once.

    Args:
        region: what of the picture.
        count: T, the frames that will come.
    """

    def __init__(self, region: Region, count: int) -> None:
        self.region, self.count, self.done = region, count, 0
        self._frames: Tensor | None = None
        self._last: Any = None
        self._size: tuple[int, int] | None = None
        self._orientation: tuple[int, tuple[int, bool]] | None = None  # by the rotation
        self._convert: tuple[tuple[Any, ...], Callable[[Any, Tensor], None]] | None = None

    def add(self, frame: Any) -> None:
        """The next frame."""
        if frame is self._last:
            self._frames[self.done] = self._frames[self.done - 1]
        else:
            convert = self._converter(frame)
            if self._frames is None:
                self._frames = torch.empty(self.count, 3, self._size[1], self._size[0], dtype=torch.uint8)
            convert(frame, self._frames[self.done])
            self._last = frame
        self.done += 1

    @property
    def frames(self) -> Tensor:
        """(T, 3, H, W) uint8, once all have come."""
        return self._frames

    def picture(self, frame: Any) -> Tensor:
        """(3, H, W) uint8."""
        convert = self._converter(frame)
        picture = torch.empty(3, self._size[1], self._size[0], dtype=torch.uint8)
        convert(frame, picture)
        return picture

    def _converter(self, frame: Any) -> Callable[[Any, Tensor], None]:
        """What writes frames of this kind into a tensor."""
        # A frame whose side data were looked at lives until Python collects cycles: only the first of a kind.
        if self._orientation is None or self._orientation[0] != frame.rotation:
            self._orientation = frame.rotation, orientation(frame)
        turns, is_mirrored = self._orientation[1]
        kind = (
            *(frame.width, frame.height, frame.format.name, turns, is_mirrored, frame.colorspace),
            pixel_aspect(frame),
        )
        if self._convert is None or self._convert[0] != kind:  # the first, or a stream that changes midway
            self._convert = kind, self._new_converter(frame, turns, is_mirrored)
        return self._convert[1]

    def _new_converter(self, frame: Any, turns: int, is_mirrored: bool) -> Callable[[Any, Tensor], None]:
        shown = display_size(frame.width, frame.height, pixel_aspect(frame))
        cut = self.region.cut(*_turned(shown, turns))
        self._size = self._size or (cut.new_width, cut.new_height)
        left, top, width, height = _stored(cut, *shown, turns)
        left, width = _rescaled(left, width, shown[0], frame.width)
        top, height = _rescaled(top, height, shown[1], frame.height)
        size = _turned(self._size, turns)
        # Frames whose aspect ratio differs from that of the first one are letterboxed.
        inner = _turned(fit((cut.new_width, cut.new_height), self._size), turns)
        graph = av.filter.Graph()
        graph.threads = 1  # the workers of a loader are the parallelism
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
        )
        steps = [
            *([graph.add("hflip")] if is_mirrored else []),
            graph.add("crop", f"{width}:{height}:{left}:{top}:exact={int(_can_be_cut_anywhere(frame.format))}"),
            # Without accurate_rnd, FFmpeg leaves out the last columns of planes that it need not scale.
            graph.add("scale", f"{inner[0]}:{inner[1]}:flags=bilinear+accurate_rnd"),
            graph.add("format", "gbrp"),  # plane by plane, as the tensor has them
            *([graph.add("pad", f"{size[0]}:{size[1]}:(ow-iw)/2:(oh-ih)/2")] if inner != size else []),
            graph.add("buffersink"),
        ]
        graph.link_nodes(source, *steps).configure()

        def convert(frame: Any, into: Tensor) -> None:
            graph.vpush(frame)
            planes = graph.vpull().planes
            rows = [np.frombuffer(planes[i], np.uint8).reshape(-1, planes[i].line_size) for i in (2, 0, 1)]
            for channel, row in zip(into, rows, strict=True):
                plane = torch.rot90(torch.from_numpy(row[: size[1], : size[0]]), turns)
                channel.copy_(plane.flip(-1) if cut.mirrored else plane)

        return convert


def orientation(frame: Any) -> tuple[int, bool]:
    """Quarter turns counter-clockwise that set a frame upright, and whether it is to be mirrored before."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a kind that PyAV does not know, such as EXIF
        return round(frame.rotation / 90) % 4, False
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.float64)
    is_mirrored = a * d - b * c < 0
    sign = -1 if is_mirrored else 1
    return round(-math.degrees(math.atan2(sign * b, sign * a)) / 90) % 4, is_mirrored


def _can_be_cut_anywhere(format: av.VideoFormat) -> bool:
    """Whether FFmpeg's crop finds odd places: it does not where a value has two bytes, or planes are shared."""
    components = format.components
    return all(part.bits <= 8 for part in components) and len({part.plane for part in components}) == len(components)


def paint(frames: np.ndarray, region: Region) -> Tensor:
    """Upright frames (T, H, W, 3) uint8 of another decoder as (T, 3, H, W): the region of them."""
    painter = Painter(region, len(frames))
    for frame in frames:
        painter.add(av.VideoFrame.from_ndarray(frame, format="rgb24"))
    return painter.frames


def _turned(size: tuple[int, int], turns: int) -> tuple[int, int]:
    """Return width and height after a number of quarter turns."""
    return size if turns % 2 == 0 else size[::-1]


def _rescaled(begin: int, length: int, shown: int, stored: int) -> tuple[int, int]:
    """Return start and length of a cut along one axis in stored pixels, given those in square pixels."""
    first = min(round(begin * stored / shown), stored - 1)
    return first, max(1, round((begin + length) * stored / shown) - first)


def _stored(cut: Cut, width: int, height: int, turns: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a cut in a picture stored with so many quarter turns to go."""
    if turns == 0:
        return cut.left, cut.top, cut.width, cut.height
    if turns == 1:
        return width - cut.top - cut.height, cut.left, cut.height, cut.width
    if turns == 2:
        return width - cut.left - cut.width, height - cut.top - cut.height, cut.width, cut.height
    return cut.top, height - cut.left - cut.width, cut.height, cut.width
