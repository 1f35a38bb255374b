from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import TINY
from tests.datasets.loading.crashing import crash_on
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.loading.loader import ClipLoader
from vatt.datasets.sources import Source
from vatt.datasets.transforms import Augment
from vatt.errors import InputError, ManifestError
from vatt.structures import Batch


def manifest(folder: Path, video: Path, splits: list[str | None]) -> str:
    path = folder / "clips.jsonl"
    rows = [
        {"path": str(video), "id": f"clip{i}", "start_s": i / 1000, "split": split} for i, split in enumerate(splits)
    ]
    path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if v}) for row in rows))
    return str(path)


def module(folder: Path, video: Path, splits: list[str | None], **options: object) -> ClipDataModule:
    data = ClipDataModule(manifest(folder, video, splits), TINY, batch_size=2, num_workers=0, **options)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_splits_are_taken_by_name(tmp_path: Path, video_file: Path) -> None:
    data = module(tmp_path, video_file, ["train", "train", "val", "test"])
    assert [clip.id for clip in data.train_clips] == ["clip0", "clip1"]
    assert [clip.id for clip in data.val_clips] == ["clip2"]


def test_without_validation_rows_a_part_is_held_out_of_the_training_rows(tmp_path: Path, video_file: Path) -> None:
    data = module(tmp_path, video_file, ["train"] * 40 + ["test"] * 10, val_fraction=0.3)  # all of one file
    train, val = {c.id for c in data.train_clips}, {c.id for c in data.val_clips}
    assert not train & val
    assert train | val == {f"clip{i}" for i in range(40)}
    assert 5 <= len(val) <= 20


def test_a_misspelled_validation_split_is_an_error(tmp_path: Path, video_file: Path) -> None:
    with pytest.raises(ManifestError, match=r"no row has split 'vall'; column 'split' holds train, val$"):
        module(tmp_path, video_file, ["train", "train", "val"], val_split="vall")


def test_without_a_split_column_everything_is_trained_on(tmp_path: Path, video_file: Path) -> None:
    data = module(tmp_path, video_file, [None] * 4, val_fraction=0.0)
    assert len(data.train_clips) == 4
    assert data.val_dataloader() == []


def test_a_resumed_loader_goes_on_with_the_next_batch(tmp_path: Path, video_file: Path) -> None:
    data = module(tmp_path, video_file, ["train"] * 5, val_fraction=0.0)
    root = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    data.trainer = SimpleNamespace(max_steps=6, accumulate_grad_batches=1, global_rank=0, world_size=1, strategy=root)  # type: ignore[assignment]
    whole = [batch["id"] for batch in data.train_dataloader()]
    loader = data.train_dataloader()
    first = [batch["id"] for _, batch in zip(range(2), loader, strict=False)]
    resumed = data.train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert len(resumed) == 6
    assert first + [batch["id"] for batch in resumed] == whole


def test_a_file_of_two_sources_is_in_a_batch_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same six files, by relative and absolute paths, and two halves of a seventh one in the second source."""
    for i in range(7):
        (tmp_path / f"{i}.mp4").touch()
    half = {"path": "6.mp4", "start_s": 0.0, "end_s": 5.0}
    rows = {
        "first": [{"path": f"{i}.mp4"} for i in range(6)],
        "second": [*({"path": f"{tmp_path}/./{i}.mp4"} for i in range(6)), half, half | {"start_s": 5.0, "end_s": 9.0}],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    sources = {name: Source(str(tmp_path / f"{name}.jsonl")) for name in rows}
    data = ClipDataModule(None, TINY, sources=sources, batch_size=4, num_workers=0, val_fraction=0.0)
    data.setup("fit")
    root = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    data.trainer = SimpleNamespace(max_steps=50, accumulate_grad_batches=1, global_rank=0, world_size=1, strategy=root)  # type: ignore[assignment]
    batches = list(data.train_dataloader().batch_sampler)
    clips = [data.parts[name][0] for name in rows]
    for batch in batches:
        moments = {(Path(clip.path).name, clip.start_s) for clip in (clips[source][i] for source, i, _ in batch)}
        assert len(moments) == 4
    assert {(source, i) for batch in batches for source, i, _ in batch} == {
        (source, i) for source in range(2) for i in range(len(clips[source]))
    }
    assert "14 training clips, at most 8 of which do not overlap in time: " in capsys.readouterr().out


def test_a_crash_is_a_replaced_clip_also_after_a_resumption(
    tmp_path: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the file had been unreadable from the beginning; no batch is lost or comes twice."""
    paths = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in paths:
        path.symlink_to(video_file)
    rows = [{"path": str(path), "id": path.stem} for path in paths]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def loader(num_workers: int = 2) -> ClipLoader:
        options = {"batch_size": 2, "val_fraction": 0.0, "start_method": "fork", "num_workers": num_workers}
        data = ClipDataModule(str(tmp_path / "clips.jsonl"), TINY, **options)
        data.setup("fit")
        root = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
        data.trainer = SimpleNamespace(
            max_steps=6, accumulate_grad_batches=1, global_rank=0, world_size=1, strategy=root
        )
        return data.train_dataloader()

    def ids(batches: Iterable[Batch]) -> list[list[str]]:
        return [batch["id"] for batch in batches]

    crash_on(monkeypatch, "3.mp4")
    batches = list(crashing := loader())
    events = [event for batch in batches for event in batch["events"]]
    assert {(event["kind"], event["id"], event["path"]) for event in events} == {("crashed", "3", str(paths[3]))}
    assert "was killed by SIGSEGV" in events[0]["reason"]
    monkeypatch.undo()
    resumed = loader()
    resumed.load_state_dict(crashing.state_dict() | {"step": 0, "slot": 0})
    assert ids(resumed) == ids(batches)  # the file is readable now, and still excluded
    paths[3].unlink()
    paths[3].write_bytes(b"nothing")
    assert ids(loader(num_workers=0)) == ids(batches)


def test_the_length_of_the_training_must_be_given(tmp_path: Path, video_file: Path) -> None:
    data = module(tmp_path, video_file, ["train"] * 4, val_fraction=0.0)
    with pytest.raises(ValueError, match=r"trainer\.max_steps"):
        data.train_dataloader()


def test_speed_requires_audio_without_video(tmp_path: Path) -> None:
    faster = Augment(speed=(0.9, 1.1))
    with pytest.raises(InputError, match="requires audio without video"):
        ClipDataModule("clips.csv", augment=faster)
    with pytest.raises(InputError, match="requires audio without video"):
        ClipDataModule(sources={"a": Source("clips.csv", augment=faster)})
    ClipDataModule("clips.csv", augment=faster, modalities=["audio"])
    with pytest.raises(InputError, match=r"data\.modalities"):
        ClipDataModule("clips.csv", modalities=["text"])


def test_color_augmentation_parameters_stay_on_the_cpu(tmp_path: Path, video_file: Path) -> None:
    """Otherwise these numbers would be read from the device in every step."""
    data = module(tmp_path, video_file, ["train", "train"])
    data.trainer = None
    batch = {"id": ["a"], "video": torch.zeros(1, 2), "video_valid": torch.ones(1), "video_color": torch.ones(1, 4)}
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {name: x.device.type for name, x in moved.items() if name != "id"} == {
        "video": "meta",
        "video_valid": "meta",
        "video_color": "cpu",
    }
    assert torch.equal(moved["video_color"], torch.ones(1, 4))
