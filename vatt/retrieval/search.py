"""Questions to an index: a text, a video, a sound or several of them in, ranked files with time spans out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vatt.datasets.vocabulary import Vocabulary
from vatt.errors import InputError
from vatt.models.encoding import FileVectors, encode_file, encode_texts, model_vocabulary, text_notices
from vatt.models.vatt import SPACES, VATT
from vatt.retrieval.hits import Hit, RelativePattern, merged
from vatt.retrieval.index import Index
from vatt.retrieval.store import StoreError
from vatt.retrieval.vectors import unit

Answers = Literal["video", "audio", "text"]
SHOWN = 5  # missing files that are named


class Results(list[Hit]):
    """Hits, best first, and what the user should know about them.

    Attributes:
        notices: Sentences: unknown words, a query that was truncated, a filter that matches nothing.
    """

    def __init__(self, hits: Iterable[Hit] = (), notices: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.notices = tuple(notices)

    @property
    def missing(self) -> list[str]:
        """The files of the hits that are missing, each once."""
        return list(dict.fromkeys(hit.path for hit in self if hit.missing))

    def describe_missing(self) -> str | None:
        """Return a sentence that names missing files of the hits; None if there are none."""
        missing, count = self.missing, len({hit.path for hit in self})
        if not missing:
            return None
        shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        return f"{len(missing)} of {count} files are missing: {shown}"


def search(
    index: Index | str | Path,
    query: str | None = None,
    k: int = 10,
    model: VATT | str | Path | None = None,
    video: str | Path | FileVectors | None = None,
    audio: str | Path | FileVectors | None = None,
    answers: Answers = "video",
    path: str | RelativePattern | None = None,
    where: str | None = None,
    spans: bool = True,
) -> Results:
    """Find the stretches of video (or of sound, or the captions) that are like what is given.

    What is given together is looked for together: vectors of one space are averaged, and of several spaces the cosines.
    Texts are compared in the video-text space, sounds in the video-audio space, a video in those of what it is given
    with, or in all.

    Args:
        index: the index, or its folder.
        query: words.
        k: number of answers.
        model: the model that made the index, or its folder; where the index was built from is taken unless given.
        video, audio: files, or URLs, as examples; of a long one the mean of its windows. What `encode_file` returned
            for one is taken as well.
        answers: what is looked for.
        path: only files whose paths match this pattern (``*``, ``?``): the whole path, or, with a `RelativePattern`,
            the path below some directories.
        where: only clips of whose manifest a column has a value: ``split=test``, ``x_shape=ring``, ``labels=dog``.
        spans: windows that follow each other among the best 2 k (of a small index: a tenth of it, or k) are one answer,
            and of the next ones those that touch none. Otherwise windows are answers, without those that mostly
            overlap with a better one.

    Returns:
        Hits, best first, with `Results.notices`.

    Raises:
        StoreError: the model is not where it was, or the index cannot be read.
        IndexMismatch: the model is not the one the index was made with, or the index has nothing of that kind.
        InputError: nothing is asked, the query is empty or has no word that the model knows, or a file cannot be read.
    """
    index, model = opened(index, model)
    vocabulary = None if query is None else model_vocabulary(model)
    asked, notices = _vectors(index, model, query, vocabulary, video, audio, answers), list[str]()
    if query is not None and vocabulary is not None:
        notices = text_notices(model, query, vocabulary)
    kwargs = {"modality": answers, "path": path, "where": where}
    space = next(iter(asked))
    if not spans or answers == "text":
        hits = index.search_spaces(asked, model.fingerprint(), k, distinct=answers != "text", **kwargs)
    else:
        total = index.parts[answers, space].total if (answers, space) in index.parts else 0
        best = max(k, min(2 * k, total // 10))
        hits = merged(index.search_spaces(asked, model.fingerprint(), 4 * best, **kwargs), best)[:k]
    if not hits and (nothing := index.describe_filters(answers, space, path, where)):
        notices.append(nothing)
    return Results(hits, notices)


def opened(index: Index | str | Path, model: VATT | str | Path | None, verify: bool = True) -> tuple[Index, VATT]:
    """An index and its model, from their folders.

    Args:
        index, model: see `search`.
        verify: see `vatt.retrieval.index.Index.load`.

    Raises:
        StoreError: the index cannot be read, or the model is not where it was.
    """
    if not isinstance(index, Index):
        index = Index.load(index, verify=verify)
    if model is None:
        if index.model_folder is None or not index.model_folder.is_dir():
            raise StoreError(f"the model of this index is not at {index.model_folder}; give it with --model DIR")
        model = index.model_folder
    return index, model if isinstance(model, VATT) else VATT.from_pretrained(model)


def _vectors(
    index: Index,
    model: VATT,
    query: str | None,
    vocabulary: Vocabulary | None,
    video: str | Path | FileVectors | None,
    audio: str | Path | FileVectors | None,
    answers: Answers,
) -> dict[str, np.ndarray]:
    """(E,) of length 1 by space: the mean of what is asked there."""
    wanted = {"video_text": query is not None, "video_audio": audio is not None}
    found: dict[str, list[np.ndarray]] = {}
    if query is not None and vocabulary is not None:
        with torch.inference_mode():
            found["video_text"] = [unit(encode_texts(model, [query], vocabulary)[0].numpy())[0]]
    if audio is not None:
        heard = _encoded(model, audio)
        if ("audio", "video_audio") not in heard.vectors:
            raise InputError(f"{_name(audio)} has no sound")
        found["video_audio"] = [heard.pooled("audio", "video_audio").numpy()]
    if video is not None:
        seen = _encoded(model, video)
        there = [space for space in SPACES if (answers, space) in index.parts and ("video", space) in seen.vectors]
        if not any(("video", space) in seen.vectors for space in SPACES):
            raise InputError(f"{_name(video)} has no picture")
        for space in [space for space in there if wanted[space]] or there:
            found.setdefault(space, []).append(seen.pooled("video", space).numpy())
    if not found:
        raise InputError("ask for something: words, a video or a sound")
    return {space: unit(np.mean(vectors, axis=0, keepdims=True))[0] for space, vectors in found.items()}


def _encoded(model: VATT, file: str | Path | FileVectors) -> FileVectors:
    return file if isinstance(file, FileVectors) else encode_file(model, file)


def _name(file: str | Path | FileVectors) -> str:
    return "the example" if isinstance(file, FileVectors) else str(file)
