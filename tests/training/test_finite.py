"""Steps without a finite loss are left out, named and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.training.runs import logged, train
from vatt.training.finite import MAX_SKIPPED, NonFiniteLoss
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
    said = r"step 2: loss is nan, video_audio is nan, video_text is nan; not finite: video of \S+. The step is left out"
    with pytest.warns(UserWarning, match=said):
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
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*The weights backbone.agg.video are not finite: go back"):
        train(corpus, tmp_path, steps=4, watch=Spoil({1}, no_weight))


@pytest.mark.filterwarnings("ignore:.*The step is left out")
def test_not_more_than_a_few(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=f"step {MAX_SKIPPED}: .*lower model.optimization.lr"):
        train(corpus, tmp_path, steps=20, watch=Spoil(set(range(20)), no_picture))


def test_what_was_left_out_is_counted_on_after_a_resumption(corpus: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 of at most"):
        train(corpus, tmp_path, steps=8, stop_after=4, watch=Spoil({0}, no_picture))
    with pytest.warns(UserWarning, match="2 of at most"):
        train(corpus, tmp_path, steps=8, resume=True, watch=Spoil({5}, no_picture))
