"""The contract between the rooms: what flows from file to loss, with shapes and units.

One alphabet, used in every docstring: B clips, K texts per clip, T frames, H W pixels, S audio samples,
L words, N tokens, D width, E embedding. Units stand in names: ``start_s`` seconds, ``fps`` frames per second,
``sample_rate`` Hz. Pixels are float in [-1, 1], audio is mono float in [-1, 1], and a video is always
(B, T, 3, H, W). ``valid`` is True for real data; ``keep`` holds indices that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypedDict, get_args

from torch import Tensor

MODALITIES = ("video", "audio", "text")
Downmix = Literal["mean", "first"]
Overflow = Literal["clip", "scale"]
LIMITS = {"fps": (0.01, 1000), "sample_rate": (100, 768_000), "audio_s": (0.01, 86_400)}  # of a format


@dataclass(frozen=True, slots=True)
class TimedText:
    """A caption, or one word, and when it is said.

    Args:
        text: the words.
        start_s: beginning in seconds on the file's clock; None where no time is known.
        end_s: end in seconds; None where no time is known.
    """

    text: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """A segment of one media file and what is known about it: one row of a manifest, or several.

    Args:
        id: unique name within the manifest.
        path: the media file.
        start_s: beginning of the stretch in seconds on the file's clock.
        end_s: its end in seconds; None reaches to the end of the file.
        texts: captions, with times where they are known.
        words: single words with their times, as a speech recogniser gives them.
        labels: class names.
        split: "train", "val", "test" or any other name; None where the manifest has no such column.
        audio_path: a separate file with the sound; None takes it from ``path``.
        extra: Columns that begin with ``x_``, the user's own. Values are those of JSON.
    """

    id: str
    path: str
    start_s: float = 0.0
    end_s: float | None = None
    texts: tuple[TimedText, ...] = ()
    words: tuple[TimedText, ...] = ()
    labels: tuple[str, ...] = ()
    split: str | None = None
    audio_path: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipFormat:
    """What one clip looks like once it is read: the shape of every tensor that a model takes.

    The defaults are the paper's (VATT, appendix A.2.1): 32 frames at 10 fps and the waveform of the same 3.2 s
    at 48 kHz, and up to 5 candidate texts of 16 words.

    Args:
        num_frames: T.
        fps: distance of the frames, in frames per second.
        size: H = W in pixels.
        sample_rate: of the waveform, in Hz.
        num_words: L, the length every text is padded or cut to.
        num_texts: K, the candidate texts of a clip (MIL-NCE).
        crop_box: left, top, right and bottom of the part of the picture that is looked at, as fractions of its
            width and height.
        audio_s: seconds of the waveform, which begins with the frames; None is as long as they last.
        audio_downmix: How audio becomes mono: "mean" of all channels; or only the "first" channel, for stereo in
            opposite phase, whose mean is silence, and for ambisonics, whose first channel is omnidirectional.
        audio_overflow: What happens to samples outside [-1, 1]: "clip"; or "scale", which divides the waveform by its
            peak, for floats that hold integers.
    """

    num_frames: int = 32
    fps: float = 10.0
    size: int = 224
    sample_rate: int = 48_000
    num_words: int = 16
    num_texts: int = 5
    crop_box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    audio_s: float | None = None
    audio_downmix: Downmix = "mean"
    audio_overflow: Overflow = "clip"

    def __post_init__(self) -> None:
        for name in ("num_frames", "fps", "size", "sample_rate", "num_words", "num_texts"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ClipFormat.{name} must be positive, not {getattr(self, name)!r}")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"ClipFormat.{name} must be between {low:,} and {high:,}, not {value!r}")
        for name, choices in (("audio_downmix", get_args(Downmix)), ("audio_overflow", get_args(Overflow))):
            if getattr(self, name) not in choices:
                raise ValueError(f"ClipFormat.{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        left, top, right, bottom = self.crop_box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"ClipFormat.crop_box must be fractions left < right, top < bottom: {self.crop_box}")

    @property
    def duration_s(self) -> float:
        """Seconds that the frames of a clip span, and its waveform, unless that has its own length."""
        return self.num_frames / self.fps

    @property
    def audio_window_s(self) -> float:
        """Duration of the waveform in seconds."""
        return self.duration_s if self.audio_s is None else self.audio_s

    @property
    def window_s(self) -> float:
        """Duration of a window in seconds, the longer of frames and waveform."""
        return max(self.duration_s, self.audio_window_s)

    @property
    def num_samples(self) -> int:
        """S, the samples of the waveform."""
        return round(self.audio_window_s * self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what is None; `from_dict` reads them back."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipFormat:
        """Inverse of `to_dict`. Raises TypeError for an unknown key."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


NOT_READ = ("unreadable", "crashed")  # kinds of events of files that were not read


class Event(TypedDict):
    """Something that happened to a clip on its way into a batch, for the report of the run."""

    # "unreadable", or "crashed" (the decoder crashed, or hung and was killed): training replaces the clip by another;
    # "damaged"; "truncated": words were cut off; "skipped": windows or texts that are not used; "clipped": audio is not
    # in [-1, 1]; "cancelled": channels cancel in the mono mix. `vatt prepare` adds "incomplete" (no audio or no video),
    # "outside" (the segment is outside of the file) and "timeout".
    kind: str
    id: str
    path: str
    reason: str


class Batch(TypedDict, total=False):
    """What a training step gets. A modality that the data does not have at all is absent.

    On its way from the loader to the device ``video`` is uint8, which `vatt.datasets.loading.batches.finish` ends.
    """

    id: list[str]  # B names
    video: Tensor  # (B, T, 3, H, W) float in [-1, 1]
    video_color: Tensor  # (B, 4) color changes (see `draw_color`); only on the way to the device
    video_valid: Tensor  # (B,) bool
    audio: Tensor  # (B, S) float in [-1, 1]
    audio_valid: Tensor  # (B,) bool
    text: Tensor  # (B, K, L) int64, padded with the vocabulary's pad id
    text_valid: Tensor  # (B, K) bool
    events: list[Event]


@dataclass(frozen=True)
class Patches:
    """A raw signal, cut into pieces that are not embedded yet.

    Args:
        x: (B, N, P) raw values of each patch.
        position: (B, N, 3) int64 places: (t, h, w) for video, (i, 0, 0) for a sequence.
        grid: places along each axis that the signal has; positions are read on this grid.
        valid: (B, N) bool, False on padding; None where every patch is real.
    """

    x: Tensor
    position: Tensor
    grid: tuple[int, ...]
    valid: Tensor | None = None

    def take(self, keep: Tensor) -> Patches:
        """The patches at ``keep`` (B, M), in that order."""
        return replace(
            self, x=_pick(self.x, keep), position=_pick(self.position, keep), valid=_pick_valid(self.valid, keep)
        )


@dataclass(frozen=True)
class Tokens:
    """A modality as a sequence of embedded tokens.

    Args:
        x: (B, N, D) embeddings, positions added.
        position: (B, N, 3) int64 places: (t, h, w) for video, (i, 0, 0) for a sequence.
        valid: (B, N) bool, False on padding; None where every token is real.
        grid: places along each axis; all of them together, in order, are the tokens before any was dropped.
    """

    x: Tensor
    position: Tensor
    valid: Tensor | None = None
    grid: tuple[int, ...] = ()

    def take(self, keep: Tensor) -> Tokens:
        """The tokens at ``keep`` (B, M), in that order: (B, M, D)."""
        return replace(
            self, x=_pick(self.x, keep), position=_pick(self.position, keep), valid=_pick_valid(self.valid, keep)
        )


def _pick(x: Tensor, keep: Tensor) -> Tensor:
    return x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _pick_valid(valid: Tensor | None, keep: Tensor) -> Tensor | None:
    return None if valid is None else valid.gather(1, keep)


@dataclass(frozen=True)
class Features:
    """What a backbone makes of the tokens of one modality.

    Args:
        tokens: (B, N, D) one feature per token, without the aggregation token.
        pooled: (B, D) the feature of the aggregation (AGG) token, or what stands for it in an encoder without one.
        layers: outputs of every block, (B, 1 + N, D) each, AGG first; empty unless they were asked for.
        agg: (B, D) the feature of the AGG token, where there is one.
    """

    tokens: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] = ()
    agg: Tensor | None = None
