from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.training.kinds import fit, make_batch, make_module
from vatt.errors import VattError
from vatt.training.callbacks import Throughput
from vatt.training.checkpoint_io import AtomicCheckpointIO, naming_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after two steps of a tiny module."""
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    fit(make_module("masked"), make_batch("masked"), 2, [Throughput()]).save_checkpoint(path)
    return path


DELETED = object()
Key = tuple[str | int, ...]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (("state_dict",), None, "its state_dict must be a mapping of tensors"),
        (("state_dict", "x"), 1, "its state_dict must be a mapping of tensors"),
        (("global_step",), "two", "its global_step must be a number of steps"),
        (("global_step",), -5, "its global_step must be a number of steps"),
        (("skipped_steps",), "x", "its skipped_steps must be a number of steps"),
        (("epoch",), None, "its epoch must be a number"),
        (("pytorch-lightning_version",), "junk", "must be a version of Lightning, 2.0 or later"),
        (("pytorch-lightning_version",), None, "must be a version of Lightning, 2.0 or later"),
        (("pytorch-lightning_version",), "0.0.1", "must be a version of Lightning, 2.0 or later"),
        (("loops",), None, "its loops must be a mapping with the progress"),
        (("loops", "fit_loop"), {}, "its loops must be a mapping with the progress"),
        (("callbacks",), [1], "its callbacks must be states by name"),
        (("optimizer_states",), "x", "its optimizer_states must be a list"),
        (("optimizer_states", 0), {}, "its optimizer_states must be a list"),
        (("lr_schedulers", 0), {}, "its lr_schedulers must be a list"),
        (("settings",), [1], "its settings must be a mapping"),
        (("settings", "optimization"), None, "its settings must be a mapping"),
        (("ids",), None, "its ids must be a mapping"),
        (("optimizer_states",), DELETED, "weights only, and no state of optimizer"),
        (("loops",), DELETED, "the checkpoint has no loops, which resuming needs"),
        (("settings",), DELETED, "the checkpoint has no settings"),
        (("callbacks", "Throughput"), {}, "no state of the callback Throughput"),
        (("callbacks", "Throughput", "train_s"), "x", "cannot be restored .ValueError: could not convert string"),
        (("optimizer_states", 0, "state"), {}, "the optimizer state in the checkpoint is empty after 2 steps"),
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(2), r"has shapes {'exp_avg': \(2,\), .*not {"),
        (("optimizer_states", 0, "state", 0, "exp_avg"), DELETED, "has shapes {'exp_avg_sq': "),
    ],
)
def test_wrong_contents_of_a_checkpoint_are_one_sentence(
    trained: Path, tmp_path: Path, key: Key, value: Any, message: str
) -> None:
    """The checksums are right. Lightning ignores some of these; a wrong shape was a segmentation fault."""
    checkpoint = torch.load(trained, weights_only=True)
    entry = checkpoint
    for name in key[:-1]:
        entry = entry[name]
    if value is DELETED:
        del entry[key[-1]]
    else:
        entry[key[-1]] = value
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(VattError, match=message) as error, naming_checkpoint(tmp_path / "last.ckpt"):
        fit(
            make_module("masked"), make_batch("masked"), 4, [Throughput()], tmp_path / "last.ckpt",
            plugins=[AtomicCheckpointIO()],
        )  # fmt: skip
    assert "\n" not in str(error.value)


def test_errors_of_a_training_are_not_those_of_its_checkpoint(trained: Path) -> None:
    class Fails(L.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"), naming_checkpoint(trained):
        fit(make_module("masked"), make_batch("masked"), 4, [Throughput(), Fails()], trained)
