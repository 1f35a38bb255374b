"""From an open file and a start time to the tensors of one modality.

Each reader gives ``(tensor, valid)``; what a file does not have comes as zeros with ``valid`` False.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from vatt.datasets.text.vocabularies import Vocabulary
from vatt.datasets.transforms import Augment, at_speed, draw_speed, draw_view, vary_waveform
from vatt.media.audio import limit
from vatt.media.frames import Part, Square
from vatt.media.reader import Media
from vatt.media.types import Levels
from vatt.structures import Clip, ClipFormat, TimedText

MIN_COVERAGE = 0.5  # a picture or a sound of which less than half exists is not taken for real
CANCELLED = {  # by the downmix
    "mean": "its audio channels cancel in their mean (audio_downmix: first reads only the first channel)",
    "first": "the first channel of its audio is much quieter than the others (audio_downmix: mean reads all channels)",
}
LAST_S = 0.01  # the last frame of a clip begins before its end


class VideoReader:
    """Frames at ``start_s + arange(T) / fps``.

    Args:
        format: T, fps, size and crop box.
    """

    def __init__(self, format: ClipFormat) -> None:
        self.format = format
        self.part = Part(format.size, format.crop_box)  # what a cache keeps: all that can ever be seen

    def __call__(
        self,
        media: Media,
        start_s: float,
        end_s: float = math.inf,
        augment: Augment | None = None,
        generator: Generator | None = None,
        crop_position: float = 0.5,
    ) -> tuple[Tensor, bool]:
        """Read the frames of a window. After ``end_s``, the end of the clip, the last frame is repeated.

        Args:
            crop_position: Position of the crop along the longer side, from 0 to 1, without ``augment`` (see
                `vatt.media.frames.Square`).

        Returns:
            (T, 3, size, size) uint8, and whether the file has a frame for at least half of them.
        """
        spec = self.format
        if not media.info.has_video:
            return torch.zeros(spec.num_frames, 3, spec.size, spec.size, dtype=torch.uint8), False
        last_s = max(start_s, end_s - LAST_S)
        times_s = [min(start_s + i / spec.fps, last_s) for i in range(spec.num_frames)]
        if augment is None:
            region = Square(spec.size, spec.crop_box, crop_position)
        else:
            region = draw_view(augment, spec.size, spec.crop_box, generator)
        shown = media.frames(times_s, region)
        return shown.frames, shown.coverage(times_s) >= MIN_COVERAGE


class AudioReader:
    """The waveform of the same span.

    Args:
        format: duration and sample rate.
    """

    def __init__(self, format: ClipFormat) -> None:
        self.format = format

    def __call__(
        self,
        media: Media,
        start_s: float,
        end_s: float = math.inf,
        augment: Augment | None = None,
        generator: Generator | None = None,
    ) -> tuple[Tensor, bool, dict[str, str]]:
        """Read the waveform of a window.

        After ``end_s``, the end of the clip, there is silence.

        Returns:
            (S,) float in [-1, 1]; whether at least half of the part inside the clip has audio; and events about levels:
            reason by kind.
        """
        spec = self.format
        length_s = spec.audio_window_s * draw_speed(augment, generator)
        sound = media.waveform(start_s, length_s, spec.sample_rate, spec.audio_downmix)
        inside = min(len(sound.samples), max(1, round(min(end_s - start_s, length_s) * spec.sample_rate)))
        sound.samples[inside:] = 0.0
        valid = sound.coverage(inside) >= MIN_COVERAGE
        samples = at_speed(limit(sound.samples, spec.audio_overflow), spec.num_samples)
        return vary_waveform(samples, augment, generator), valid, self._problems(sound.levels)

    def _problems(self, levels: Levels) -> dict[str, str]:
        problems = {}
        if levels.is_clipped and self.format.audio_overflow == "clip":
            problems["clipped"] = (
                f"{levels.outside:,} of {levels.samples:,} audio samples are outside [-1, 1], with a peak of "
                f"{levels.peak:.5g}, and are clipped (audio_overflow: scale divides them by the peak)"
            )
        if levels.is_cancelled:
            problems["cancelled"] = CANCELLED[self.format.audio_downmix]
        return problems


class TextReader:
    """The K texts of a clip that are nearest in time to a window (MIL-NCE candidates; VATT, section 3.3).

    Captions without a time count as said throughout. Single timed words are joined to texts of
    ``words_per_text`` consecutive words, each beginning half a text after the one before it.

    Args:
        format: K texts of L words.
        vocabulary: text to ids.
        words_per_text: None joins L words, only where a row has no caption; 0 never uses them.
    """

    def __init__(self, format: ClipFormat, vocabulary: Vocabulary, words_per_text: int | None = None) -> None:
        self.format, self.vocabulary, self.words_per_text = format, vocabulary, words_per_text

    def __call__(self, clip: Clip, start_s: float, generator: Generator | None = None) -> tuple[Tensor, Tensor, int]:
        """Ids (K, L) int64, validity (K,) bool, and how many texts were cut to L ids.

        With a generator, a clip with more than K texts equally near gives a random K of them.
        """
        texts = nearest(self.candidates(clip), start_s + self.format.duration_s / 2, generator)
        return self.encode([text.text for text in texts[: self.format.num_texts]], self.format.num_texts)

    def encode(self, texts: list[str], rows: int) -> tuple[Tensor, Tensor, int]:
        """Ids (rows, L) int64, validity (rows,) bool, and how many texts were cut to L ids."""
        length = self.format.num_words
        ids = torch.full((rows, length), self.vocabulary.pad_id, dtype=torch.int64)
        valid = torch.zeros(rows, dtype=torch.bool)
        cut = 0
        for row, text in enumerate(texts):
            words = self.vocabulary.encode(text)
            cut += len(words) > length
            ids[row, : len(words)] = torch.tensor(words[:length], dtype=torch.int64)
            valid[row] = len(words) > 0
        return ids, valid, cut

    def candidates(self, clip: Clip) -> list[TimedText]:
        """Every text that the clip could be paired with."""
        size = self.words_per_text
        if size is None:
            size = 0 if clip.texts else self.format.num_words
        return [*clip.texts, *join_words(clip.words, size)]


def join_words(words: tuple[TimedText, ...], size: int) -> list[TimedText]:
    """Texts of ``size`` consecutive words, overlapping by half, with the time from the first to the last."""
    if size < 1 or not words:
        return []
    step = max(1, size // 2)
    starts = range(0, max(1, len(words) - size + step), step)
    groups = [words[i : i + size] for i in starts]
    return [TimedText(" ".join(w.text for w in g), g[0].start_s, g[-1].end_s) for g in groups]


def nearest(texts: list[TimedText], centre_s: float, generator: Generator | None = None) -> list[TimedText]:
    """Texts by the distance of their middle from ``centre_s``; equal distances in random or given order."""
    order = list(range(len(texts)))
    if generator is not None:
        order = torch.randperm(len(texts), generator=generator).tolist()

    def distance(text: TimedText) -> float:
        if text.start_s is None or text.end_s is None:
            return 0.0
        return abs((text.start_s + text.end_s) / 2 - centre_s)

    return sorted((texts[i] for i in order), key=distance)
