"""Read windows of clips: the video frames, audio and texts of a segment as one sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Generator

from vatt.datasets.labels import Classes
from vatt.datasets.loading.batches import Sample
from vatt.datasets.loading.crashes import begin_reading
from vatt.datasets.readers import AudioReader, TextReader, VideoReader
from vatt.datasets.text.vocabularies import Vocabulary
from vatt.datasets.transforms import Augment, draw_color
from vatt.errors import InputError
from vatt.media.cache import DecodedCache
from vatt.media.decoding import TIME_LIMIT_S, Decoder, open_media
from vatt.media.reader import Media
from vatt.structures import Clip, ClipFormat, Event


class ClipReader:
    """Read windows of clips: all modalities of a time window from an open file.

    Args:
        format: Shapes and rates of the tensors.
        vocabulary: Vocabulary of the texts. If None, texts are not read.
        decoder: See `vatt.media.decoding.open_media`.
        words_per_text: See `TextReader`.
        cache: Directory for decoded files (see `vatt.media.cache`). If None, files are decoded each time.
        time_limit_s: See `vatt.media.decoding.open_media`.
        modalities: Modalities to read: "video", "audio" or both.
        classes: Classes for the ``target`` of each clip. If None, samples have no target.
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
            raise InputError(f"data.cache supports only decoder pyav: remove data.cache or data.decoder {decoder}")
        self.cache = None
        if cache is not None:
            audio = format.sample_rate, time_limit_s, format.audio_downmix
            self.cache = DecodedCache(cache, self.video.part, *audio)

    def open(self, clip: Clip, stack: ExitStack) -> tuple[Media, Media]:
        """Open the files of the clip's video and audio.

        If both are in one file, or only one modality is read, the two are the same object.
        """
        stack.callback(begin_reading, "")
        paths = {"video": clip.path, "audio": clip.audio_path or clip.path}
        distinct = dict.fromkeys(paths[modality] for modality in self.modalities)
        media = {path: stack.enter_context(self._open(path)) for path in distinct}
        video, audio = (media.get(paths[modality]) for modality in ("video", "audio"))
        return video or audio, audio or video

    @property
    def window_s(self) -> float:
        """Duration of a window in seconds, the longest of the modalities."""
        lengths_s = {"video": self.format.duration_s, "audio": self.format.audio_window_s}
        return max(lengths_s[modality] for modality in self.modalities)

    def read(
        self,
        clip: Clip,
        files: tuple[Media, Media],
        start_s: float,
        end_s: float = math.inf,
        augment: Augment | None = None,
        generator: Generator | None = None,
        crop_position: float = 0.5,
    ) -> Sample:
        """Read one window.

        Args:
            clip: Clip with the id, texts and labels of the sample.
            files: See `open`.
            start_s: Start of the window in seconds.
            end_s: End of the clip in seconds; nothing after it is read.
            augment: Augmentation; None for evaluation.
            generator: Random generator, used with ``augment``.
            crop_position: Position of the evaluation crop along the longer side, from 0 to 1; see `VideoReader`.

        Returns:
            Dict with the keys of `vatt.structures.Batch`, without the batch dimension.
        """
        sample = self._begin(clip)
        if "video" in self.modalities:
            begin_reading(files[0].path, self.time_limit_s)
            video, valid = self.video(files[0], start_s, end_s, augment, generator, crop_position)
            sample |= {"video": video, "video_valid": torch.tensor(valid)}
        if "audio" in self.modalities:
            begin_reading(files[1].path, self.time_limit_s)
            audio, valid, problems = self.audio(files[1], start_s, end_s, augment, generator)
            sample |= {"audio": audio, "audio_valid": torch.tensor(valid)}
            for kind, reason in problems.items():
                sample["events"].append(Event(kind=kind, id=clip.id, path=files[1].path, reason=reason))
        if augment is not None and "video" in self.modalities:
            sample["video_color"] = draw_color(augment, generator)
        if self.text is not None:
            sample["text"], sample["text_valid"], cut = self.text(clip, start_s, generator)
            if cut:
                reason = f"{cut} texts truncated to {self.format.num_words} token ids"
                sample["events"].append(Event(kind="truncated", id=clip.id, path=clip.path, reason=reason))
        return sample

    def empty_sample(self, clip: Clip) -> Sample:
        """Return the sample of a clip that cannot be read: zeros, with all modalities invalid."""
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
        """Return whether all modalities of a sample are invalid."""
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
