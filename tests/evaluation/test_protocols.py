from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vatt.evaluation.protocols import evaluate_manifest
from vatt.retrieval.store import EmbeddingWriter, StoreError


def row(name: str, modality: str, space: str, vector: list[float], text: str | None = None) -> dict:
    return {
        "id": name,
        "path": f"{name}.mp4",
        "start_s": 0.0,
        "end_s": 1.0,
        "modality": modality,
        "space": space,
        "text": text,
        "vector": np.array(vector, np.float32),
    }


def store(folder: Path, rows: list[dict]) -> Path:
    with EmbeddingWriter(folder, "model1") as writer:
        writer.add(rows)
    return folder


def test_windows_are_averaged_and_the_first_caption_counts(tmp_path: Path) -> None:
    rows = [
        # The windows of a mean to (1, 0), those of b to (0, 1).
        row("a", "video", "video_text", [3.0, 2.0]),
        row("a", "video", "video_text", [1.0, -2.0]),
        row("b", "video", "video_text", [0.0, 5.0]),
        row("a", "text", "video_text", [1.0, 0.1], "one"),
        row("a", "text", "video_text", [-1.0, 0.0], "not looked at"),
        row("b", "text", "video_text", [0.1, 1.0], "two"),
    ]
    report = evaluate_manifest(store(tmp_path, rows))
    assert set(report) == {"protocol", "model", "text_to_video", "video_to_text"}
    assert report["text_to_video"]["R@1"] == report["video_to_text"]["R@1"] == 100
    assert report["text_to_video"]["gallery"] == 2
    assert report["model"] == "model1"


def test_clips_with_one_side_only_are_counted_out(tmp_path: Path) -> None:
    rows = [row(n, "video", "video_audio", [i, 1.0]) for i, n in enumerate("abcd")]
    rows += [row(n, "audio", "video_audio", [i, 1.0]) for i, n in enumerate("abe")]
    report = evaluate_manifest(store(tmp_path, rows))
    assert report["audio_to_video"]["gallery"] == 2
    assert report["audio_to_video"]["missing"] == 3


def test_shared_captions_are_counted(tmp_path: Path) -> None:
    rows = []
    for i, (name, text) in enumerate([("a", "x"), ("b", "x"), ("c", "y")]):
        rows += [row(name, "video", "video_text", [i, 1.0]), row(name, "text", "video_text", [i, 1.0], text)]
    assert evaluate_manifest(store(tmp_path, rows))["text_to_video"]["same_text"] == 2


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to compare"):
        evaluate_manifest(store(tmp_path, [row("a", "video", "video_text", [1.0, 0.0])]))
