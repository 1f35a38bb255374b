"""Training on several datasets, each of which lacks something."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.conftest import numbered_frames
from tests.training.runs import logged, train
from vatt.datasets.manifest import read_manifest
from vatt.datasets.sources import Source
from vatt.media.encoding import write_media
from vatt.objectives.losses import mil_nce, nce
from vatt.structures import Batch


@pytest.fixture(scope="module")
def sources(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """One dataset without texts, at another frame rate and with labels, and one whose files have no sound."""
    folder = tmp_path_factory.mktemp("sources")
    rows = {"heard": [], "told": []}
    for i, clip in enumerate(read_manifest(corpus / "manifest.jsonl")[:8]):
        rows["heard"].append({"id": str(i), "path": clip.path, "label": "rare" if i == 0 else "common"})
        path = folder / f"silent{i}.mp4"
        write_media(path, numbered_frames(75, 48, 48) // (1 + i % 3), 25)
        rows["told"].append({"id": str(i), "path": str(path), "text": clip.texts[0].text})
    broken = folder / "broken.mp4"
    broken.write_bytes(b"not a video")
    rows["told"].append({"id": "broken", "path": str(broken), "text": "a red ring"})
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {
        "heard": Source(str(folder / "heard.jsonl"), weight=3, fps=10.0, balanced=True),
        "told": Source(str(folder / "told.jsonl"), weight=1),
    }


class Keep(L.Callback):
    """Keeps the batches and the losses."""

    def __init__(self) -> None:
        self.seen: list[tuple[Batch, dict[str, float]]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.seen.append((batch, {name: float(value) for name, value in outputs.items()}))


def run(
    corpus: Path, folder: Path, sources: dict[str, Source], steps: int, **options: Any
) -> list[tuple[Batch, dict[str, float]]]:
    keep = Keep()
    train(corpus, folder, steps, sources=sources, val_fraction=0.0, watch=keep, **options)
    return keep.seen


def test_each_dataset_takes_part_with_what_it_has(corpus: Path, sources: dict[str, Source], tmp_path: Path) -> None:
    seen = run(corpus, tmp_path, sources, 12)
    counts = Counter(name.split("/")[0] for batch, _ in seen for name in batch["id"])
    assert counts["heard"] / counts.total() == pytest.approx(0.75, abs=0.15)
    for batch, losses in seen:
        for i, name in enumerate(batch["id"]):
            heard = name.startswith("heard/")
            assert batch["video_valid"][i]
            assert batch["audio_valid"][i] == heard
            assert batch["text_valid"][i].any() == (not heard)
        assert batch["video"].shape[1:] == (8, 3, 32, 32)
        assert batch["audio"].shape[1:] == (1024,)
        terms = {"video_audio": batch["audio_valid"].any(), "video_text": batch["text_valid"].any()}
        for name, there in terms.items():
            assert (losses[name] > 0) == bool(there)
    rare = Counter(name for batch, _ in seen for name in batch["id"] if name.startswith("heard/"))
    assert rare["heard/0"] / rare.total() == pytest.approx(0.5, abs=0.1)  # one of two classes


def test_losses_are_those_of_the_valid_pairs_alone() -> None:
    """What stands in the places of missing modalities changes nothing."""
    video, audio, text = torch.randn(6, 16), torch.randn(6, 16), torch.randn(6, 2, 16)
    valid = torch.tensor([True, False, True, True, False, True])
    text_valid = torch.stack([~valid, ~valid], dim=1)
    losses = nce(video, audio, y_valid=valid), mil_nce(video, text, y_valid=text_valid)
    audio[~valid], text[valid] = 1e3, -1e3
    again = nce(video, audio, y_valid=valid), mil_nce(video, text, y_valid=text_valid)
    assert torch.equal(torch.stack(losses), torch.stack(again))


def test_an_unreadable_clip_is_replaced_and_named(corpus: Path, sources: dict[str, Source], tmp_path: Path) -> None:
    only = {"told": sources["told"], "heard": sources["heard"]}
    seen = run(corpus, tmp_path, only, 20)
    again = run(corpus, tmp_path / "again", only, 20, num_workers=2)
    assert [batch["id"] for batch, _ in seen] == [batch["id"] for batch, _ in again]
    assert all("broken" not in name for batch, _ in seen for name in batch["id"])
    with (tmp_path / "data_events.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["id"]) for row in rows] == [("unreadable", "told/broken")]
    assert "plain text" in rows[0]["reason"]
    assert max(logged(tmp_path, "data/unreadable").values()) >= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mix_is_resumed_in_its_middle(corpus: Path, sources: dict[str, Source], tmp_path: Path, workers: int) -> None:
    whole = run(corpus, tmp_path / "whole", sources, 8)
    first = run(corpus, tmp_path / "parts", sources, 8, stop_after=4, num_workers=workers)
    rest = run(corpus, tmp_path / "parts", sources, 8, resume=True, num_workers=2 - workers)
    assert [batch["id"] for batch, _ in first + rest] == [batch["id"] for batch, _ in whole]
    assert [losses["loss"] for _, losses in first + rest] == [losses["loss"] for _, losses in whole]
