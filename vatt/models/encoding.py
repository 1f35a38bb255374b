"""Files and words to vectors, by a model alone: what ``VATT.encode_video("clip.mp4")`` does.

The one place among the models that opens files; it is imported when it is used.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.loading.batches import Sample, collate, finish
from vatt.datasets.readers import TextReader
from vatt.datasets.text.vocabularies import Vocabulary
from vatt.datasets.windows import Windows
from vatt.directories import lock_directory
from vatt.errors import InputError
from vatt.media.decoding import TIME_LIMIT_S, Decoder
from vatt.media.tracks.choice import SILENT_DB
from vatt.models.saving import VOCABULARY
from vatt.models.vatt import VATT, Space
from vatt.models.vocabulary import read_vocabulary
from vatt.structures import NOT_READ, Batch, Clip

Kind = tuple[str, str]  # modality and space
OUTPUTS: dict[str, Kind] = {  # of the model for a window
    "video_va": ("video", "video_audio"),
    "video_vt": ("video", "video_text"),
    "audio_va": ("audio", "video_audio"),
}
NOTICED = {  # kinds of events that searches report, and the modalities of queries that they concern
    "damaged": ("video", "audio"),
    "silent": ("audio",),
    "cancelled": ("audio",),
    "clipped": ("audio",),
}
BATCH = 16  # windows
SHOWN, SHOWN_LENGTH = 10, 200  # words, and characters of a text, in messages


@dataclass(frozen=True)
class FileVectors:
    """The windows of a file, as `vatt.retrieval.embeddings.embed` writes them.

    Args:
        start_s, end_s: (W,) of each window, in seconds.
        vectors: (W, E), not normalised, by modality and space.
        valid: (W,) bool by modality: windows that have it.
        notices: Sentences about silent, clipped, cancelled or damaged content, by modality.
    """

    start_s: list[float]
    end_s: list[float]
    vectors: dict[Kind, Tensor]
    valid: dict[str, Tensor]
    notices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def pooled(self, modality: str, space: str) -> Tensor:
        """(E,): one vector of length 1 for the whole file, that of the mean of its windows."""
        return F.normalize(self.vectors[modality, space][self.valid[modality]].mean(dim=0), dim=0)


def read_modalities(model: VATT, wanted: Sequence[str] | None = None) -> list[str]:
    """What is read of a file: video, audio or both.

    Args:
        model: what it takes.
        wanted: of these, all unless given.

    Raises:
        InputError: one is wanted that the model does not take.
    """
    for modality in wanted or ():
        if modality not in model.backbone.modalities:
            raise InputError(f"this model takes {', '.join(model.backbone.modalities)}, not {modality}")
    return [m for m in ("video", "audio") if m in (model.backbone.modalities if wanted is None else wanted)]


def encode_windows(model: VATT, batch: Batch) -> dict[Kind, Tensor]:
    """Vectors (W, E) of a batch of windows on the model's device, not normalised, of the modalities that any has."""
    batch = finish(batch)
    present = {
        m: batch[m]  # type: ignore[literal-required]
        for m in ("video", "audio")
        if m in model.backbone.modalities and m in batch and batch[f"{m}_valid"].any()  # type: ignore[literal-required]
    }
    outputs = model(**present) if present else {}
    return {kind: outputs[name].float().cpu() for name, kind in OUTPUTS.items() if name in outputs}


@torch.inference_mode()
def encode_file(
    model: VATT,
    path: str | Path,
    hop_s: float | None = None,
    decoder: Decoder = "auto",
    windows: int | None = None,
    modalities: Sequence[str] | None = None,
    time_limit_s: float | None = None,
    read_windows: Callable[[Windows, Clip], Iterable[Sample]] | None = None,
) -> FileVectors:
    """Read a file in windows, as `vatt.retrieval.embeddings.embed` does, and encode them.

    Args:
        model: on any device.
        path: of a video, a sound or a picture, or a URL.
        hop_s, decoder, windows, modalities: see there.
        time_limit_s: Bound on reading and encoding, in seconds. It is checked between windows, and bounds each read.
        read_windows: Function that reads the windows of a clip. The default is `Windows.of`, in this process.

    Raises:
        InputError: The file cannot be read, has no modality of the model, or takes longer than the time limit.
    """
    read = read_modalities(model, modalities)
    if not read:
        raise InputError(f"this model takes {', '.join(model.backbone.modalities)}, and no files")
    reader = ClipReader(model.format, None, decoder, time_limit_s=time_limit_s or TIME_LIMIT_S, modalities=read)
    source = Windows(reader, hop_s or model.format.duration_s, windows)
    device, windows_of = (
        next(model.parameters()).device,
        iter((read_windows or Windows.of)(source, Clip(str(path), str(path)))),
    )
    if time_limit_s is not None:
        windows_of = _within(windows_of, path, time_limit_s)
    spans: list[tuple[float, float]] = []
    valid: dict[str, list[Tensor]] = {modality: [] for modality in read}
    notices = _Notices()
    parts: list[tuple[int, dict[Kind, Tensor]]] = []
    while samples := list(islice(windows_of, BATCH)):  # of hours of video only so many are in memory
        for event in (event for sample in samples for event in sample["events"]):
            if event["kind"] in NOT_READ:
                raise InputError(f"{path}: {event['reason']}")
        notices.add(samples)
        spans += [(sample["start_s"], sample["end_s"]) for sample in samples]
        for modality, found in valid.items():
            found += [sample[f"{modality}_valid"] for sample in samples]
        batch = collate([[sample] for sample in samples])
        batch = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in batch.items()}
        parts.append((len(samples), encode_windows(model, batch)))
    widths = {kind: x.shape[1] for _, part in parts for kind, x in part.items()}
    if not widths:
        raise InputError(f"{path} has nothing that the model takes ({', '.join(model.backbone.modalities)})")
    vectors = {  # of a batch in which no window has a modality there are none
        kind: torch.cat([part[kind] if kind in part else torch.zeros(count, width) for count, part in parts])
        for kind, width in widths.items()
    }
    start_s, end_s = zip(*spans, strict=True)
    is_valid = {modality: torch.stack(found) for modality, found in valid.items()}
    return FileVectors(list(start_s), list(end_s), vectors, is_valid, notices.by_modality())


class _Notices:
    """Collect notices about the windows of a file."""

    def __init__(self) -> None:
        self._reasons: dict[str, dict[str, None]] = {kind: {} for kind in NOTICED}
        self._peak: float | None = None

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            for event in sample["events"]:
                if event["kind"] in NOTICED:
                    self._reasons[event["kind"]].setdefault(event["reason"])
            if sample.get("audio_valid"):
                self._peak = max(self._peak or 0.0, float(sample["audio"].abs().max()))

    def by_modality(self) -> dict[str, tuple[str, ...]]:
        """Return the notices, by modality."""
        is_silent = self._peak is not None and self._peak < 10 ** (SILENT_DB / 20)
        if is_silent and not self._reasons["cancelled"]:
            self._reasons["silent"].setdefault(f"its audio is silent (peak below {SILENT_DB:g} dB)")
        notices: dict[str, tuple[str, ...]] = {}
        for kind, reasons in self._reasons.items():
            for modality in NOTICED[kind]:
                notices[modality] = notices.get(modality, ()) + tuple(reasons)
        return notices


def _within(samples: Iterator[Sample], path: str | Path, limit_s: float) -> Iterator[Sample]:
    """Yield the samples until the time limit.

    Raises:
        InputError: The time limit is exceeded.
    """
    deadline = time.monotonic() + limit_s
    for sample in samples:
        if time.monotonic() > deadline:
            raise InputError(f"{path}: reading and encoding took longer than {limit_s:g} s")
        yield sample


def encode_files(model: VATT, paths: Sequence[str | Path], modality: str, space: Space) -> Tensor:
    """Unit vectors (F, E) of files, each pooled over its windows.

    Raises:
        InputError: one cannot be read, or does not have the modality, or the model does not.
    """
    vectors = []
    for path in paths:
        file = encode_file(model, path)
        if (modality, space) not in file.vectors:
            available = ", ".join(f"{m} in {s}" for m, s in file.vectors)
            raise InputError(f"{path}: there is no {modality} in the {space} space, only {available}")
        vectors.append(file.pooled(modality, space))
    return torch.stack(vectors)


def model_vocabulary(model: VATT) -> Vocabulary:
    """The vocabulary that was saved with a model.

    Raises:
        FileNotFoundError: The model has no vocabulary, or was not loaded from a directory.
        InputError: The vocabulary is not the one that the model was trained with.
    """
    if model.folder is None:
        raise FileNotFoundError("the model was not loaded from a directory, so its vocabulary is unknown")
    with lock_directory(model.directory, shared=True):
        folder = model.folder
        if model.vocabulary_hash is None and not (folder / VOCABULARY).is_dir():
            raise FileNotFoundError(f"{folder} has no vocabulary: trained without texts, or converted without one")
        return read_vocabulary(folder / VOCABULARY, model.vocabulary_hash)


def encode_texts(model: VATT, texts: Sequence[str], vocabulary: Vocabulary) -> tuple[Tensor, int]:
    """Texts to vectors (N, E) in the video-text space, not normalised, and how many texts were cut to fit.

    Raises:
        InputError: A text contains no word of the vocabulary.
    """
    ids, cut = _ids(model, texts, vocabulary)
    return model(text=ids)["text_vt"].float().cpu(), cut


def text_notices(model: VATT, text: str, vocabulary: Vocabulary, name: str = "the query") -> list[str]:
    """Return sentences that describe unknown words and truncation of a text.

    Args:
        model: Model.
        text: Text with at least one known word.
        vocabulary: Vocabulary of the model.
        name: Name of the text in the sentences.
    """
    notices = []
    unknown, count = vocabulary.coverage(text).unknown, len(vocabulary.encode(text))
    if unknown:
        notices.append(f"not in the model's vocabulary: {', '.join(map(repr, unknown[:SHOWN]))}")
    if count > model.format.num_words:
        cut = count - model.format.num_words
        rest = "the last one is" if cut == 1 else f"the last {cut} are"
        notices.append(f"{name} has {count} tokens; {rest} ignored")
    return notices


def to_ids(model: VATT, texts: Sequence[str]) -> Tensor:
    """Return (N, L) ids of texts on the model's device; warn about unknown words and truncated texts.

    Raises:
        InputError: A text contains no word of the vocabulary.
    """
    vocabulary = model_vocabulary(model)
    ids, cut = _ids(model, texts, vocabulary)
    if len(texts) == 1:
        notices = text_notices(model, texts[0], vocabulary, "the text")
    else:
        unknown = dict.fromkeys(word for text in texts for word in vocabulary.coverage(text).unknown)
        notices = [f"{cut} of {len(texts)} texts are truncated to {model.format.num_words} tokens"] if cut else []
        notices += [f"not in the model's vocabulary: {', '.join(map(repr, list(unknown)[:SHOWN]))}"] if unknown else []
    for notice in notices:
        warnings.warn(notice, stacklevel=4)
    return ids


def _ids(model: VATT, texts: Sequence[str], vocabulary: Vocabulary) -> tuple[Tensor, int]:
    ids, valid, cut = TextReader(model.format, vocabulary).encode(list(texts), len(texts))
    if not valid.all():
        empty = texts[int((~valid).nonzero()[0])]
        raise InputError(f"the text {empty[:SHOWN_LENGTH]!r} contains no word of the model's vocabulary")
    for text in dict.fromkeys(texts):
        if not vocabulary.coverage(text).known:
            raise InputError(f"none of the words {text[:SHOWN_LENGTH]!r} is in the model's vocabulary")
    return ids.to(next(model.parameters()).device), cut
