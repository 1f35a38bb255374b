"""Steps without a finite loss are left out, named and counted."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.training.kinds import fit, make_batch, make_module
from tests.training.runs import logged, train
from vatt.training.finite import MAX_SKIPPED, FiniteGuard, NonFiniteLoss
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule


class Spoil(L.Callback):
    """Does something to the batches of some steps, and watches the weights."""

    def __init__(self, steps: set[int], spoil: Callable[[PretrainModule, dict[str, Any]], None]) -> None:
        self.steps, self.spoil = steps, spoil
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: PretrainModule, batch: Any, *place: int) -> None:
        values = [value.flatten().double() for value in module.state_dict().values()]
        self.weights.append(torch.cat(values))
        if trainer.global_step in self.steps:
            self.spoil(module, batch)


def no_picture(module: PretrainModule, batch: dict[str, Any]) -> None:
    batch["video"][2] = torch.nan


def no_gradient(module: PretrainModule, batch: dict[str, Any]) -> None:
    weight = module.backbone.tokenizers["audio"].project.weight
    handle = weight.register_hook(lambda gradient: (gradient * torch.inf, handle.remove())[0])


def no_weight(module: PretrainModule, batch: dict[str, Any]) -> None:
    with torch.no_grad():
        module.backbone.agg["video"][3] = torch.nan


def test_a_step_is_left_out_and_says_where_it_comes_from(corpus: Path, tmp_path: Path) -> None:
    watch = Spoil({2}, no_picture)
    message = r"step 2: loss is nan, video_audio is nan, video_text is nan; not finite: video of \S+. Step skipped"
    with pytest.warns(UserWarning, match=message):
        train(corpus, tmp_path, steps=5, watch=watch)
    assert torch.equal(watch.weights[2], watch.weights[3])  # weights and running statistics
    assert not torch.equal(watch.weights[3], watch.weights[4])
    assert set(logged(tmp_path, "train/skipped_steps").values()) == {1.0}
    assert all(torch.isfinite(weights).all() for weights in watch.weights)


def test_gradients_are_looked_at_as_well(corpus: Path, tmp_path: Path) -> None:
    watch = Spoil({1}, no_gradient)
    with pytest.warns(UserWarning, match=r"step 1: the gradient of backbone.tokenizers.audio.project.weight is not"):
        train(corpus, tmp_path, steps=4, watch=watch)
    assert torch.equal(watch.weights[1], watch.weights[2])


def test_weights_that_are_lost_end_the_training(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*Parameter backbone.agg.video is not finite: resume"):
        train(corpus, tmp_path, steps=4, watch=Spoil({1}, no_weight))


@pytest.mark.filterwarnings("ignore:.*Step skipped")
def test_not_more_than_a_few(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=f"step {MAX_SKIPPED}: .*lower model.optimization.lr"):
        train(corpus, tmp_path, steps=20, watch=Spoil(set(range(20)), no_picture))


def test_what_was_left_out_is_counted_on_after_a_resumption(corpus: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of at most"):
        train(corpus, tmp_path, steps=8, stop_after=4, watch=Spoil({0}, no_picture))
    with pytest.warns(UserWarning, match="2 of at most"):
        train(corpus, tmp_path, steps=8, resume=True, watch=Spoil({5}, no_picture))


@pytest.mark.filterwarnings("ignore:.*Step skipped")
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_step_without_gradients_can_be_clipped(algorithm: str) -> None:
    module, clip = make_module("contrastive"), {"gradient_clip_val": 1.0, "gradient_clip_algorithm": algorithm}
    fit(module, make_batch("contrastive"), 3, [Spoil({1}, no_gradient)], **clip)
    assert module.guard.skipped == 1


class RecordSkipped(Spoil):
    """Records the number of skipped steps after every step."""

    def __init__(self, spoil: dict[int, Callable[[PretrainModule, dict[str, Any]], None]]) -> None:
        super().__init__(set(spoil), lambda module, batch: spoil[module.global_step](module, batch))
        self.skipped: dict[int, int] = {}

    def on_train_batch_end(self, trainer: L.Trainer, module: TrainingModule, *_: Any) -> None:
        self.skipped[trainer.global_step - 1] = module.guard.skipped


def run(deferred: bool, watch: L.Callback, steps: int = 6, **options: Any) -> tuple[TrainingModule, list[str]]:
    """Train on the CPU with deferred checks, as on a GPU, or immediate ones; return the module and the warnings."""
    module = make_module("contrastive", Optimization(lr=1e-3, warmup_steps=1, **options))
    module.guard = FiniteGuard(deferred=deferred)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, make_batch("contrastive"), steps, [watch], gradient_clip_val=1.0)
    return module, [str(warning.message) for warning in caught if "Step skipped" in str(warning.message)]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_checks_on_the_device_equal_checks_on_the_host(optimizer: str) -> None:
    """Weights, optimizer state, running statistics, counts and messages are equal. Messages come a step later."""
    spoil = {2: no_audio, 3: no_gradient}
    now, then = RecordSkipped(spoil), RecordSkipped(spoil)
    host, at_once = run(False, now, name=optimizer)
    device, later = run(True, then, name=optimizer)
    assert at_once == later
    assert later[0].startswith("step 2: loss is nan, video_audio is nan; not finite: audio of clip2. Step")
    assert later[1].startswith("step 3: the gradient of backbone.tokenizers.audio.project.weight is not finite. Step")
    assert now.skipped == {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2}
    assert then.skipped == {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 2}
    torch.testing.assert_close(device.state_dict(), host.state_dict(), rtol=0, atol=0)
    states = [module.optimizers().optimizer.state_dict()["state"] for module in (host, device)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def no_audio(module: PretrainModule, batch: dict[str, Any]) -> None:
    batch["audio"] = batch["audio"].clone()
    batch["audio"][2] = torch.nan


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_first_and_last_step_are_checked(optimizer: str) -> None:
    """SGD cannot skip its first step on the device. The last step is reported at the end of training."""
    module, later = run(True, RecordSkipped({0: no_audio, 5: no_audio}), name=optimizer)
    assert [message.partition(":")[0] for message in later] == ["step 0", "step 5"]
    assert module.guard.skipped == 2
    _, at_once = run(False, RecordSkipped({0: no_audio, 5: no_audio}), name=optimizer)
    assert later == at_once


def test_checkpoint_counts_the_previous_step() -> None:
    counted: list[int] = []

    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: TrainingModule, *_: Any) -> None:
            checkpoint: dict[str, Any] = {}
            module.on_save_checkpoint(checkpoint)
            counted.append(checkpoint["skipped_steps"])

    module = make_module("contrastive")
    module.guard = FiniteGuard(deferred=True)
    with pytest.warns(UserWarning, match=r"step 1: .*\(1 of at most"):
        fit(module, make_batch("contrastive"), 3, [RecordSkipped({1: no_audio}), Save()])
    assert counted == [0, 1, 1]


def test_deferred_checks_end_a_training_after_too_many_steps_or_lost_weights() -> None:
    with pytest.raises(NonFiniteLoss, match=f"step {MAX_SKIPPED}: .*This is step {MAX_SKIPPED + 1} without"):
        run(True, Spoil(set(range(20)), no_audio), steps=20)
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*Parameter backbone.agg.video is not finite: resume"):
        run(True, Spoil({1}, no_weight), steps=4)


@pytest.mark.parametrize("deferred", [True, False])
def test_batches_are_not_kept_in_memory(deferred: bool) -> None:
    """With deferred checks, only flags are kept until the end of the step."""
    guard, batch = FiniteGuard(deferred=deferred), make_batch("contrastive")
    guard.begin(torch.nn.Linear(1, 1))
    guard.watch({"loss": torch.ones(())}, batch)
    video = weakref.ref(batch["video"])
    del batch
    gc.collect()
    assert (video() is None) == deferred
    guard.begin(torch.nn.Linear(1, 1))
    gc.collect()
    assert video() is None
