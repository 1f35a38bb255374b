"""Non-square pixels: their aspect ratio, and the size of frames in square pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

MAX_ASPECT = 10  # of width to height of a pixel, or the reverse; the widest in use are below 3
MAX_SHOWN_PIXELS = 2**26  # frames are not enlarged beyond this
SQUARE = Fraction(1)
SAME_SHAPE = 0.02  # relative difference of sizes that is due to rounding


class PixelAspect:
    """Aspect ratio of the pixels of a video stream: the width of a stored pixel divided by its height.

    As in FFmpeg and in players, the ratio of the container takes precedence over that of the codec
    (``av_guess_sample_aspect_ratio``). The ratio of the codec may change at each key frame. Invalid and implausible
    ratios (see `MAX_ASPECT`) count as 1.

    Args:
        stream: Video stream of PyAV; not decoded yet.
    """

    def __init__(self, stream: Any) -> None:
        self._decoder = stream.codec_context
        ratio = stream.sample_aspect_ratio  # of the container, or else of the codec
        self._container = None if ratio == self._decoder.sample_aspect_ratio else ratio
        self._marked: Fraction | None = None

    @property
    def current(self) -> Fraction:
        """Ratio at the position of the decoder, or that of the header if nothing is decoded yet."""
        ratio = self._container or self._decoder.sample_aspect_ratio
        return ratio if ratio and 1 <= MAX_ASPECT * ratio <= MAX_ASPECT**2 else SQUARE

    def mark(self, frame: Any) -> None:
        """Store the ratio of a frame that was just decoded in the frame, for `pixel_aspect`."""
        if self._marked is None or frame.key_frame:  # the decoder may be ahead of the frame, but not by a key frame
            self._marked = self.current
        if self._marked != SQUARE:
            frame.opaque = Fraction(self._marked)  # a new object each: PyAV finds it by its address

    def reset(self) -> None:
        """Forget the last frame, after a seek."""
        self._marked = None


def pixel_aspect(frame: Any) -> Fraction:
    """Return the width of a pixel of a decoded frame divided by its height."""
    return frame.opaque or SQUARE


def display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Return the width and height in square pixels of a frame whose pixels have an aspect ratio.

    The height is kept, as in players, unless the frame would become too large.
    """
    if width * height * max(aspect, 1) > max(MAX_SHOWN_PIXELS, width * height):
        return width, max(1, round(height / aspect))
    return max(1, round(width * aspect)), height


def fit(size: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size with the aspect ratio of ``size`` that fits into ``outer``.

    Aspect ratios that differ only by rounding are equal.
    """
    factor = min(outer[0] / size[0], outer[1] / size[1])
    inner = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    is_same = all(b - a <= max(2, SAME_SHAPE * b) for a, b in zip(inner, outer, strict=True))
    return outer if is_same else inner
