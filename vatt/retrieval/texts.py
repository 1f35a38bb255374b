"""The captions of a manifest to vectors in the video-text space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vatt.datasets.readers import TextReader
from vatt.datasets.text.vocabularies import Vocabulary
from vatt.models.encoding import encode_texts, model_vocabulary
from vatt.models.vatt import VATT
from vatt.retrieval.store import Row
from vatt.retrieval.tables import MAX_LENGTH
from vatt.structures import Clip, Event, TimedText

BATCH = 64
SHOWN = 200  # characters of a text in messages


def embed_texts(model: VATT, clips: Sequence[Clip]) -> tuple[list[Row], list[Event]]:
    """Rows of text vectors: every text that training would take of a clip, in the order of the manifest."""
    if not any(clip.texts or clip.words for clip in clips):
        return [], []
    try:
        vocabulary = model_vocabulary(model)
    except FileNotFoundError as error:
        return [], [Event(kind="skipped", id="", path=str(model.folder), reason=f"texts are not embedded: {error}")]
    reader = TextReader(model.format, vocabulary)
    captions, events = [], []
    for clip in clips:
        for text in reader.candidates(clip):
            if reason := _unusable(text.text, vocabulary):
                events.append(Event(kind="skipped", id=clip.id, path=clip.path, reason=reason))
                continue
            if len(vocabulary.encode(text.text)) > model.format.num_words:
                reason = f"text truncated to {model.format.num_words} tokens: {text.text}"
                events.append(Event(kind="truncated", id=clip.id, path=clip.path, reason=reason))
            captions.append((clip, text))
    vectors = _vectors(model, list(dict.fromkeys(text.text for _, text in captions)), vocabulary)
    return [_row(clip, text, vectors[text.text]) for clip, text in captions], events


def _unusable(text: str, vocabulary: Vocabulary) -> str | None:
    """Return why a text cannot be embedded, or None."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"the text {text[:SHOWN]!r} is not valid Unicode"
    if size > MAX_LENGTH["text"]:
        return f"the text {text[:SHOWN]!r}… has {size:,} bytes, more than {MAX_LENGTH['text']:,}"
    if not vocabulary.coverage(text).known:
        return f"none of the words {text[:SHOWN]!r} is in the vocabulary"
    return None


def _vectors(model: VATT, texts: Sequence[str], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Vectors of different texts, in batches of one size, so that a text has the same vector in all of them."""
    found: dict[str, np.ndarray] = {}
    for begin in range(0, len(texts), BATCH):
        some = list(texts[begin : begin + BATCH])
        filled = some + [some[0]] * (BATCH - len(some))
        found |= zip(some, encode_texts(model, filled, vocabulary)[0].numpy(), strict=False)
    return found


def _row(clip: Clip, text: TimedText, vector: np.ndarray) -> Row:
    start_s = clip.start_s if text.start_s is None else text.start_s
    end_s = clip.end_s if text.end_s is None else text.end_s
    end_s = start_s if end_s is None else max(start_s, end_s)  # the end of a file is not known here
    return {
        "id": clip.id, "path": clip.path, "start_s": start_s, "end_s": end_s, "modality": "text",
        "space": "video_text", "text": text.text, "vector": vector,
    }  # fmt: skip
