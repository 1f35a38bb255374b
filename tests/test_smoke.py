"""The whole street by its commands, as a user types them: corpus, vocabulary, training, embedding, index, search."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from vatt.models.vatt import VATT
from vatt.retrieval.index import Index

pytestmark = pytest.mark.slow


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # small steps, and the same sums in every run


def vatt(*argv: str, status: int = 0) -> str:
    """Run a command in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "vatt", *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 24 clips and its vocabulary."""
    folder = tmp_path_factory.mktemp("street")
    corpus = str(folder / "corpus")
    sizes = ("--clips_per_combination", "1", "--num_test", "6", "--num_val", "4", "--num_train", "14")
    vatt("synth", corpus, *sizes)
    vatt("vocabulary", f"{corpus}/manifest.jsonl", "--split", "train", "--size", "512", "--output", f"{corpus}/words")
    return folder


def fit(street: Path, run: str, *more: str) -> list[str]:
    corpus = street / "corpus"
    return [
        *("pretrain", "fit", "--config", "configs/demo.yaml", "--run.folder", str(street / run)),
        *("--data.manifest", str(corpus / "manifest.jsonl"), "--data.vocabulary", str(corpus / "words")),
        *("--data.cache", str(corpus / "cache"), "--data.batch_size", "4", "--run.checkpoint_steps", "2"),
        *("--trainer.max_steps", "8", "--trainer.val_check_interval", "4", "--model.optimization.warmup_steps", "2"),
        *("--trainer.log_every_n_steps", "1", *more),
    ]


def losses(run: Path) -> dict[str, str]:
    found = {}
    for path in sorted(run.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            found |= {row["step"]: row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}
    return found


def test_from_files_to_answers(street: Path) -> None:
    vatt(*fit(street, "run"))
    model, embeddings, index = (str(street / "run" / name) for name in ("model", "embeddings", "index"))
    printed = vatt(
        *("embed", str(street / "corpus" / "manifest.jsonl"), "--split", "test", "--model", model),
        *("--output", embeddings),
    )
    assert "embedded 6 of 6 clips" in printed
    vatt("index", embeddings, "--output", index)
    hits = json.loads(vatt("search", index, "a red circle moves left", "--k", "6", "--format", "json"))
    assert len({hit["id"] for hit in hits}) == 6
    assert Index.load(index).model == VATT.from_pretrained(model).fingerprint()
    vatt("retrieve", embeddings, "--output", str(street / "report.json"))
    report = json.loads((street / "report.json").read_text())
    assert report["text_to_video"]["gallery"] == 6
    vatt("plot", "curves", str(street / "run"), "--output", str(street / "curves.png"))
    assert (street / "curves.png").stat().st_size > 10_000


def test_a_killed_training_goes_on(street: Path) -> None:
    """SIGKILL between two checkpoints, the same command with --ckpt_path last: the losses of a run never stopped."""
    argv = [sys.executable, "-m", "vatt", *fit(street, "killed", "--trainer.max_steps", "20")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    training = subprocess.Popen(argv, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **quiet)
    last = street / "killed" / "checkpoints" / "last.ckpt"
    until = time.monotonic() + 240
    while not last.is_file():
        assert training.poll() is None, "the training ended by itself"
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGKILL)
    training.wait()
    reached = torch.load(last, weights_only=True)["global_step"]
    assert 0 < reached < 20
    assert not (street / "killed" / "model").exists()
    vatt(*fit(street, "killed", "--trainer.max_steps", "20", "--ckpt_path", "last"))
    vatt(*fit(street, "whole", "--trainer.max_steps", "20"))
    assert losses(street / "killed") == losses(street / "whole")
    assert len(losses(street / "whole")) == 20


def test_a_misspelt_key_stops_before_anything_is_written(street: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vatt", *fit(street, "misspelt", "--data.batchsize", "4")],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "batchsize" in done.stderr
    assert not (street / "misspelt").exists()
