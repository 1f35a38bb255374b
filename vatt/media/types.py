"""What decoding gives: frames, a stretch of sound, facts about a file, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vatt.errors import VattError

SLACK_S = 0.1  # tracks may begin and end this much apart without anything being missing
PLAUSIBLE_S = 60  # seconds that a file of any size may last
SILENT_POWER = 1e-6  # mean square of samples; less is silence
CLIPPED_SHARE, CLIPPED_PEAK = 0.001, 1.25  # more samples outside [-1, 1], or a higher peak, count as clipped
CANCELLED_SHARE = 0.1  # of the energy of uncorrelated channels; a mix with less has lost what was audible


def longest_s(size: int | None) -> float:
    """Return the longest plausible duration of a file in seconds, assuming at least one byte per second.

    Args:
        size: Number of bytes; None if it is not known.
    """
    return math.inf if size is None else max(size, PLAUSIBLE_S)


class MediaError(VattError, RuntimeError):
    """A file, or a part of it, that cannot be read.

    Args:
        path: the file.
        reason: why, in words.

    Attributes:
        kind: Kind of the `vatt.structures.Event` that reports it.
    """

    kind = "unreadable"

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:  # so that it travels whole from a worker process
        return type(self), (self.path, self.reason)


class NoMedia(MediaError):
    """A file that is not a media file, or has neither video nor audio."""


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds.

    Args:
        duration_s: seconds from the start of the file to its end.
        has_video: there is a picture track (cover art does not count).
        has_audio: there is a sound track.
        width, height: Stored size of the frames in pixels, before rotation and scaling to square pixels; 0
            without one.
        fps: average frames per second; 0 without a picture.
        sample_rate: of the sound in Hz; 0 without sound.
        is_picture: a single picture (JPEG, PNG, …), shown at every time.
        video_codec, audio_codec: names; empty where there is none.
        video_s, audio_s: when the tracks end, by the header or, where that is an estimate, by the packets; infinite
            if it is not known.
        undecodable: Which of video and audio the file has only in tracks that cannot be decoded, in words.
    """

    duration_s: float
    has_video: bool
    has_audio: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0
    sample_rate: int = 0
    is_picture: bool = False
    video_codec: str = ""
    audio_codec: str = ""
    video_s: float = math.inf
    audio_s: float = math.inf
    undecodable: str = ""

    def end_s(self, modalities: Sequence[str]) -> float:
        """When the last of these tracks ends: of one alone its own end, of both that of the file."""
        if len(modalities) > 1:
            return self.duration_s
        return min(self.duration_s, {"video": self.video_s, "audio": self.audio_s}[modalities[0]])


@dataclass(frozen=True)
class Frames:
    """Frames of a video.

    Args:
        frames: (T, 3, H, W) uint8.
        times_s: (T,) float64, the time at which each frame begins to be shown. It lies after the asked time where
            the picture starts late, and well before it where the picture has ended: the nearest frame stands in.
        until_s: when the picture ends, infinite where it was not read to its end.
    """

    frames: Tensor
    times_s: Tensor
    until_s: float = math.inf

    def coverage(self, asked_s: Sequence[float]) -> float:
        """Share in [0, 1] of the asked times (T,) at which there is a picture, to a tenth of a second."""
        asked = torch.tensor(asked_s, dtype=torch.float64)
        there = (self.times_s <= asked + SLACK_S) & (asked <= self.until_s + SLACK_S)
        return there.double().mean().item()


@dataclass(frozen=True)
class Levels:
    """Levels of decoded audio, before it is resampled.

    Args:
        samples: Number of samples of the mono mix.
        outside: Number of samples of the mono mix outside [-1, 1].
        peak: Largest magnitude of the mono mix.
        energy: Sum of squares of the mono mix.
        expected_energy: Sum of squares that the mean of the channels would have if they were uncorrelated; 0 for mono.
    """

    samples: int = 0
    outside: int = 0
    peak: float = 0.0
    energy: float = 0.0
    expected_energy: float = 0.0

    def __add__(self, other: Levels) -> Levels:
        """Return the levels of two segments together."""
        return Levels(
            self.samples + other.samples,
            self.outside + other.outside,
            max(self.peak, other.peak),
            self.energy + other.energy,
            self.expected_energy + other.expected_energy,
        )

    @property
    def is_clipped(self) -> bool:
        """Whether clipping to [-1, 1] changes more than the few samples by which decoders of lossy codecs overshoot."""
        return self.outside > CLIPPED_SHARE * self.samples or self.peak > CLIPPED_PEAK

    @property
    def is_cancelled(self) -> bool:
        """Whether the channels are audible, but hardly anything of them is left in the mono mix."""
        is_audible = self.expected_energy > SILENT_POWER * self.samples
        return is_audible and self.energy < CANCELLED_SHARE * self.expected_energy


@dataclass(frozen=True)
class Waveform:
    """A segment of mono audio.

    Args:
        samples: (S,) float32, silence where the file has none. Values outside [-1, 1] are not clipped.
        begin: index of the first sample that the file has sound for.
        end: index after the last one.
        levels: Levels of the decoded segment; of the whole file if it is cached.
    """

    samples: Tensor
    begin: int
    end: int
    levels: Levels = Levels()

    def coverage(self, samples: int | None = None) -> float:
        """Share in [0, 1] of the stretch, or of so many samples of it, that lies between begin and end."""
        whole = len(self.samples) if samples is None else samples
        return max(0, min(self.end, whole) - self.begin) / max(whole, 1)
