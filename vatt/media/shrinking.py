"""Decoded frames for an encoder: small, upright, in square pixels, yuv420p, with a limited frame rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import av

from vatt.media.container import EARLY_S
from vatt.media.formats.aspect import display_size, fit, pixel_aspect
from vatt.media.frames import orientation

BT601 = 6  # FFmpeg's number of the YUV matrix
MATRICES = {1: "bt709", 7: "smpte240m", 9: "bt2020", BT601: "bt601"}  # these are kept, all others become the last
UPRIGHT = ("", "transpose=cclock", "hflip,vflip", "transpose=clock")  # filters by quarter turns counter-clockwise

Shown = tuple[float, float, av.VideoFrame]  # from, until (seconds on the new clock), picture


class Shrinker:
    """Convert decoded frames to upright ones in yuv420p, all with the size and the color matrix of the first one.

    Frames whose aspect ratio differs from that of the first one are letterboxed.
    """

    def __init__(self, short_side: int) -> None:
        self.short_side, self.matrix = short_side, 0
        self._size: tuple[int, int] | None = None
        self._kind: tuple[object, ...] | None = None

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        turns, is_mirrored = orientation(frame)
        kind = (
            *(frame.width, frame.height, frame.format.name, turns, is_mirrored, frame.colorspace, frame.color_range),
            pixel_aspect(frame),
        )
        if self._kind != kind:  # the first, or a stream that changes midway
            self._kind, self._graph = kind, self._make_graph(frame, turns, is_mirrored)
        self._graph.vpush(frame)
        return self._graph.vpull()

    def _make_graph(self, frame: av.VideoFrame, turns: int, is_mirrored: bool) -> av.filter.Graph:
        shown = display_size(frame.width, frame.height, pixel_aspect(frame))
        upright = shown if turns % 2 == 0 else shown[::-1]
        self._size = self._size or new_size(*upright, self.short_side)
        inner = fit(upright, self._size)
        self.matrix = self.matrix or (frame.colorspace if frame.colorspace in MATRICES else BT601)
        (width, height), size = (s if turns % 2 == 0 else s[::-1] for s in (inner, self._size))
        graph = av.filter.Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 1000)
        )
        colours = f"flags=bicubic+accurate_rnd+full_chroma_int:out_range=tv:out_color_matrix={MATRICES[self.matrix]}"
        steps = [graph.add("scale", f"{width}:{height}:{colours}"), graph.add("format", "yuv420p")]
        steps += [graph.add("pad", f"{size[0]}:{size[1]}:(ow-iw)/2:(oh-ih)/2")] if (width, height) != size else []
        steps += [graph.add("hflip")] if is_mirrored else []
        steps += [graph.add(*step.split("=")) for step in UPRIGHT[turns].split(",") if step]
        graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
        return graph


def new_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of the new picture: the shorter side as asked or as it is, both even, which H.264 wants."""
    factor = min(1.0, short_side / min(width, height))
    return max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2)


def cap(shown: Iterator[Shown], fps: float) -> Iterator[Shown]:
    """Of pictures at more than ``fps`` those that are seen at one of the times 0, 1/fps, 2/fps, …"""
    held: Shown | None = None
    for from_s, until_s, frame in shown:
        # A time is given the picture that begins at most EARLY_S after it, as the readers have it, and the next one as
        # well if that begins another EARLY_S later: rounded times must not cost a picture at a rate near the cap.
        if held is None or math.ceil((from_s - 2 * EARLY_S) * fps) < math.ceil((until_s - EARLY_S) * fps):
            if held is not None:
                yield held[0], from_s, held[2]
            held = from_s, until_s, frame
        else:
            held = held[0], until_s, held[2]
    if held is not None:
        yield held
