"""All steps by their commands, as a user types them: corpus, vocabulary, training, embedding, index, search."""

from __future__ import annotations

import contextlib
import csv
import io
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
from vatt.cli.main import main
from vatt.models.vatt import VATT
from vatt.retrieval.index import Index

pytestmark = pytest.mark.slow


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # small steps, and the same sums in every run


def vatt(*argv: str) -> str:
    """Run a command in this process, from the root of the repository; return what it printed."""
    printed = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        assert main(list(argv)) == 0, f"{argv}\n{printed.getvalue()}"
    return printed.getvalue()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 24 clips and its vocabulary."""
    folder = tmp_path_factory.mktemp("workspace")
    corpus = str(folder / "corpus")
    sizes = ("--clips_per_combination", "1", "--num_test", "6", "--num_val", "4", "--num_train", "14")
    vatt("synth", corpus, *sizes)
    vatt("vocabulary", f"{corpus}/manifest.jsonl", "--split", "train", "--size", "512", "--output", f"{corpus}/words")
    return folder


def fit(workspace: Path, run: str, *more: str) -> list[str]:
    corpus = workspace / "corpus"
    return [
        *("pretrain", "fit", "--config", "configs/demo.yaml", "--run.folder", str(workspace / run)),
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


def test_from_files_to_answers(workspace: Path) -> None:
    vatt(*fit(workspace, "run"))
    model, embeddings, index = (str(workspace / "run" / name) for name in ("model", "embeddings", "index"))
    printed = vatt(
        *("embed", str(workspace / "corpus" / "manifest.jsonl"), "--split", "test", "--model", model),
        *("--output", embeddings),
    )
    assert "embedded 6 of 6 clips" in printed
    vatt("index", embeddings, "--output", index)
    hits = json.loads(vatt("search", index, "a red circle moves left", "--k", "6", "--format", "json"))
    assert len({hit["id"] for hit in hits}) == 6
    assert Index.load(index).model == VATT.from_pretrained(model).model_hash()
    vatt("retrieve", embeddings, "--output", str(workspace / "report.json"))
    report = json.loads((workspace / "report.json").read_text())
    assert report["text_to_video"]["gallery"] == 6
    vatt("plot", "curves", str(workspace / "run"), "--output", str(workspace / "curves.png"))
    assert (workspace / "curves.png").stat().st_size > 10_000


def stop(argv: list[str], last: Path, number: signal.Signals) -> tuple[int, str, int]:
    """Send a signal to a training and its workers, like a terminal, after the next checkpoint.

    Returns:
        Exit status, output, and step of the last checkpoint.
    """
    before = last.stat().st_mtime_ns if last.is_file() else 0
    training = subprocess.Popen(
        [sys.executable, "-m", "vatt", *argv], cwd=ROOT, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 240
    while not last.is_file() or last.stat().st_mtime_ns == before:
        assert training.poll() is None, training.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(training.pid, number)
    printed = training.communicate(timeout=240)[0]
    return training.returncode, printed, torch.load(last, weights_only=True)["global_step"]


def test_killed_and_interrupted_training_resumes_exactly(workspace: Path) -> None:
    """A run that is killed, interrupted and resumed has the losses of an uninterrupted one."""
    last = workspace / "stopped" / "checkpoints" / "last.ckpt"
    argv = fit(workspace, "stopped", "--trainer.max_steps", "20", "--ckpt_path", "auto")
    status, _, reached = stop(argv, last, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert 0 < reached < 20
    assert not (workspace / "stopped" / "model").exists()
    status, printed, further = stop(argv, last, signal.SIGINT)
    assert status == 130
    assert f"Ctrl-C: stopped after step {further}; resume with --ckpt_path last" in printed
    assert "Traceback" not in printed
    assert reached < further < 20
    printed = vatt(*fit(workspace, "stopped", "--trainer.max_steps", "20", "--ckpt_path", "last"))
    assert f"resuming from {last}" in printed
    model = workspace / "stopped" / "model"
    assert f"model: {model}    next: vatt embed path/to/videos --model {model} --output " in printed
    vatt(*fit(workspace, "whole", "--trainer.max_steps", "20"))
    assert losses(workspace / "stopped") == losses(workspace / "whole")
    assert len(losses(workspace / "whole")) == 20


def test_a_misspelt_key_stops_before_anything_is_written(workspace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vatt", *fit(workspace, "misspelt", "--data.batchsize", "4")],
        capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "batchsize" in done.stderr
    assert not (workspace / "misspelt").exists()
