"""Retrieval protocols on stored embeddings: which vectors are compared, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vatt.evaluation.metrics import retrieval
from vatt.retrieval.store import Embeddings, StoreError

# What is compared with what, in which space.
COMPARED = (("text", "video", "video_text"), ("audio", "video", "video_audio"))


def evaluate_manifest(source: str | Path) -> dict[str, Any]:
    """Retrieval among the clips of an embedded manifest.

    Each clip's windows are averaged, then compared by cosine (VATT, appendix A.3.3); a text is the first caption of
    its clip. A direction is left out where the embeddings do not have its modalities. Clips that have only one of the
    two sides are in neither the queries nor the gallery; ``missing`` says how many.

    Args:
        source: folder of the embeddings.

    Returns:
        ``text_to_video``, ``video_to_text``, ``audio_to_video``, ``video_to_audio`` as in
        `vatt.evaluation.metrics.summarize`, each with ``missing`` and ``same_text`` (clips that share their caption
        with another), and the ``model``.

    Raises:
        StoreError: nothing can be compared.
    """
    store = Embeddings(source)
    kinds = store.kinds()
    report: dict[str, Any] = {"protocol": "manifest", "model": store.model}
    for first, second, space in COMPARED:
        if (first, space) not in kinds or (second, space) not in kinds:
            continue
        a, b = _by_clip(store, first, space), _by_clip(store, second, space)
        shared = [name for name in a if name in b]
        if not shared:
            continue
        x, y = torch.stack([a[name] for name in shared]), torch.stack([b[name] for name in shared])
        notes = {"missing": len(set(a) | set(b)) - len(shared)}
        if first == "text":
            texts = _first_texts(store, space)
            said = [texts[name] for name in shared]
            notes["same_text"] = sum(said.count(text) > 1 for text in said)
        report[f"{first}_to_{second}"] = retrieval(x, y) | notes
        report[f"{second}_to_{first}"] = retrieval(y, x) | notes
    if len(report) == 2:
        raise StoreError(f"{store.file}: no two modalities of the same clips in one space, so nothing to compare")
    return report


def _by_clip(store: Embeddings, modality: str, space: str) -> dict[str, Tensor]:
    """One vector for each clip, in the order of the store: the mean of its windows, or its first caption."""
    rows = store.select(modality, space)
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(rows.column("id")):
        groups.setdefault(name, []).append(place)
    if modality == "text":
        groups = {name: places[:1] for name, places in groups.items()}
    return {name: torch.from_numpy(np.mean(rows.vectors[places], axis=0)) for name, places in groups.items()}


def _first_texts(store: Embeddings, space: str) -> dict[str, str]:
    rows = store.select("text", space)
    texts: dict[str, str] = {}
    for name, text in zip(rows.column("id"), rows.column("text"), strict=True):
        texts.setdefault(name, text)
    return texts
