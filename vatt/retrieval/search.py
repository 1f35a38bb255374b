"""Search an index by text, a video, audio, or a combination of them. Results are ranked segments of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from vatt.datasets.loading.isolated import windows_in_worker
from vatt.datasets.text.making import Vocabulary
from vatt.errors import InputError
from vatt.models.encoding import FileVectors, encode_file, encode_texts, model_vocabulary, text_notices
from vatt.models.vatt import SPACES, VATT
from vatt.retrieval.filters import RelativePattern, describe_split
from vatt.retrieval.index import EmptyIndex, Index
from vatt.retrieval.results import Result, merged
from vatt.retrieval.tables import StoreError
from vatt.retrieval.vectors import unit

Answers = Literal["video", "audio", "text"]
SHOWN = 5  # missing files listed in a message


class Results(list[Result]):
    """Search results, best first, with notices about the query.

    Attributes:
        notices: Sentences about unknown words, a truncated query, silent, clipped or damaged example files, and a
            filter that matches nothing.
    """

    def __init__(self, hits: Iterable[Result] = (), notices: Sequence[str] = ()) -> None:
        super().__init__(hits)
        self.notices = tuple(notices)

    @property
    def missing(self) -> list[str]:
        """Return the missing files of the results, each once."""
        return list(dict.fromkeys(hit.path for hit in self if hit.missing))

    def describe_missing(self) -> str | None:
        """Return a sentence that lists missing files of the results, or None if there are none."""
        missing, count = self.missing, len({hit.path for hit in self})
        if not missing:
            return None
        shown = ", ".join(missing[:SHOWN]) + (f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        files = f"{len(missing)} of the {count} result files" if count > 1 else "the result file"
        verb = "is" if len(missing) == 1 else "are"
        return f"{files} {verb} missing: {shown}; restore the missing files, or embed them at their new location"


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
    """Find the video segments (or audio segments, or captions) that are most similar to a query.

    Several queries are combined: the vectors of one space are averaged, then the cosines of all spaces. Text is
    compared in the video-text space, audio in the video-audio space, and a video in the spaces of the other queries, or
    in all spaces if there are no other queries.

    Args:
        index: Index or its directory.
        query: Text.
        k: Number of results.
        model: Model of the index or its directory. None uses the directory that is recorded in the index.
        video, audio: Example files or URLs, which another process reads. The windows of a long file are averaged. A
            result of `encode_file` is also accepted.
        answers: Modality of the results.
        path: Pattern (``*``, ``?``) of the paths to include: of the whole path, or, with a `RelativePattern`, of the
            path below some directories.
        where: Condition on a column of the manifest: ``split=test``, ``x_shape=ring``, ``labels=dog``. Of a split
            without rows, a synonym is used (see `vatt.datasets.splits.match_split`).
        spans: Merge adjacent windows into one result. The best 2 k windows are merged, but at most a tenth of the index
            and at least k. Further windows are added if they do not touch these. If False, results are single windows,
            and windows that mostly overlap with a better one are left out.

    Returns:
        Results, best first, with `Results.notices`.

    Raises:
        StoreError: The model is missing, or the index cannot be read or is empty.
        IndexMismatch: The index was made with another model, or has no vectors of the modality.
        InputError: The query is empty or has no word of the vocabulary, ``k`` is below 1, or a file cannot be read.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    index, model = opened(index, model)
    vocabulary = None if query is None else model_vocabulary(model)
    vectors, file_notices = _vectors(index, model, query, vocabulary, video, audio, answers)
    notices = [] if query is None or vocabulary is None else text_notices(model, query, vocabulary)
    notices += file_notices
    kwargs = {"modality": answers, "path": path, "where": where}
    space = next(iter(vectors))
    if not spans or answers == "text":
        hits = index.search_spaces(vectors, model.model_hash(), k, distinct=True, **kwargs)
    else:
        total = index.parts[answers, space].total if (answers, space) in index.parts else 0
        best = max(k, min(2 * k, total // 10))
        for count in (4 * best, 16 * best, 64 * best):  # more windows if too few results remain after merging
            windows = index.search_spaces(vectors, model.model_hash(), count, **kwargs)
            hits = merged(windows, best)[:k]
            if len(hits) == k or len(windows) < count:
                break
    if not hits and (notice := index.describe_filters(answers, space, path, where)):
        notices.append(notice)
    part = index.parts[answers, space]
    if where is not None and (notice := describe_split(part.rows, part.kept, where)):
        notices.append(f"the condition {where!r}: {notice}")
    return Results(hits, notices)


def opened(index: Index | str | Path, model: VATT | str | Path | None, verify: bool = True) -> tuple[Index, VATT]:
    """Load an index and its model from their directories.

    Args:
        index, model: see `search`.
        verify: see `vatt.retrieval.index.Index.load`.

    Raises:
        StoreError: The index cannot be read or is empty, or the model is missing.
        IndexMismatch: The index was made with another model.
    """
    if not isinstance(index, Index):
        index = Index.load(index, verify=verify)
    if not len(index):
        raise EmptyIndex(index.name)
    if model is None:
        if index.model_folder is None or not index.model_folder.is_dir():
            raise StoreError(
                f"the model of this index is not at {index.model_folder}; give its directory with --model DIR"
            )
        model = index.model_folder
    model = model if isinstance(model, VATT) else VATT.from_pretrained(model)
    index.check_model(model.model_hash())
    return index, model


def _vectors(
    index: Index,
    model: VATT,
    query: str | None,
    vocabulary: Vocabulary | None,
    video: str | Path | FileVectors | None,
    audio: str | Path | FileVectors | None,
    answers: Answers,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return (E,) of length 1 by space, the mean query in each space; and notices about the files."""
    required = {"video_text": query is not None, "video_audio": audio is not None}
    queries: dict[str, list[np.ndarray]] = {}
    notices = list[str]()
    if query is not None and vocabulary is not None:
        with torch.inference_mode():
            queries["video_text"] = [unit(encode_texts(model, [query], vocabulary)[0].numpy())[0]]
    if audio is not None:
        encoded = _encoded(model, audio)
        if ("audio", "video_audio") not in encoded.vectors:
            raise InputError(f"{_name(audio)} has no audio track")
        queries["video_audio"] = [encoded.pooled("audio", "video_audio").numpy()]
        notices += [f"{_name(audio)}: {notice}" for notice in encoded.notices.get("audio", ())]
    if video is not None:
        encoded = _encoded(model, video)
        encoded_in = [space for space in SPACES if ("video", space) in encoded.vectors]
        if not encoded_in:
            raise InputError(f"{_name(video)} has no video track")
        spaces = [space for space in encoded_in if (answers, space) in index.parts] or encoded_in[:1]
        for space in [space for space in spaces if required[space]] or spaces:
            queries.setdefault(space, []).append(encoded.pooled("video", space).numpy())
        notices += [f"{_name(video)}: {notice}" for notice in encoded.notices.get("video", ())]
    if not queries:
        raise InputError("the query is empty: give words, a video or an audio file")
    means = {space: unit(np.mean(vectors, axis=0, keepdims=True))[0] for space, vectors in queries.items()}
    return means, list(dict.fromkeys(notices))


def _encoded(model: VATT, file: str | Path | FileVectors) -> FileVectors:
    return file if isinstance(file, FileVectors) else encode_file(model, file, read_windows=windows_in_worker)


def _name(file: str | Path | FileVectors) -> str:
    return "the example file" if isinstance(file, FileVectors) else str(file)
