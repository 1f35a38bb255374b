"""Reading of windows of clips: video frames, audio and text of one segment as one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Generator

from vatt.datasets.batches import Sample
from vatt.datasets.crashes import begin_reading
from vatt.datasets.labels import Classes
from vatt.datasets.media.cache import DecodedCache
from vatt.datasets.media.decoding import TIME_LIMIT_S, Decoder, open_media
from vatt.datasets.media.media import Media
from vatt.datasets.readers import AudioReader, TextReader, VideoReader
from vatt.datasets.text import Vocabulary
from vatt.datasets.transforms import Augment, draw_colour
from vatt.errors import InputError
from vatt.structures import Clip, ClipFormat, Event


class ClipReader:
    """Reads windows of clips: every modality of one span, from one open file.

    Args:
        format: the shapes.
        vocabulary: for the texts; None reads none.
        decoder: see `vatt.datasets.media.decoding.open_media`.
        words_per_text: see `TextReader`.
        cache: folder to keep decoded files in (see `vatt.datasets.media.cache`); None decodes every time.
        time_limit_s: see `vatt.datasets.media.decoding.open_media`.
        modalities: those that are read: "video", "audio" or both.
        classes: makes the ``target`` of each clip; None makes none.
    """

    def __init__(
        self,
        format: ClipFormat,
        vocabulary: Vocabulary | None = None,
        decoder: Decoder = "auto",
        words_per_text: int | None = None,
        cache: str | None = None,
        time_limit_s: float = TIME_LIMIT_S,
        modalities: Sequence[str] = ("video", "audio"),
        classes: Classes | None = None,
    ) -> None:
        self.modalities, self.classes = tuple(modalities), classes
        self.format, self.decoder, self.time_limit_s = format, decoder, time_limit_s
        self.video, self.audio = VideoReader(format), AudioReader(format)
        self.text = None if vocabulary is None else TextReader(format, vocabulary, words_per_text)
        if cache is not None and decoder not in ("auto", "pyav"):
            raise InputError(f"a cache is filled by pyav: set data.cache or data.decoder {decoder}, not both")
        self.cache = None
        if cache is not None:
            audio = format.sample_rate, time_limit_s, format.audio_downmix
            self.cache = DecodedCache(cache, self.video.part, *audio)

    def open(self, clip: Clip, stack: ExitStack) -> tuple[Media, Media]:
        """The files with the clip's picture and with its sound: usually the same, and so where only one is read."""
        stack.callback(begin_reading, "")
        paths = {"video": clip.path, "audio": clip.audio_path or clip.path}
        distinct = dict.fromkeys(paths[modality] for modality in self.modalities)
        media = {path: stack.enter_context(self._open(path)) for path in distinct}
        first, last = (media.get(paths[modality]) for modality in ("video", "audio"))
        return first or last, last or first

    @property
    def span_s(self) -> float:
        """Seconds from the beginning of a window to the end of what is read."""
        lengths_s = {"video": self.format.duration_s, "audio": self.format.sound_s}
        return max(lengths_s[modality] for modality in self.modalities)

    def read(
        self,
        clip: Clip,
        files: tuple[Media, Media],
        start_s: float,
        end_s: float = math.inf,
        augment: Augment | None = None,
        generator: Generator | None = None,
        place: float = 0.5,
    ) -> Sample:
        """One window as a dict with the keys of `vatt.structures.Batch`, without the batch dimension.

        Args:
            clip: for its id, texts and labels.
            files: see `open`.
            start_s: beginning of the window.
            end_s: end of the clip; nothing after it is read.
            augment: None for evaluation.
            generator: source of randomness, with ``augment``.
            place: of the square that evaluation looks at; see `VideoReader`.
        """
        sample = self._begin(clip)
        if "video" in self.modalities:
            begin_reading(files[0].path, self.time_limit_s)
            video, valid = self.video(files[0], start_s, end_s, augment, generator, place)
            sample |= {"video": video, "video_valid": torch.tensor(valid)}
        if "audio" in self.modalities:
            begin_reading(files[1].path, self.time_limit_s)
            audio, valid, problems = self.audio(files[1], start_s, end_s, augment, generator)
            sample |= {"audio": audio, "audio_valid": torch.tensor(valid)}
            for kind, reason in problems.items():
                sample["events"].append(Event(kind=kind, id=clip.id, path=files[1].path, reason=reason))
        if augment is not None and "video" in self.modalities:
            sample["video_colour"] = draw_colour(augment, generator)
        if self.text is not None:
            sample["text"], sample["text_valid"], cut = self.text(clip, start_s, generator)
            if cut:
                reason = f"{cut} texts cut to {self.format.num_words} ids"
                sample["events"].append(Event(kind="truncated", id=clip.id, path=clip.path, reason=reason))
        return sample

    def nothing(self, clip: Clip) -> Sample:
        """The sample of a clip that cannot be read: zeros, nothing valid."""
        spec, sample = self.format, self._begin(clip)
        shapes = {"video": (spec.num_frames, 3, spec.size, spec.size), "audio": (spec.num_samples,)}
        for modality in self.modalities:
            kind = torch.uint8 if modality == "video" else torch.float32
            sample[modality] = torch.zeros(shapes[modality], dtype=kind)
            sample[f"{modality}_valid"] = torch.tensor(False)
        if self.text is not None:
            sample["text"], sample["text_valid"], _ = self.text.encode([], spec.num_texts)
        return sample

    def is_empty(self, sample: Sample) -> bool:
        """Whether nothing in a sample is valid."""
        return not any(sample[f"{modality}_valid"] for modality in self.modalities)

    def _begin(self, clip: Clip) -> Sample:
        sample: Sample = {"id": clip.id, "events": []}
        if self.classes is not None:
            sample["target"] = self.classes.target(clip)
        return sample

    def _open(self, path: str) -> Media:
        begin_reading(path, self.time_limit_s)
        if self.cache:
            return self.cache.open(path)  # type: ignore[return-value]
        return open_media(path, self.decoder, self.time_limit_s)
