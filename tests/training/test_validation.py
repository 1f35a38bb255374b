from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch

from tests.training.kinds import KINDS, make_batch, make_module
from tests.training.runs import logged, train
from vatt.errors import InputError
from vatt.training.checkpoint import BestCheckpoint, LastCheckpoint
from vatt.training.validation import FEW_CLIPS, CheckData, check_best_by, check_trainer


def check(
    train_clips: int,
    val_clips: int,
    batch: int,
    contrastive: bool,
    best_by: str | None = "val/rsum",
    metrics: Sequence[str] = ("val/rsum",),
    interval: float = 1.0,
    val_fraction: float = 0.0,
) -> None:
    data = SimpleNamespace(
        train_clips=range(train_clips),
        val_clips=range(val_clips),
        batch_size=batch,
        windows=1,
        val_fraction=val_fraction,
    )
    module = SimpleNamespace(
        objective=SimpleNamespace(compares_clips=contrastive), validation_metrics=lambda: list(metrics)
    )
    trainer = SimpleNamespace(
        datamodule=data, world_size=1, enable_validation=True, is_global_zero=True, max_steps=5,
        accumulate_grad_batches=2, val_check_batch=interval, check_val_every_n_epoch=None,
    )  # fmt: skip
    callback = CheckData(best_by)
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train_clips", "batch", "message"),
    [(1, 4, "there is a single training clip: a contrastive loss"), (9, 1, r"a batch has one clip: .*data.batch_size")],
)
def test_a_contrastive_loss_without_negatives_is_refused(train_clips: int, batch: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(train_clips, 100, batch, contrastive=True)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ((1, 100, 4), "there is a single training clip"),
        ((9, 100, 1), "a batch has one clip"),
        ((9, 3, 4), "by val/rsum on 3 validation clips, which is too few to be reliable: raise data.val_fraction"),
        ((9, 1, 4), "on 1 validation clip, which"),
        ((9, 0, 4), "there are no validation clips"),
    ],
)
def test_too_few_clips_are_reported_with_advice(clips: tuple[int, int, int], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        check(*clips, contrastive=False)


@pytest.mark.parametrize(("val_clips", "best_by"), [(FEW_CLIPS, "val/rsum"), (0, None), (2, None)])
def test_enough_clips_are_not_reported(val_clips: int, best_by: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(9, val_clips, 4, True, best_by)


@pytest.mark.parametrize("val_clips", [3, 100])
def test_a_training_that_ends_before_validation_is_reported_once(val_clips: int) -> None:
    with pytest.warns(UserWarning, match="validation") as warned:
        check(9, val_clips, 4, False, interval=11)
    (message,) = (str(warning.message) for warning in warned)
    assert message.startswith("there will be no validation: trainer.val_check_interval is 11, and the training ends")


def test_a_fraction_that_holds_out_nothing_is_reported() -> None:
    with pytest.warns(UserWarning, match="there are no validation clips, so nothing is validated: raise"):
        check(9, 0, 4, False, best_by=None, val_fraction=0.05)


def test_an_objective_without_metrics_is_reported_instead(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(9, 3, 4, False, metrics=())
    assert capsys.readouterr().out == "the objective has no validation metrics: the last weights are exported\n"


@pytest.mark.parametrize("kind", KINDS)
def test_the_names_of_all_validation_metrics_are_known(kind: str) -> None:
    """Those that `fit` logs, and no others are accepted by `run.best_by`."""
    module = make_module(kind)
    module.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    logged: dict[str, Any] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    module.log_dict = logged.update  # type: ignore[method-assign,assignment]
    module.eval().on_validation_epoch_start()
    with torch.no_grad():
        module.validation_step(make_batch(kind), 0)
    module.on_validation_epoch_end()
    assert sorted(module.validation_metrics()) == sorted(logged)
    check_best_by("val/rsum" if not logged else next(iter(logged)), module.validation_metrics())
    if logged:
        with pytest.raises(
            InputError, match=r"run.best_by val/other is not a validation metric of this training: val/"
        ):
            check_best_by("val/other", module.validation_metrics())


@pytest.mark.parametrize(
    ("interval", "limit", "message"),
    [
        (50, 1.0, "no validation: trainer.val_check_interval is 50, and the training ends after 3 batches"),
        (4, 0, "there was no validation, so the last weights are exported and not the best by val/rsum"),
    ],
)
def test_a_training_without_validation_is_reported(
    corpus: Path, tmp_path: Path, interval: int, limit: float, message: str
) -> None:
    with pytest.warns(UserWarning, match=message):
        train(corpus, tmp_path, steps=3, val_check_interval=interval, limit_val_batches=limit)


def test_a_training_without_steps_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no step was trained, so no model is exported: raise"):
        train(corpus, tmp_path, steps=3, limit_train_batches=0)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must lie in .1, inf., not 0"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch must lie in .1, inf., not 0"),
        ({"log_every_n_steps": 0}, "log_every_n_steps must lie in .1, inf., not 0"),
        ({"val_check_interval": None}, "val_check_interval must be a number of batches or a fraction, not a duration"),
        ({"val_check_interval": 0}, "val_check_interval must be above 0, not 0. Set trainer.limit_val_batches to 0"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val must lie in .0, inf., not -1"),
        ({"gradient_clip_val": math.nan}, "gradient_clip_val must .* not nan"),
    ],
)
def test_invalid_trainer_options_are_refused(options: dict[str, Any], message: str) -> None:
    valid = {
        "accumulate_grad_batches": 1, "check_val_every_n_epoch": None, "log_every_n_steps": 50,
        "val_check_interval": 1.0, "gradient_clip_val": None,
    }  # fmt: skip
    check_trainer(SimpleNamespace(**valid))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        check_trainer(SimpleNamespace(**valid | options))  # type: ignore[arg-type]


def test_validation_metrics_are_printed_with_gallery_and_chance(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(corpus, tmp_path, steps=4)
    printed = capsys.readouterr().out
    recalls = [logged(tmp_path, f"val/text_to_video_R@{k}")[3] for k in (1, 5, 10)]
    rank = logged(tmp_path, "val/text_to_video_MedR")[3]
    assert (
        f"step 4: validation: text to video: R@1 {recalls[0]:.1f}, R@5 {recalls[1]:.1f}, R@10 {recalls[2]:.1f} % "
        f"(chance 25.0, 100.0, 100.0 %), median rank {rank:g} of 4 clips"
    ) in printed
    assert printed.count("step 4: validation: ") == 4  # text and audio, both directions


def test_resumed_progress_bar_starts_at_its_step(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(corpus, tmp_path, steps=6, stop_after=3, val_fraction=0.0)
    capsys.readouterr()
    train(corpus, tmp_path, steps=6, resume=True, val_fraction=0.0)
    bars = [line for line in capsys.readouterr().out.replace("\n", "\r").split("\r") if line.startswith("training:")]
    assert " 2/6 " in bars[0]
    assert " 6/6 " in bars[-1]
    assert not [line for line in bars if "?" in line.split("[")[0]]
    train(corpus, tmp_path, steps=9, resume=True, val_fraction=0.0)  # after the epoch has ended
    bars = [line for line in capsys.readouterr().out.replace("\n", "\r").split("\r") if line.startswith("training:")]
    assert " 6/9 " in bars[0]
    assert " 9/9 " in bars[-1]
    assert not [line for line in bars if "/3 " in line or "[-" in line]


def test_unlogged_metric_is_an_error(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path, "val/R1")
    last, saved = LastCheckpoint(tmp_path, 100), []
    trainer: Any = SimpleNamespace(
        callback_metrics={"val/rsum": 1.0, "train/loss": 2.0},
        sanity_checking=False,
        checkpoint_callbacks=[best, last],
        global_step=7,
        save_checkpoint=saved.append,
    )
    with pytest.raises(
        InputError, match=r"run.best_by val/R1 is not logged; validation logs val/rsum; set run.best_by"
    ):
        best.on_validation_end(trainer, None)  # type: ignore[arg-type]
    assert saved == [tmp_path / "last.ckpt"]  # the steps since the last checkpoint are kept
    trainer.callback_metrics = {}  # nothing was validated
    best.on_validation_end(trainer, None)  # type: ignore[arg-type]
