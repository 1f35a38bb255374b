"""Rows to training, validation and test of a classifier; views of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from vatt.datasets.clips import Views
from vatt.datasets.labelled import FormatChange, LabelledDataModule
from vatt.errors import InputError, ManifestError


@pytest.fixture
def write(tmp_path: Path, video_file: Path, sound_file: Path) -> Any:
    def write(rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "clips.jsonl"
        full = [{"path": str(video_file), "id": f"clip{i}", "start_s": i / 1000} | row for i, row in enumerate(rows)]
        path.write_text("\n".join(json.dumps(row) for row in full))
        return str(path)

    return write


def data_of(manifest: str, **options: Any) -> LabelledDataModule:
    return LabelledDataModule(manifest, base=TINY.to_dict(), num_workers=0, batch_size=4, **options)


def ids(clips: Any) -> list[str]:
    return [clip.id for clip in clips]


def test_splits_and_classes(write: Any) -> None:
    rows = [{"label": name, "split": split} for split in ("train", "val", "test", "spare") for name in ("b", "a")]
    data = data_of(write([*rows, {"label": "c", "split": "spare"}]))
    assert data.classes.names == ["a", "b"]
    train, val = data.parts[""]
    assert [ids(train), ids(val), ids(data.test_clips)] == [["clip0", "clip1"], ["clip2", "clip3"], ["clip4", "clip5"]]
    # What is not known in the test is an error before anything is trained.
    with pytest.raises(InputError, match=r"clips\.jsonl: 1 clips.*'z' is none of the 2 classes"):
        _ = data_of(write([*rows, {"label": "z", "split": "test"}])).classes


def test_folds_of_a_column_and_of_columns(write: Any) -> None:
    manifest = write([{"label": "a", "x_fold": 1 + i % 3} for i in range(6)])
    data = data_of(manifest, fold=2)
    data.setup("fit")
    assert ids(data.test_clips) == ["clip1", "clip4"]
    assert ids(data.parts[""][0]) == ["clip0", "clip2", "clip3", "clip5"]
    assert ids(data.parts[""][1]) == []
    with pytest.raises(ManifestError, match="fold 4; found: 1, 2, 3"):
        data_of(manifest, fold=4).setup("fit")
    uses = ("train", "test", "unused", "test")
    manifest = write([{"label": "a", "x_fold1": "train", "x_fold2": use} for use in uses])
    data = data_of(manifest, fold=2)
    data.setup("fit")
    assert (ids(data.parts[""][0]), ids(data.test_clips)) == (["clip0"], ["clip1", "clip3"])


@pytest.mark.parametrize("missing", ["NaN", "nan", "NA", "", " ", None, float("nan")])
def test_rows_without_a_fold_are_not_used(write: Any, missing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write([{"label": "a", "x_fold": fold} for fold in (1, 2.0, "2.0", missing)])
    data = data_of(manifest, fold=2)
    data.setup("fit")
    assert (ids(data.parts[""][0]), ids(data.test_clips)) == (["clip0"], ["clip1", "clip2"])
    assert "not used: 1 row" in capsys.readouterr().out


@pytest.mark.parametrize("fold", ["inf", 1.5, "one", [1, 2]])
def test_folds_are_integers(write: Any, fold: Any) -> None:
    with pytest.raises(ManifestError, match=r"the fold of 'clip1' is .*, not an integer"):
        data_of(write([{"label": "a", "x_fold": value} for value in (1, fold)]), fold=1).setup("fit")


def test_a_test_needs_no_rows_to_train_on(write: Any, tmp_path: Path) -> None:
    manifest = write([{"label": "b", "split": "test"}])
    with pytest.raises(InputError, match="classes"):
        _ = data_of(manifest).classes
    (tmp_path / "names.txt").write_text("a\nb\n")
    data = data_of(manifest, classes=str(tmp_path / "names.txt"))
    assert data.classes.names == ["a", "b"]
    (batch,) = data.test_dataloader()
    assert batch["target"].tolist() == [[0.0, 1.0]]
    with pytest.raises(ManifestError, match="no row has split"):
        _ = data_of(write([{"label": "b", "split": "other"}])).classes


def test_views_are_spread_over_time_and_along_the_longer_side(write: Any) -> None:
    manifest = write([{"label": "a", "split": "train"}, {"label": "a", "split": "test"}])
    data = data_of(manifest, views=Views(temporal=3, spatial=3))
    _ = data.classes
    (batch,) = data.test_dataloader()
    assert batch["id"] == ["clip1"] * 9
    video = batch["video"].float()
    assert video.shape[0] == 9
    # The number in the frames tells the time, of 3 s and windows of 1 s: 0, 1 and 2 s. The columns of the picture
    # are digits, so that squares at its two ends differ.
    assert not torch.equal(video[0], video[3])
    assert not torch.equal(video[3], video[6])
    assert not torch.equal(video[0], video[2])
    single = data_of(manifest)
    _ = single.classes
    (middle,) = single.test_dataloader()
    assert torch.equal(middle["video"][0], batch["video"][4])
    assert Views.spread(0.0, 3.0, 4) == [0.0, 1.0, 2.0, 3.0]
    assert Views.spread(0.0, 3.0, 1) == [1.5]


def test_only_the_modality_is_read(write: Any, sound_file: Path) -> None:
    rows = [{"path": str(sound_file), "label": "a"}] * 4
    data = data_of(write(rows), modality="audio", format=FormatChange(audio_s=0.5))
    _ = data.classes
    data.trainer = SimpleNamespace(
        max_steps=1, accumulate_grad_batches=1, global_rank=0, world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    (batch,) = data.train_dataloader()
    assert "video" not in batch
    assert batch["audio"].shape == (4, 512)
    with pytest.raises(InputError, match="text"):
        data_of(write(rows), modality="text")


def test_a_clip_that_cannot_be_read_has_no_valid_view(write: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    manifest = write([{"label": "a", "split": "train"}, {"label": "a", "split": "test", "path": "bad.mp4"}])
    data = data_of(manifest, views=Views(temporal=2))
    _ = data.classes
    (batch,) = data.test_dataloader()
    assert batch["video_valid"].tolist() == [False, False]
    assert [event["kind"] for event in batch["events"]] == ["unreadable"]
