"""What a fine-tuned model says of its training, and what is refused because of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY, tiny_backbone, tiny_model
from tests.training.runs import labelled_rows, logged
from vatt.cli.main import main
from vatt.errors import InputError
from vatt.evaluation.report import config_hash
from vatt.models.heads import HierarchicalProjection, LinearClassifier
from vatt.models.vatt import VATT, Classifier
from vatt.objectives.videomae import VideoMAE
from vatt.training.finetune import FinetuneModule, Tuning
from vatt.training.history import HISTORY, OBJECTIVE, changes, describe_difference, history_of
from vatt.training.pretrain import load_objective


@pytest.mark.parametrize(
    ("own", "labels", "difference"),
    [
        (["a", "b"], ["a", "b"], None),
        (None, ["a"], "no class names"),
        (
            ["0", "1", "10", "2"],
            ["0", "1", "2", "10"],
            "the same 4 classes in another order: class 2 is '10'",
        ),
        (["0.0", "1.0"], ["0", "1"], "the same classes, written once as integers and once as floats: class 0 is '0.0'"),
        (["a", "b"], ["a", "c", "d"], "other classes: 1 of its 2 are among the 3 of the data; class 1 is 'b' instead"),
    ],
)
def test_differences_of_classes_are_described(own: list[str] | None, labels: list[str], difference: str | None) -> None:
    described = describe_difference(own, labels)
    assert described == difference if difference is None else described.startswith(difference)


def test_a_classifier_of_other_classes_is_reported(tmp_path: Path) -> None:
    backbone = tiny_backbone().tower("video")
    Classifier(backbone, LinearClassifier(backbone.width("video"), 2), TINY, ["0", "1"]).save_pretrained(tmp_path / "m")
    with pytest.warns(UserWarning, match="a new classifier is trained, because the classifier of .*m has the same 2"):
        FinetuneModule(["1", "0"], TINY, pretrained=str(tmp_path / "m"))


@pytest.fixture(scope="module")
def folds(corpus: Path) -> Path:
    path = corpus / "folds.jsonl"
    rows = [row | {"split": None, "x_fold": 1 + number % 3} for number, row in enumerate(labelled_rows(corpus))]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def given(manifest: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"--data.manifest={manifest}", f"--run.folder={folder}", "--data.batch_size=4", "--data.num_workers=0",
        "--run.checkpoint_steps=2", "--model.optimization.warmup_steps=1", "--trainer.accelerator=cpu",
        "--trainer.max_steps=4", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", "--model.modality=audio", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def first_fold(folds: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on all but fold 1."""
    run = tmp_path_factory.mktemp("run")
    assert main(["finetune", "fit", *given(folds, run, "--data.fold=1", f"--model.pretrained={pretrained}")]) == 0
    return run


def test_the_report_is_of_what_was_trained(first_fold: Path, folds: Path, pretrained: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(first_fold, run)
    tiny_model().save_pretrained(other)
    asked = given(folds, run, "--data.fold=1", f"--model.pretrained={other}", "--seed_everything=9")
    assert main(["finetune", "test", *asked]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["pretrained"] == str(pretrained)
    assert report["seed"] == 0
    assert report["fine-tuning"]["steps"] == 4
    assert report["trained on"].endswith("of " + str(folds) + ", all but fold 1")
    page = (run / "model" / "README.md").read_text()
    assert f"| top-1 (%) | {report['top-1 (%)']:.2f} |" in page
    assert "| part | all but fold 1 |" in page
    whole = report["configuration"]
    assert main(["finetune", "test", *asked, f"--ckpt_path={run}/checkpoints/last.ckpt"]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["tested"].endswith("last.ckpt, step 4")
    assert (report["configuration"], report["seed"], report["pretrained"]) == (whole, 0, str(pretrained))


def test_clips_of_the_test_may_not_have_been_learned(
    first_fold: Path, folds: Path, pretrained: Path, tmp_path: Path, capsys: Any
) -> None:
    second = given(folds, first_fold, "--data.fold=2", f"--model.pretrained={pretrained}")
    checkpoint = f"--ckpt_path={first_fold}/checkpoints/last.ckpt"
    for words in (["test", *second], ["test", *second, checkpoint], ["fit", *second, checkpoint]):
        assert main(["finetune", *words]) == 2
        assert "all but fold 1" in capsys.readouterr().err
    assert not (first_fold / "test.json").exists()
    assert main(["finetune", "fit", *given(folds, tmp_path, f"--model.pretrained={pretrained}")]) == 2
    assert "choose a fold" in capsys.readouterr().err


def test_other_classes_are_refused(
    first_fold: Path, folds: Path, pretrained: Path, tmp_path: Path, capsys: Any
) -> None:
    other = tmp_path / "clips.jsonl"
    other.write_text(folds.read_text().replace("warm", "alpha").replace("cold", "beta"))
    asked = given(other, tmp_path, "--data.fold=1", f"--model.pretrained={pretrained}")
    assert main(["finetune", "test", *asked, f"--ckpt_path={first_fold}/checkpoints/last.ckpt"]) == 2
    assert "it has other classes: 0 of its 2 are among the 2 of the data; class 0 is 'cold'" in capsys.readouterr().err
    asked = given(folds, first_fold, "--data.fold=1", f"--model.pretrained={pretrained}", "--model.multi_label=true")
    assert main(["finetune", "test", *asked]) == 2
    assert "multi_label False, not True" in capsys.readouterr().err
    asked = given(folds, first_fold, "--data.fold=1", f"--model.pretrained={pretrained}", "--model.modality=video")
    assert main(["finetune", "test", *asked]) == 2
    assert "modality audio, not video" in capsys.readouterr().err


def test_a_checkpoint_of_another_size_is_named(first_fold: Path, folds: Path, tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    VATT(
        tiny_backbone(width=32), HierarchicalProjection(dict.fromkeys(("video", "audio", "text"), 32), 12, 8), TINY
    ).save_pretrained(tmp_path / "wide")
    asked = given(folds, tmp_path, "--data.fold=1", f"--model.pretrained={tmp_path / 'wide'}")
    assert main(["finetune", "test", *asked, f"--ckpt_path={first_fold}/checkpoints/last.ckpt"]) == 2
    assert "model.backbone.agg.audio it has (16,), and this configuration has (32,)" in capsys.readouterr().err


def test_a_classifier_without_names_is_not_taken_for_one_in_alphabetic_order(tmp_path: Path) -> None:
    Classifier(tiny_backbone().tower("audio"), LinearClassifier(16, 2), TINY).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="have no names"):
        module = FinetuneModule(["cold", "warm"], TINY, "audio", pretrained=str(tmp_path))
    assert module.has_new_head


def test_another_format_than_in_training_is_said(
    first_fold: Path, folds: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(first_fold, run)
    asked = given(folds, run, "--data.fold=1", f"--model.pretrained={pretrained}", "--data.format.audio_s=0.5")
    assert main(["finetune", "test", *asked]) == 0
    assert "audio_s None -> 0.5" in json.loads((run / "test.json").read_text())["format changed since training"]
    assert changes({"fps": 10, "crop_box": (0, 1)}, {"fps": 10, "crop_box": [0, 1]}, "video") == []


def test_nothing_to_validate_on_is_an_error(folds: Path, pretrained: Path, tmp_path: Path, capsys: Any) -> None:
    asked = given(folds, tmp_path, "--data.fold=1", f"--model.pretrained={pretrained}")
    assert main(["finetune", "validate", *asked]) == 2
    assert "nothing to validate on" in capsys.readouterr().err
    assert main(["finetune", "fit", *asked, "--run.best_by=val/top1"]) == 2
    assert "nothing to validate on" in capsys.readouterr().err


def test_one_split_may_be_for_validation_and_test(corpus: Path, pretrained: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    rows = [row | {"split": ("train", "val")[n % 3 == 0]} for n, row in enumerate(labelled_rows(corpus))]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    asked = given(manifest, tmp_path / "run", f"--model.pretrained={pretrained}", "--data.test_split=val")
    every = ["--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null", "--run.best_by=val/top1"]
    with pytest.warns(UserWarning, match="the best checkpoint is selected by val/top1 on the test clips"):
        assert main(["finetune", "fit", *asked, *every]) == 0
    assert list(logged(tmp_path / "run", "val/top1")) == [1, 3]
    assert "best by val/top1" in json.loads((tmp_path / "run" / "model" / "training.json").read_text())["weights"]
    assert main(["finetune", "test", *asked]) == 0


def test_the_average_of_the_weights_survives_a_stop_after_the_last_step(
    folds: Path, pretrained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = given(folds, run, "--data.fold=1", f"--model.pretrained={pretrained}", "--run.ema=0.9")
    assert main(["finetune", "fit", *asked]) == 0
    whole = Classifier.from_pretrained(run / "model").state_dict()
    shutil.rmtree(run / "model")
    assert main(["finetune", "fit", *asked, "--ckpt_path=last"]) == 0
    again = Classifier.from_pretrained(run / "model").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0, msg=name)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    raw = saved["current_model_state"]
    assert any(not torch.equal(raw[f"model.{name}"], value) for name, value in whole.items())
    assert "moving average" in json.loads((run / "model" / "training.json").read_text())["weights"]


def test_a_model_of_an_earlier_training_is_put_aside(
    first_fold: Path, folds: Path, pretrained: Path, tmp_path: Path, capsys: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(first_fold, run)
    asked = given(folds, run, "--data.fold=2", f"--model.pretrained={run / 'model'}")
    assert main(["finetune", "fit", *asked]) == 2
    assert "the directory of this training" in capsys.readouterr().err
    asked = given(folds, run, "--data.fold=2", f"--model.pretrained={pretrained}")
    assert main(["finetune", "fit", *asked]) == 0
    origin = {
        name: json.loads((run / name / "training.json").read_text())["finetuning"]["data"]["part"]
        for name in ("model", "earlier/1/model")
    }
    assert origin == {"model": "all but fold 2", "earlier/1/model": "all but fold 1"}


def test_the_hash_of_a_configuration_does_not_see_who_does_the_work() -> None:
    config = {"data": {"num_workers": 2, "fold": 1}, "run": {"folder": "a"}, "trainer": None}
    same = {"data": {"num_workers": 0, "fold": 1}, "run": {"folder": "b"}, "trainer": None}
    assert config_hash(config) == config_hash(same)
    assert config_hash(config) != config_hash({**config, "data": {"num_workers": 2, "fold": 2}})


@pytest.mark.parametrize(
    "options", [{"label_smoothing": -0.1}, {"dropout": 2}, {"mixup": -1}, {"freeze": -7}, {"drop_token": 1}]
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Tuning(**options)
    with pytest.raises(InputError, match="99"):
        FinetuneModule(["a", "b"], TINY, backbone=tiny_backbone(), tuning=Tuning(freeze=99))


def test_what_is_frozen_has_no_dropout() -> None:
    module = FinetuneModule(["a", "b"], TINY, backbone=tiny_backbone(), tuning=Tuning(freeze=1))
    module.eval().train()
    blocks = module.model.backbone.transformers["video"].blocks
    assert [block.training for block in blocks] == [False, True]
    assert not module.model.backbone.tokenizers["video"].training
    assert module.model.training


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_damaged_files_of_a_training_beside_a_model_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HISTORY).write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path / HISTORY} is damaged"):
        history_of(tmp_path)
    (tmp_path / OBJECTIVE).write_bytes(content)
    objective = VideoMAE()
    with pytest.raises(InputError, match=f"{tmp_path / OBJECTIVE} is damaged: .*Delete it"):
        load_objective(objective, tiny_model(), tmp_path)
