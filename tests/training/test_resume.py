"""Trainings that are resumed with another configuration, or in another directory."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from tests.conftest import SMALL_HEAD, TINY, WORDS, tiny_backbone
from tests.training.runs import logged, train
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.text.vocabularies import load_vocabulary
from vatt.datasets.text.words import WordVocabulary
from vatt.models.encoding import model_vocabulary
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import Contrastive
from vatt.training.checkpoint import BestCheckpoint
from vatt.training.history import ConfigMismatch
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule
from vatt.training.resume import check_ids, clip_hashes, warn_of_changed_clips

FIRST = Optimization(lr=1e-3, final_lr=1e-5, warmup_steps=2, weight_decay=0.05)


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def module_with(optimization: Optimization, seed: int = 0) -> PretrainModule:
    objective = Contrastive(SMALL_HEAD, drop_video=0.5, drop_audio=0.5, per_sample=True)
    return PretrainModule(tiny_backbone(), objective, optimization, seed=seed)


def test_changed_optimization_applies_from_the_next_step(corpus: Path, tmp_path: Path) -> None:
    """Learning rates and weight decay equal those of a training that always had the new settings."""
    changed = Optimization(
        lr=1e-4, final_lr=1e-6, warmup_steps=1, weight_decay=0.5, final_weight_decay=0.7, betas=(0.8, 0.95), eps=1e-7
    )
    train(corpus, tmp_path, steps=8, stop_after=4, optimization=FIRST)
    with pytest.warns(UserWarning, match=r"resumed after step 4 with a changed .*lr 0.001 -> 0.0001, .*betas \[0.9"):
        train(corpus, tmp_path, steps=8, resume=True, optimization=changed)
    train(corpus, tmp_path / "new", steps=8, optimization=changed)
    for step in (5, 6, 7):
        names = [name for name in ("lr-AdamW/pg1", "lr-AdamW/pg2") if logged(tmp_path, name)]
        assert names
        for name in names:
            assert logged(tmp_path, name)[step] == logged(tmp_path / "new", name)[step]
    groups, new = (last(folder)["optimizer_states"][0]["param_groups"] for folder in (tmp_path, tmp_path / "new"))
    for group, expected in zip(groups, new, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in expected.items() if k != "params"}
    assert last(tmp_path)["lr_schedulers"] == last(tmp_path / "new")["lr_schedulers"]


def test_unchanged_optimization_does_not_warn(corpus: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    train(corpus, tmp_path, steps=6, stop_after=4, optimization=FIRST)
    train(corpus, tmp_path, steps=6, resume=True, optimization=FIRST)
    assert not [warning for warning in recwarn if "resumed" in str(warning.message)]


@pytest.mark.parametrize(
    ("optimization", "seed", "message"),
    [
        (FIRST, 1, "trained with seed_everything 0, and the configuration has 1"),
        (Optimization("sgd", lr=1e-3, final_lr=1e-5, warmup_steps=2), 0, "the optimizer adamw, .* is sgd"),
        (Optimization(lr=1e-3, final_lr=1e-5, warmup_steps=2, layer_decay=0.5), 0, r"layer_decay 1.0 -> 0.5"),
    ],
)
def test_incompatible_changes_are_refused(
    corpus: Path, tmp_path: Path, optimization: Optimization, seed: int, message: str
) -> None:
    train(corpus, tmp_path, steps=4, stop_after=2, optimization=FIRST)
    with pytest.raises(ConfigMismatch, match=message):
        train(corpus, tmp_path, steps=4, resume=True, module=module_with(optimization, seed))


def test_resume_beyond_max_steps_or_from_weights_only_is_refused(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4, optimization=FIRST)
    with pytest.raises(ConfigMismatch, match=r"is of step 4, and trainer.max_steps is 3, .*: raise"):
        train(corpus, tmp_path, steps=3, resume=True, optimization=FIRST)
    with pytest.warns(UserWarning, match="no step was trained: the training had ended at step 4 of 4"):
        train(corpus, tmp_path, steps=4, resume=True, optimization=FIRST)
    shutil.copyfile(tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/best.ckpt")
    with pytest.raises(ConfigMismatch, match=r"of step 4, and trainer.max_steps is 4, so no step would be trained"):
        train(corpus, tmp_path, steps=4, resume=tmp_path / "checkpoints/best.ckpt", optimization=FIRST)
    weights = {key: value for key, value in last(tmp_path).items() if key != "optimizer_states"}
    torch.save(weights, tmp_path / "weights.ckpt")
    with pytest.raises(ConfigMismatch, match="weights only, and no state of optimizer"):
        train(corpus, tmp_path, steps=6, resume=tmp_path / "weights.ckpt", optimization=FIRST)


def test_changed_clips_are_reported_when_a_training_is_resumed(
    corpus: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """By their ids, texts and labels, and also if validation clips may have been trained on."""
    rows = [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]

    def hashes(change: dict[str, Any], val: int = 2) -> dict[str, str]:
        changed = [*rows[:5], rows[5] | change, *rows[6:10]]
        for number, row in enumerate(changed):
            row |= {"split": "val" if number < val else "train", "path": str(corpus / row["path"])}
        (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, changed)))
        data = ClipDataModule(str(tmp_path / "clips.jsonl"), TINY)
        data.setup("fit")
        return clip_hashes(data)

    before = hashes({})
    warn_of_changed_clips(before, hashes({}))
    warn_of_changed_clips(before, before | {"val": "other"})
    warn_of_changed_clips({}, before)
    assert not recwarn
    for change in ({"id": "other"}, {"texts": ["other"]}, {"label": "other"}):
        with pytest.warns(UserWarning, match=r"training clips, or their texts or labels, differ from .*trained on$"):
            warn_of_changed_clips(before, hashes(change))
    with pytest.warns(UserWarning, match="so do the validation clips, of which some may have been trained on"):
        warn_of_changed_clips(before, hashes({}, val=4))


def test_a_resumed_training_has_the_hashes_of_its_clips(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4, stop_after=2)
    checkpoint = last(tmp_path)
    assert checkpoint["clips"].keys() == {"train", "val"}
    checkpoint["clips"]["train"] = "other"
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.warns(UserWarning, match="the training clips, or their texts or labels, differ"):
        train(corpus, tmp_path, steps=4, resume=True)


def test_a_checkpoint_without_hashes_of_clips_is_resumed(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path, steps=4, stop_after=2)
    checkpoint = last(tmp_path)
    del checkpoint["clips"]
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    train(corpus, tmp_path, steps=4, resume=True)
    assert last(tmp_path)["global_step"] == 4


def test_a_changed_metric_is_reported_when_a_training_is_resumed(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path, "val/rsum")
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    other = BestCheckpoint(tmp_path, "val/text_to_video_R@1")
    with pytest.warns(UserWarning, match="without run.best_by val/rsum: the best checkpoint is selected from later"):
        best.on_load_checkpoint(trainer, None, {"callbacks": {other.state_key: {"best_model_score": None}}})  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best.on_load_checkpoint(trainer, None, {"callbacks": {best.state_key: {"best_model_score": None}}})  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "second"), [(None, 0.5), (0.5, None)])
def test_provenance_of_exported_weights_is_that_of_the_best_checkpoint(
    corpus: Path, tmp_path: Path, first: float | None, second: float | None
) -> None:
    """Also if averaging is turned on or off afterwards."""
    train(corpus, tmp_path, steps=4, ema=first)
    train(corpus, tmp_path, steps=4, resume=True, ema=second)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    weights = json.loads((tmp_path / "model" / "training.json").read_text())["weights"]
    assert weights == "of step 4, best by val/rsum" + (", moving average" if first else "")
    model = VATT.from_pretrained(tmp_path / "model")
    name, value = next(iter(model.backbone.state_dict().items()))
    assert torch.equal(best["state_dict"][f"backbone.{name}"], value)


def test_resume_without_ema_continues_from_the_raw_weights(corpus: Path, tmp_path: Path) -> None:
    _, never = train(corpus, tmp_path / "never", steps=6)
    train(corpus, tmp_path / "averaged", steps=6, stop_after=4, ema=0.5)
    with pytest.warns(UserWarning, match="continues from the raw ones"):
        _, resumed = train(corpus, tmp_path / "averaged", steps=6, resume=True)
    for name, value in never.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert logged(tmp_path / "averaged", "train/loss") == logged(tmp_path / "never", "train/loss")


def test_a_moved_run_keeps_its_best_score(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "run", steps=12, stop_after=9, lr=1e-2)
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    train(corpus, tmp_path / "run", steps=12, resume=True, lr=1e-2)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    trainer, _ = train(corpus, tmp_path / "moved", steps=12, resume=True, lr=1e-2)
    facts = [json.loads((tmp_path / name / "model/training.json").read_text()) for name in ("run", "moved")]
    assert facts[0]["weights"] == facts[1]["weights"]
    assert facts[0]["val/rsum"] == facts[1]["val/rsum"]
    (best,) = (callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint))
    assert best.best_model_path == str(tmp_path / "moved" / "checkpoints" / "best.ckpt")
    models = [VATT.from_pretrained(tmp_path / name / "model").state_dict() for name in ("run", "moved")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_best_checkpoint_of_another_training_is_ignored(corpus: Path, tmp_path: Path) -> None:
    """The last checkpoint is older than the best one, as after `previous.ckpt` was restored by hand."""
    train(corpus, tmp_path, steps=12, stop_after=9, lr=1e-2)
    checkpoints = tmp_path / "checkpoints"
    best = torch.load(checkpoints / "best.ckpt", weights_only=True)
    (key,) = (key for key in best["callbacks"] if key.startswith("BestCheckpoint"))
    best["callbacks"][key]["best_model_score"] += 1000.0
    best["global_step"] = 999
    torch.save(best, checkpoints / "best.ckpt")
    with pytest.warns(UserWarning, match=r"best.ckpt is not of the resumed training"):
        train(corpus, tmp_path, steps=12, resume=True, lr=1e-2)
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert facts["weights"] == "of step 12, best by val/rsum"  # the only validation after step 8
    os.remove(checkpoints / "best.ckpt")
    with pytest.warns(UserWarning, match=r"best.ckpt is missing"):
        train(corpus, tmp_path, steps=12, resume=True, lr=1e-2)
    assert json.loads((tmp_path / "model" / "training.json").read_text())["weights"] == "of the last step"


@pytest.fixture
def trained(corpus: Path, tmp_path: Path) -> Path:
    train(corpus, tmp_path / "run", steps=4, every=2)
    return tmp_path / "run"


def other_words(corpus: Path, folder: Path) -> Path:
    """A copy of the corpus whose vocabulary has the same words in another order."""
    copy = folder / "corpus"
    copy.mkdir()
    for name in ("clips", "manifest.jsonl"):
        os.symlink(corpus / name, copy / name)
    words = load_vocabulary(corpus / "vocabulary").words
    WordVocabulary(reversed(words)).save(copy / "vocabulary")
    return copy


def test_another_vocabulary_is_refused_on_resume_and_for_a_pretrained_model(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    other = other_words(corpus, tmp_path)
    with pytest.raises(ConfigMismatch, match="the checkpoint was trained with another vocabulary"):
        train(other, trained, steps=6, resume=True)
    objective = Contrastive(SMALL_HEAD)
    module = PretrainModule(tiny_backbone(), objective, FIRST, pretrained=str(trained / "model"))
    with pytest.raises(ConfigMismatch, match=r"run/model was trained with another vocabulary .*data.vocabulary"):
        train(other, tmp_path / "new", steps=4, module=module)


def test_replaced_vocabulary_of_a_model_is_refused(corpus: Path, trained: Path) -> None:
    model = VATT.from_pretrained(trained / "model")
    assert model_vocabulary(model).words == load_vocabulary(corpus / "vocabulary").words
    assert model.encode_text("a red ring").isfinite().all()
    WordVocabulary(reversed(load_vocabulary(corpus / "vocabulary").words)).save(trained / "model" / "vocabulary")
    with pytest.raises(ValueError, match="is not the vocabulary that the model was trained with"):
        model.encode_text("a red ring")


def test_unknown_hashes_are_not_compared() -> None:
    check_ids({}, {"vocabulary": "a"}, "x", "y")
    check_ids({"vocabulary": None, "codebook": "b"}, {"vocabulary": "a", "codebook": None}, "x", "y")
    with pytest.raises(ConfigMismatch, match="another codebook"):
        check_ids({"codebook": "b"}, {"codebook": "c"}, "x", "y")


def test_the_hash_of_a_vocabulary_changes_with_any_id() -> None:
    words = WordVocabulary(WORDS)
    assert words.hash == WordVocabulary(list(WORDS)).hash
    others = [WordVocabulary(reversed(WORDS)), WordVocabulary(WORDS[:-1]), WordVocabulary(WORDS, unknown_id=2)]
    assert len({words.hash, *(other.hash for other in others)}) == 4
