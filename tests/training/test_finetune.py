"""Fine-tuning, by the command line on tiny models, and its parts."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import TINY, tiny_backbone, tiny_model
from tests.hub.official.test_conversion import agnostic, specific
from tests.training.runs import labelled_rows, logged
from vatt.cli.main import main
from vatt.errors import InputError
from vatt.hub.official.weights import export
from vatt.models.heads import LinearClassifier
from vatt.models.vatt import VATT, Classifier
from vatt.training.finetune import FinetuneModule, Tuning, _clips_of
from vatt.training.history import in_words
from vatt.training.optim import Optimization, make_optimizer, parameter_groups
from vatt.training.pretrain import ConfigMismatch


@pytest.fixture(scope="session")
def labelled(corpus: Path) -> Path:
    """The corpus with labels."""
    path = corpus / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, labelled_rows(corpus))))
    return path


def arguments(labelled: Path, folder: Path, pretrained: Path, steps: int = 6) -> list[str]:
    return [
        f"--data.manifest={labelled}", f"--model.pretrained={pretrained}", f"--run.folder={folder}",
        "--data.batch_size=4", "--data.num_workers=0", "--data.classes", str(names(labelled)),
        "--run.checkpoint_steps=2", "--run.best_by=null", "--model.optimization.warmup_steps=1",
        "--trainer.accelerator=cpu", f"--trainer.max_steps={steps}", "--trainer.log_every_n_steps=1",
        "--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ]  # fmt: skip


def names(labelled: Path) -> Path:
    path = labelled.with_name("names.txt")
    path.write_text("warm\ncold\n")
    return path


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_fit_and_test_by_the_command_line(
    labelled: Path, pretrained: Path, tmp_path: Path, modality: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(labelled, tmp_path, pretrained), f"--model.modality={modality}", "--data.views.temporal=2"]
    assert main(["finetune", "fit", *given]) == 0
    assert len(logged(tmp_path, "train/loss")) == 6
    assert list(logged(tmp_path, "val/top1")) == [2, 5]
    model = Classifier.from_pretrained(tmp_path / "model")
    assert (model.modality, model.classes, model.format) == (modality, ["warm", "cold"], TINY)
    capsys.readouterr()
    assert main(["finetune", "test", *given]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 clips, 2 classes" in printed
    assert "chance (%)" in printed
    said = json.loads((tmp_path / "test.json").read_text())
    assert said["chance"] == {"majority class (%)": 50.0, "1 / classes (%)": 50.0}
    assert said["clips present"] == "2 of 2"
    assert said["tested"] == str(tmp_path / "model")
    assert said["fine-tuning"]["steps"] == 6
    assert set(said) >= {"protocol", "data", "seed", "configuration", "code", "hardware", "top-1 (%)"}
    assert "top-1 (%)" in (tmp_path / "test.md").read_text()
    with (tmp_path / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["warm", "cold"]


def test_a_test_does_not_depend_on_batches_and_workers(labelled: Path, pretrained: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    some = [
        row | {"labels": [row.pop("label")] if n % 3 else ["cold", "warm"], "split": "test"}
        for n, row in enumerate(rows)
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("\n".join(map(json.dumps, some)))
    torch.manual_seed(0)
    Classifier(
        tiny_backbone().tower("audio"), LinearClassifier(16, 2, multi_label=True), TINY, ["warm", "cold"]
    ).save_pretrained(tmp_path / "model")
    found = []
    for number, (batch_size, workers) in enumerate([(2, 0), (6, 0), (64, 0), (6, 2)]):
        given = arguments(manifest, tmp_path / str(number), tmp_path / "model")
        given += [
            "--model.modality=audio", "--model.multi_label=true", "--data.views.temporal=2",
            f"--data.batch_size={batch_size}", f"--data.num_workers={workers}",
        ]  # fmt: skip
        assert main(["finetune", "test", *given]) == 0
        report = json.loads((tmp_path / str(number) / "test.json").read_text())
        found.append([report["clips present"], report["mAP (%)"], report["AUC (%)"], report["d′"]])
    assert found[0][0] == f"{len(rows)} of {len(rows)}"
    assert found[1:] == found[:1] * 3


def test_a_validation_names_its_weights_and_writes_nothing(
    labelled: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(labelled, tmp_path, pretrained, steps=2)
    assert main(["finetune", "fit", *given]) == 0
    files = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for options, weights in (([], "model"), (["--ckpt_path=last"], "checkpoints/last.ckpt")):
        assert main(["finetune", "validate", *given, *options]) == 0
        printed = capsys.readouterr().out
        assert f"weights: {tmp_path / weights}\n" in printed
        assert "validation: top-1" in printed
        assert sorted(tmp_path.rglob("*")) == files
    assert main(["finetune", "validate", *given, "--trainer.limit_val_batches=0"]) == 2
    assert "trainer.limit_val_batches is 0, so there is nothing to evaluate" in capsys.readouterr().err
    assert main(["finetune", "test", *given, "--trainer.limit_test_batches=0"]) == 2
    assert "trainer.limit_test_batches is 0, so there is nothing to evaluate" in capsys.readouterr().err
    assert main(["finetune", "test", *given]) == 0
    assert len(list(tmp_path.glob("logs/version_*"))) == 1


def test_what_was_not_trained_is_not_tested(labelled: Path, pretrained: Path, tmp_path: Path, capsys: Any) -> None:
    given = arguments(labelled, tmp_path, pretrained)
    assert main(["finetune", "test", *given]) == 2
    assert "there is no trained classifier" in capsys.readouterr().err
    assert main(["finetune", "test", *given, "--ckpt_path=last"]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def test_an_unreadable_test_clip_is_named(labelled: Path, pretrained: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    rows.append({"path": str(tmp_path / "bad.mp4"), "id": "bad", "label": "cold", "split": "test"})
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    given = arguments(manifest, tmp_path / "run", pretrained, steps=2)
    assert main(["finetune", "fit", *given]) == 0
    assert main(["finetune", "test", *given]) == 1
    assert "not read: bad" in capsys.readouterr().out
    assert "test,unreadable,bad" in (tmp_path / "run" / "data_events.csv").read_text()
    said = json.loads((tmp_path / "run" / "test.json").read_text())
    assert said["clips present"] == "2 of 3"
    assert said["missing"] == "bad"


def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(labelled: Path, pretrained: Path, tmp_path: Path) -> None:
    """With mixup, DropToken, dropout and a moving average of the weights."""
    options = [
        "--model.tuning.mixup=1.0", "--model.tuning.drop_token=0.5", "--run.ema=0.5", "--model.optimization.lr=0.01",
        "--model.optimization.final_lr=0.0",
    ]  # fmt: skip
    assert main(["finetune", "fit", *arguments(labelled, tmp_path / "whole", pretrained), *options]) == 0
    # The schedule is that of six steps: the first part is killed after the checkpoint of step 4.
    parts = arguments(labelled, tmp_path / "parts", pretrained)
    with pytest.raises(Stop):
        main(["finetune", "fit", *parts, *options, "--trainer.callbacks=tests.training.test_finetune.StopAfterFive"])
    assert not (tmp_path / "parts" / "model").exists()
    assert main(["finetune", "fit", *parts, *options, "--ckpt_path=last"]) == 0
    whole, resumed = (Classifier.from_pretrained(tmp_path / name / "model") for name in ("whole", "parts"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert logged(tmp_path / "parts", "train/loss") == logged(tmp_path / "whole", "train/loss")


def test_a_training_that_cannot_be_measured_is_reported(
    labelled: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    manifest = labelled.with_name("without_splits.jsonl")
    manifest.write_text("\n".join(json.dumps(row | {"split": None}) for row in rows))
    given = arguments(labelled, tmp_path / "run", pretrained, steps=2)
    with pytest.warns(UserWarning, match="no validation clips and no test clips, so the accuracy .* will not be known"):
        assert main(["finetune", "fit", *given, f"--data.manifest={manifest}"]) == 0
    assert f"model: {tmp_path / 'run' / 'model'}\n" in capsys.readouterr().out  # and no test is suggested


def test_the_best_checkpoint_stays_if_the_previous_one_replaces_a_damaged_last_one(
    labelled: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments(labelled, tmp_path, pretrained, steps=4), "--run.best_by=val/top1"]
    given += ["--trainer.val_check_interval=2"]
    assert main(["finetune", "fit", *given]) == 0
    checkpoints = tmp_path / "checkpoints"
    step = torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"]
    os.truncate(checkpoints / "last.ckpt", 1000)
    capsys.readouterr()
    with pytest.warns(UserWarning, match=r"last.ckpt cannot be read: .* The previous checkpoint is used instead"):
        assert main(["finetune", "fit", *given, "--ckpt_path=last"]) == 0
    assert f"resuming from {checkpoints / 'previous.ckpt'}" in capsys.readouterr().out
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"] == step
    assert not list((tmp_path / "earlier").rglob("best.ckpt"))
    training = json.loads((tmp_path / "model" / "training.json").read_text())
    assert training["weights"].startswith(f"of step {step}, best by val/top1")


class Stop(BaseException):
    """Ends a run without anything that a run does in the end."""


class StopAfterFive(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= 5:
            raise Stop


def module(**options: Any) -> FinetuneModule:
    return FinetuneModule(["a", "b", "c"], TINY, backbone=tiny_backbone(), **options)


@pytest.mark.parametrize("shared", [False, True])
def test_a_tower_is_the_pretrained_one(shared: bool, tmp_path: Path) -> None:
    model = tiny_model(shared)
    model.save_pretrained(tmp_path)
    tuned = FinetuneModule(["a", "b"], TINY, "audio", str(tmp_path))
    assert all(part.training for part in tuned.modules())  # a saved model is loaded for use: without dropout
    audio = torch.randn(3, TINY.num_samples)
    tuned.model.eval()
    torch.testing.assert_close(tuned.model(audio=audio)["audio"], model(audio=audio)["audio"])
    assert tuned.model.backbone.modalities == ("audio",)
    assert {name.split(".")[1] for name in tuned.model.backbone.state_dict()} <= {"audio", "shared"}


def test_a_classifier_for_the_same_classes_is_kept(tmp_path: Path) -> None:
    first = module()
    first.model.save_pretrained(tmp_path)
    same = FinetuneModule(["a", "b", "c"], TINY, pretrained=str(tmp_path))
    assert not same.has_new_head
    torch.testing.assert_close(same.model.head.linear.weight, first.model.head.linear.weight)
    for other in (["a", "c", "b"], ["a", "b"]):
        assert FinetuneModule(other, TINY, pretrained=str(tmp_path)).has_new_head
    assert FinetuneModule(["a", "b", "c"], TINY, pretrained=str(tmp_path), multi_label=True).has_new_head


def test_other_lengths_and_sizes_are_taken() -> None:
    larger = TINY.from_dict(TINY.to_dict() | {"size": 48, "num_frames": 16})
    tuned = FinetuneModule(["a", "b"], larger, backbone=tiny_backbone(), tuning=Tuning(drop_token=0.5))
    logits = tuned.model(video=torch.rand(2, 16, 3, 48, 48))["logits"]
    assert logits.shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": None}, InputError, "model.pretrained.*model.backbone"),
        ({"modality": "smell"}, InputError, "video, audio, text, not smell"),
        ({"format": TINY.from_dict(TINY.to_dict() | {"size": 40})}, ConfigMismatch, "data.format does not fit"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FinetuneModule(**{"classes": ["a", "b"], "format": TINY, "backbone": tiny_backbone()} | options)


@pytest.mark.parametrize(("freeze", "frozen"), [(None, 0), (0, 1), (1, 2), (-1, 4)])
def test_freezing_from_below(freeze: int | None, frozen: int) -> None:
    tuned = module(tuning=Tuning(freeze=freeze))
    parts = ("tokenizers", "blocks.0", "blocks.1", "norm")
    found = [
        not any(p.requires_grad for n, p in tuned.model.backbone.named_parameters() if _part(n, part)) for part in parts
    ]
    assert found == [True] * frozen + [False] * (4 - frozen)
    assert all(p.requires_grad for p in tuned.model.head.parameters())
    optimizer, _ = make_optimizer(tuned, Optimization(warmup_steps=0), 5)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in tuned.parameters() if p.requires_grad}


def _part(name: str, part: str) -> bool:
    if part == "norm":
        return "blocks" not in name and "tokenizers" not in name and "agg" not in name
    return part in name


def test_rates_decay_layer_by_layer() -> None:
    tuned = module()
    how = Optimization(lr=1.0, final_lr=0.0, layer_decay=0.5, warmup_steps=0)
    rate = {id(p): group["lr"] for group in parameter_groups(tuned, how) for p in group["params"]}
    for name, parameter in tuned.named_parameters():
        depth = (
            0 if "tokenizers" in name or "agg" in name else 1 if "blocks.0" in name else 2 if "blocks.1" in name else 3
        )
        assert rate[id(parameter)] == 0.5 ** (3 - depth), name
    optimizer, schedule = make_optimizer(tuned, how, 4)
    first = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    schedule.step()
    for before, group in zip(first, optimizer.param_groups, strict=True):
        assert group["lr"] / before == pytest.approx(first and schedule.get_last_lr()[0] / first[0])


def test_gradients_of_backbone_and_classifier_are_clipped_apart() -> None:
    tuned = module(tuning=Tuning(clip_backbone=0.75, clip_head=None))
    for parameter in tuned.parameters():
        parameter.grad = torch.ones_like(parameter)
    head = copy.deepcopy([p.grad for p in tuned.model.head.parameters()])
    tuned.clip_gradients = lambda *rest: None  # type: ignore[method-assign]
    tuned.configure_gradient_clipping(torch.optim.SGD(tuned.parameters(), 0.1))
    norm = torch.stack([p.grad.norm() for p in tuned.model.backbone.parameters()]).norm()
    assert norm.item() == pytest.approx(0.75, rel=1e-4)
    for before, after in zip(head, tuned.model.head.parameters(), strict=True):
        torch.testing.assert_close(after.grad, before)


@pytest.mark.parametrize(
    ("names", "groups"), [(["a", "a", "b"], [[0, 1], [2]]), (["a"], [[0]]), (["a", "b", "b"], [[0], [1, 2]])]
)
def test_views_of_one_clip_are_put_together(names: Sequence[str], groups: list[list[int]]) -> None:
    assert [list(rows) for rows in _clips_of(names)] == groups


def test_logits_are_averaged_over_the_views_that_are_valid() -> None:
    tuned = module()
    tuned.eval()
    video = torch.rand(4, TINY.num_frames, 3, TINY.size, TINY.size)
    batch = {
        "id": ["x", "x", "y", "y"],
        "video": video,
        "video_valid": torch.tensor([True, True, False, True]),
        "target": torch.eye(3)[[0, 0, 1, 1]],
    }
    with torch.no_grad():
        tuned.on_validation_epoch_start()
        tuned.validation_step(batch, 0)
        logits = tuned.model(video=video)["logits"]
    torch.testing.assert_close(torch.cat(tuned.metrics.scores), torch.stack([logits[:2].mean(0), logits[3]]))
    batch["video_valid"][:] = False
    tuned.validation_step(batch, 0)
    assert tuned.missing == ["x", "y"]


def test_the_export_is_a_classifier(tmp_path: Path) -> None:
    tuned = module(tuning=Tuning(drop_token=0.25, dropout=0.3))
    tuned.export(TINY).save_pretrained(tmp_path)
    loaded = Classifier.from_pretrained(tmp_path)
    assert (loaded.drop_token, loaded.head.dropout.p, loaded.classes) == (0.25, 0.3, ["a", "b", "c"])
    with pytest.raises(InputError, match="holds a Classifier"):
        VATT.from_pretrained(tmp_path)


@pytest.mark.parametrize("make", [specific, agnostic])
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_converted_official_checkpoint_is_tuned(
    make: Callable[[], VATT], modality: str, labelled: Path, tmp_path: Path
) -> None:
    """Towers with dropout, head widths and projections of their own, modality-specific and modality-agnostic."""
    values = {f"weight/{name}": value for name, value in export(make()).items()}
    np.savez(tmp_path / "official.npz", **values)
    folder = tmp_path / "model"
    assert main(["convert", str(tmp_path / "official.npz"), str(folder), "--head_width", "8"]) == 0
    given = [*arguments(labelled, tmp_path / "run", folder, steps=2), f"--model.modality={modality}"]
    assert main(["finetune", "fit", *given]) == 0
    before, after = VATT.from_pretrained(folder), Classifier.from_pretrained(tmp_path / "run" / "model")
    weights, tuned = before.backbone.tower(modality).state_dict(), after.backbone.state_dict()
    assert weights.keys() == tuned.keys()
    changed = {name for name, value in weights.items() if not torch.equal(value, tuned[name])}
    assert len(changed) > len(weights) / 2
    assert all((weights[name] - tuned[name]).abs().max() < 0.01 for name in weights)


def test_batches_of_one_step_draw_apart(labelled: Path, pretrained: Path, tmp_path: Path) -> None:
    """Two batches of four, accumulated: their mixtures differ, and are those of every other run."""
    drawn: list[list[float]] = []
    for name in "ab":
        draws: list[float] = []
        Draws.seen = draws
        given = arguments(labelled, tmp_path / name, pretrained, steps=2)
        given += ["--trainer.accumulate_grad_batches=2", "--trainer.callbacks=tests.training.test_finetune.Draws"]
        assert main(["finetune", "fit", *given]) == 0
        drawn.append(draws)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


class Draws(L.Callback):
    """What PyTorch's random state would give at the beginning of each batch."""

    seen: ClassVar[list[float]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(torch.rand(()).item())


def test_finetuning_on_batches_of_a_loader(tmp_path: Path) -> None:
    """A module without configuration, data module or manifest: a loader of batches is enough."""
    batch = {"id": ["a", "b"], "video": torch.randn(2, 8, 3, 32, 32), "target": torch.eye(2), "events": []}
    batch["video_valid"] = torch.tensor([True, True])
    tuner = FinetuneModule(["a", "b"], TINY, backbone=tiny_backbone(), optimization=Optimization(warmup_steps=1))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=2, enable_model_summary=False, **quiet)
    trainer.fit(tuner, DataLoader([batch, batch], batch_size=None))
    assert tuner.origin["data"] is None
    assert in_words(tuner.origin["data"]) == "clips of no manifest"
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    tuner.on_load_checkpoint(torch.load(tmp_path / "kept.ckpt", weights_only=True))
    assert tuner.origin["step"] == 2


@pytest.mark.parametrize(
    ("name", "value"), [("mixup", math.nan), ("drop_token", 1.0), ("clip_head", 0.0), ("clip_backbone", math.inf)]
)
def test_numbers_that_no_tuning_can_have_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"model.tuning.{name} .* not {value}"):
        Tuning(**{name: value})
