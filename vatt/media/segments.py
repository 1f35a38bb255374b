"""Decode the video and the audio of a segment of a media file, with times from the start of the segment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vatt.media.container import EARLY_S
from vatt.media.reader import GAP_S, Media
from vatt.media.shrinking import Shown

INTEGERS = ("u8", "s16", "s32", "s64")  # formats of samples that are never outside [-1, 1]
SCALED_PEAK = 0.95  # of audio that was outside [-1, 1]: the AAC encoder saturates near full scale


@dataclass(frozen=True)
class Stretch:
    """What of a file is written.

    Args:
        start_s: beginning in seconds.
        end_s: end in seconds; infinite is the end of the file.
        picture, sound: whether to write them, if they are there.
    """

    start_s: float = 0.0
    end_s: float = math.inf
    picture: bool = True
    sound: bool = True

    @property
    def is_cut(self) -> bool:
        """Whether it is not all of the file."""
        return self.start_s > 0 or self.end_s < math.inf


WHOLE_FILE = Stretch()


class SegmentReader(Media):
    """A media file of which segments are decoded, without a time limit."""

    def __init__(self, path: str) -> None:
        super().__init__(path, math.inf)

    def shown(self, stretch: Stretch, slack_s: float) -> Iterator[Shown]:
        """The pictures of a stretch. The first one is shown from 0 on if it is later by at most ``slack_s``."""
        held: tuple[float, Any] | None = None
        length_s = stretch.end_s - stretch.start_s
        for at_s, frame in self._decode_from("video", stretch.start_s):
            at_s = max(0.0, at_s - stretch.start_s)
            if at_s >= length_s - EARLY_S:
                until_s = length_s
                break
            if held is None:
                held = 0.0 if at_s <= slack_s else at_s, frame
            elif at_s <= held[0] + EARLY_S:  # of several at one time, the last; times that go back are a fault
                held = held[0], frame if at_s >= held[0] else held[1]
            else:
                yield held[0], at_s, held[1]
                held = at_s, frame
        else:
            until_s = min(length_s, self._shown_until(*held)) if held else 0.0
        if held is not None:
            yield held[0], until_s, held[1]

    def audio_scale(self, rate: int, stretch: Stretch, alone: bool) -> np.float32:
        """Return the factor that scales the audio of a segment into [-1, 1]; 1 if no sample is outside."""
        if (format := self._audio.codec_context.format) is not None and format.name.startswith(INTEGERS):
            return np.float32(1)
        with SegmentReader(self.path) as media:
            segment = media.audio_segment(rate, stretch, alone)
            peak = max((np.abs(samples).max(initial=0) for _, samples in segment), default=0)
        return np.float32(SCALED_PEAK / peak if peak > 1 else 1)

    def audio_segment(self, rate: int, stretch: Stretch, alone: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the `_samples` of a segment up to its end."""
        length = math.inf if stretch.end_s == math.inf else round((stretch.end_s - stretch.start_s) * rate)
        for at, samples in self._samples(rate, stretch.start_s, alone):
            if at >= length:
                return
            yield at, samples if length == math.inf else samples[:, : length - at]

    def _samples(self, rate: int, start_s: float, from_zero: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Index from ``start_s`` on and (channels, S) float32 samples, each piece beginning where the last one ended.

        Pauses become silence, as a reader of the old file hears them.
        """
        cursor, channels = None, 0
        for at_s, samples in self._decode_sound(rate, start_s):
            channels = channels or (len(samples) if len(samples) < 3 else 1)
            if len(samples) != channels:
                samples = np.repeat(samples.mean(axis=0, keepdims=True), channels, axis=0)
            begin = round((at_s - start_s) * rate)
            if cursor is None:
                cursor = min(begin, 0) if from_zero else begin
                pause = begin > cursor
            else:
                pause = begin > cursor + GAP_S * rate
            if pause:
                for at in range(max(cursor, 0), begin, rate):
                    yield at, np.zeros((channels, min(rate, begin - at)), np.float32)
                cursor = begin
            elif begin < cursor - GAP_S * rate:
                samples = samples[:, cursor - begin :]  # what has been heard is not heard again
            early = max(0, -cursor)
            if early < samples.shape[1]:
                yield cursor + early, samples[:, early:]
            cursor += samples.shape[1]
