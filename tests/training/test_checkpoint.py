from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import tiny_backbone
from tests.training.runs import logged, train
from vatt.datasets.text.vocabularies import load_vocabulary
from vatt.models.backbone import Backbone
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.objectives.jepa import JEPA
from vatt.training.checkpoint import BestCheckpoint, best_score
from vatt.training.checkpoint_io import KEYS, AtomicCheckpointIO, DamagedCheckpoint, is_intact
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule


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


@pytest.mark.parametrize(
    ("monitor", "best"),
    [("val/rsum", 9.0), ("val/text_to_video_R@1", 9.0), ("val/text_to_video_MedR", 2.0), ("val/missing", 2.0)],
)
def test_the_best_checkpoint_has_the_lowest_value_of_metrics_that_are_better_when_low(
    tmp_path: Path, monitor: str, best: float
) -> None:
    callback = BestCheckpoint(tmp_path, monitor)
    for value in (5.0, 2.0, 9.0, 4.0):
        if callback.check_monitor_top_k(L.Trainer(accelerator="cpu", logger=False), torch.tensor(value)):
            callback.best_k_models = {"best.ckpt": torch.tensor(value)}
            callback.kth_best_model_path = "best.ckpt"
    assert callback.best_k_models["best.ckpt"] == best


def test_no_model_is_exported_before_the_end(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=8, stop_after=4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_run_that_was_killed_before_its_export_exports_when_it_is_resumed(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4)
    before = VATT.from_pretrained(tmp_path / "model").model_hash()
    shutil.rmtree(tmp_path / "model")
    train(corpus, tmp_path, steps=4, resume=True)
    assert VATT.from_pretrained(tmp_path / "model").model_hash() == before


def test_without_validation_the_last_weights_are_exported(corpus: Path, tmp_path: Path) -> None:
    _, module = train(corpus, tmp_path, steps=4, text=False, val_fraction=0.0)
    model = VATT.from_pretrained(tmp_path / "model")
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(module.backbone.state_dict()[name], value, rtol=0, atol=0)
    says = json.loads((tmp_path / "model" / "training.json").read_text())
    assert says["weights"] == "of the last step"


def test_of_feature_prediction_the_target_encoder_is_exported(corpus: Path, tmp_path: Path) -> None:
    """And a further training begins with it and with the predictor."""

    def made(pretrained: str | None = None) -> PretrainModule:
        tokenizer = tiny_backbone().tokenizers["video"]
        tower = Backbone({"video": tokenizer}, {"video": Transformer(16, 2, 2, agg=False)})
        objective = JEPA(inner=8, depth=1, heads=2, momentum=(0.5, 1.0))
        return PretrainModule(tower, objective, Optimization(lr=1e-2, warmup_steps=1), pretrained=pretrained)

    _, module = train(corpus, tmp_path, steps=4, text=False, val_fraction=0.0, module=made())
    saved = VATT.from_pretrained(tmp_path / "model").backbone.state_dict()
    target, online = module.objective.target.state_dict(), module.backbone.state_dict()
    assert all(torch.equal(value, target[name]) for name, value in saved.items())
    assert not all(torch.equal(value, online[name]) for name, value in saved.items())
    beside = load_file(tmp_path / "model" / "objective.safetensors")
    assert beside.keys() == {f"predictor.{name}" for name in module.objective.predictor.state_dict()}
    torch.manual_seed(1)
    again = made(str(tmp_path / "model"))
    for mine in (again.backbone, again.objective.target):
        assert all(torch.equal(value, mine.state_dict()[name]) for name, value in saved.items())
    for name, value in module.objective.predictor.state_dict().items():
        assert torch.equal(again.objective.predictor.state_dict()[name], value)


class SendSignal(L.Callback):
    """Sends a signal to the process during a step, before the next validation, or during that validation."""

    def __init__(self, number: signal.Signals, step: int, where: str) -> None:
        self.number, self.step, self.where = number, step, where

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step + 1 == self.step and self.where == "step":
            signal.raise_signal(self.number)

    def on_validation_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and self.where == "before validation":
            signal.raise_signal(self.number)

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and self.where == "in validation":
            signal.raise_signal(self.number)


Runs = dict[float | None, tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def uninterrupted_runs(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[float | None, tuple[Path, dict[str, Any]]]:
    """Return directories and final weights of uninterrupted trainings of 10 steps, by decay of the average."""
    runs = {}
    for ema in (None, 0.5):
        folder = tmp_path_factory.mktemp("uninterrupted")
        _, module = train(corpus, folder, steps=10, ema=ema)
        runs[ema] = folder, {name: value.clone() for name, value in module.state_dict().items()}
    return runs


@pytest.fixture
def default_hangup() -> Iterator[None]:
    """Restore the default action of SIGHUP, which is ignored if the tests run under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, handler)


# Checkpoints every 2 steps, validation every 4.
@pytest.mark.usefixtures("default_hangup")
@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize(
    ("number", "step", "where"),
    [
        (signal.SIGTERM, 3, "step"),
        (signal.SIGINT, 4, "step"),
        (signal.SIGINT, 4, "before validation"),
        (signal.SIGTERM, 8, "in validation"),
        (signal.SIGHUP, 5, "step"),
    ],
)
def test_signal_saves_a_checkpoint_that_resumes_exactly(
    corpus: Path,
    tmp_path: Path,
    uninterrupted_runs: Runs,
    number: signal.Signals,
    step: int,
    where: str,
    ema: float | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    uninterrupted, weights = uninterrupted_runs[ema]
    with pytest.raises(SystemExit) as stopped:
        train(corpus, tmp_path, steps=10, watch=SendSignal(number, step, where), ema=ema)
    assert stopped.value.code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}[number]
    name = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGHUP: "SIGHUP"}[number]
    assert f"{name}: stopped after step {step}; resume with --ckpt_path last" in capsys.readouterr().out
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    _, resumed = train(corpus, tmp_path, steps=10, resume=True, ema=ema)
    for key, value in weights.items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)
    for key in ("train/loss", "val/rsum"):
        assert logged(tmp_path, key) == logged(uninterrupted, key), key
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_training_can_be_stopped_repeatedly_in_validation(
    corpus: Path, tmp_path: Path, uninterrupted_runs: Runs
) -> None:
    uninterrupted, weights = uninterrupted_runs[None]
    for step, where in ((4, "in validation"), (4, "before validation"), (7, "step"), (8, "in validation")):
        with pytest.raises(SystemExit):
            train(
                corpus, tmp_path, steps=10, resume=(tmp_path / "checkpoints").is_dir(),
                watch=SendSignal(signal.SIGTERM, step, where),
            )  # fmt: skip
    _, resumed = train(corpus, tmp_path, steps=10, resume=True)
    for key, value in weights.items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)
    assert logged(tmp_path, "val/rsum") == logged(uninterrupted, "val/rsum")


def test_last_checkpoint_is_saved_at_the_end(corpus: Path, tmp_path: Path) -> None:
    """The interval of checkpoints does not matter. With a moving average, it also has the raw weights."""
    train(corpus, tmp_path, steps=5, every=100, ema=0.5)
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    raw, average = (
        last[name]["backbone.tokenizers.video.project.weight"] for name in ("current_model_state", "state_dict")
    )
    assert not torch.equal(raw, average)


def test_early_stopping_saves_a_last_checkpoint(corpus: Path, tmp_path: Path) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

    train(corpus, tmp_path, steps=8, every=100, watch=Stop(), val_fraction=0.0)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("left", [0, 10, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_off_gives_way_to_the_one_before(corpus: Path, tmp_path: Path, left: float) -> None:
    _, whole = train(corpus, tmp_path / "whole", steps=8)
    train(corpus, tmp_path / "parts", steps=8, stop_after=5)
    checkpoints = tmp_path / "parts" / "checkpoints"
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in checkpoints.glob("*s*.ckpt")}
    assert (steps["last.ckpt"], steps["previous.ckpt"]) == (4, 2)
    size = (checkpoints / "last.ckpt").stat().st_size
    os.truncate(checkpoints / "last.ckpt", int(left if left > 1 else left * size))
    with pytest.warns(UserWarning, match=r"last.ckpt cannot be read: .*used instead: .*previous.ckpt"):
        _, resumed = train(corpus, tmp_path / "parts", steps=8, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_there_may_be_no_other_one(tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(DamagedCheckpoint, match=f"{name} cannot be read: .*Choose another checkpoint"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / name, weights_only=True)
    with pytest.raises(FileNotFoundError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "none.ckpt")


def test_changed_bytes_are_detected(tmp_path: Path) -> None:
    """`torch.load` does not compare checksums."""
    path, version = tmp_path / "last.ckpt", {"pytorch-lightning_version": L.__version__}
    content = dict.fromkeys(KEYS, 0) | version | {"state_dict": {"x": torch.zeros(1000)}}
    for step in (1, 2):
        AtomicCheckpointIO().save_checkpoint(content | {"global_step": step}, path)
    data = bytearray(path.read_bytes())
    data[data.index(bytes(4000)) + 2000] = 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="The previous checkpoint is used instead"):
        assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1
    path.rename(tmp_path / "best.ckpt")
    with pytest.raises(DamagedCheckpoint, match=r"best.ckpt cannot be read: it is truncated, was modified"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")


@pytest.mark.parametrize(("offset", "value"), [(6, 1), (8, 99), (40, 255)], ids=["encrypted", "method", "data"])
def test_archives_that_cannot_be_unpacked_are_damaged(tmp_path: Path, offset: int, value: int) -> None:
    """Flags and compression method are in the local header and, two bytes later, in the central directory."""
    path = tmp_path / "best.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(256)) * 9)
    assert is_intact(path)
    data = bytearray(path.read_bytes())
    data[offset] = value
    if offset < 30:
        data[data.index(b"PK\x01\x02") + offset + 2] = value
    path.write_bytes(data)
    assert not is_intact(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": torch.zeros(2)}, "it has no state_dict, epoch, global_step, pytorch-lightning_version"),
        ([1, 2], "it has no state_dict"),
        ({"state_dict": Path("/")}, "it contains Python objects that are not loaded"),
    ],
)
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(DamagedCheckpoint, match=f"other.ckpt is not a training checkpoint: {message}"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "other.ckpt")


def test_a_damaged_best_checkpoint_has_no_score(tmp_path: Path) -> None:
    path, key = tmp_path / "best.ckpt", "BestCheckpoint{'monitor': 'val/rsum'}"
    states: list[Any] = [{}, {"best_model_score": "high"}, {"best_model_score": None}, [1]]
    for content in ([1], {}, {"callbacks": [1]}, {"callbacks": {}}, *({"callbacks": {key: state}} for state in states)):
        torch.save(content, path)
        assert best_score(path) is None, content
    torch.save({"callbacks": {key: {"best_model_score": torch.tensor(7.5)}}, "x": torch.zeros(9_999)}, path)
    assert best_score(path) == 7.5
    for size in (0, 10, 5_000):
        os.truncate(path, size)
        assert best_score(path) is None
    assert best_score(tmp_path) is best_score(tmp_path / "none.ckpt") is None


def test_files_cannot_always_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        AtomicCheckpointIO().save_checkpoint({"step": step}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "previous.ckpt", weights_only=True) == {"step": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("where", ["before validation", "in validation"])
def test_no_worker_outlives_a_stopped_training(corpus: Path, tmp_path: Path, where: str) -> None:
    """Python would wait for them forever on exit."""
    with pytest.raises(SystemExit):
        train(corpus, tmp_path, steps=10, watch=SendSignal(signal.SIGINT, 8, where), num_workers=1)
    assert multiprocessing.active_children() == []
