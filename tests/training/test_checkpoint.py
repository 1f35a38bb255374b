from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import logged, train
from vatt.datasets.text import load_vocabulary
from vatt.models.vatt import VATT
from vatt.training.checkpoint import AtomicCheckpointIO


def test_the_best_weights_are_exported(corpus: Path, tmp_path: Path) -> None:
    _, module = train(corpus, tmp_path, steps=8, lr=1e-2)
    scores = logged(tmp_path, "val/rsum")
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] - 1 == max(scores, key=lambda step: (scores[step], -step))
    model = VATT.from_pretrained(tmp_path / "model")
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(best["state_dict"][f"backbone.{name}"], value, rtol=0, atol=0)
    assert load_vocabulary(tmp_path / "model" / "vocabulary").encode("a")
    says = json.loads((tmp_path / "model" / "training.json").read_text())
    assert says["steps"] == 8
    assert says["train_clips"] == 10
    assert says["weights"].startswith(f"of step {best['global_step']}")
    assert says["val/rsum"] == pytest.approx(max(scores.values()), rel=1e-5)
    # The module itself goes on with the last weights.
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=0, atol=0)


def test_no_model_is_exported_before_the_end(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=8, stop_after=4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(self: Any, checkpoint: Any, path: str, *_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning.fabric.plugins.TorchCheckpointIO.save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_run_that_was_killed_before_its_export_exports_when_it_is_resumed(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4)
    before = VATT.from_pretrained(tmp_path / "model").fingerprint()
    shutil.rmtree(tmp_path / "model")
    train(corpus, tmp_path, steps=4, resume=True)
    assert VATT.from_pretrained(tmp_path / "model").fingerprint() == before


def test_without_validation_the_last_weights_are_exported(corpus: Path, tmp_path: Path) -> None:
    _, module = train(corpus, tmp_path, steps=4, text=False, val_fraction=0.0)
    model = VATT.from_pretrained(tmp_path / "model")
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=0)
    says = json.loads((tmp_path / "model" / "training.json").read_text())
    assert says["weights"] == "of the last step"
