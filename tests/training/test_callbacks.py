from __future__ import annotations

import csv
import errno
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.training.kinds import PRETRAINING, fit, make_batch, make_module
from vatt.training import callbacks
from vatt.training.callbacks import DataReport, NameDirectory, StepBar, Throughput


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 0.0}
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now["s"])
    return now


def run_steps(watch: Throughput, clock: dict[str, float], wait_s: float, work_s: float, steps: int) -> dict[str, Any]:
    """Play steps to the callback and return what it logged last."""
    trainer, module = MagicMock(log_every_n_steps=steps, global_step=100), MagicMock()
    batch = {"id": ["a", "b"]}
    watch.on_train_start(trainer, module)
    for i in range(steps):
        clock["s"] += wait_s
        watch.on_train_batch_start(trainer, module, batch, i)
        clock["s"] += work_s
        watch.on_train_batch_end(trainer, module, {"tokens": 30.0}, batch, i)
    found = dict(module.log_dict.call_args.args[0])
    found["speed/data_wait"] = module.log.call_args.args[1]
    return found


def test_speed_and_the_share_of_waiting(clock: dict[str, float]) -> None:
    watch = Throughput()
    found = run_steps(watch, clock, wait_s=0.5, work_s=1.5, steps=4)
    assert found == {
        "speed/tokens_per_s": pytest.approx(15.0),
        "speed/clips_per_s": pytest.approx(1.0),
        "speed/steps_per_s": pytest.approx(0.5),
        "speed/data_wait": pytest.approx(0.25),
    }
    assert watch.train_s == pytest.approx(8.0)


def test_time_of_training_goes_on_after_a_resumption(clock: dict[str, float]) -> None:
    watch = Throughput()
    run_steps(watch, clock, 0.0, 1.0, 3)
    resumed = Throughput()
    resumed.load_state_dict(watch.state_dict())
    clock["s"] += 1000.0
    run_steps(resumed, clock, 0.0, 1.0, 2)
    assert resumed.train_s == pytest.approx(5.0)


def test_validation_is_no_waiting(clock: dict[str, float]) -> None:
    watch = Throughput()
    trainer, module = MagicMock(log_every_n_steps=2, global_step=2), MagicMock()
    watch.on_train_start(trainer, module)
    for i in range(2):
        watch.on_train_batch_start(trainer, module, {"id": ["a"]}, i)
        clock["s"] += 1.0
        watch.on_train_batch_end(trainer, module, {}, {"id": ["a"]}, i)
        clock["s"] += 60.0
        watch.on_validation_end(trainer, module)
    assert module.log.call_args.args == ("speed/data_wait", 0.0)


def test_much_waiting_is_said_in_words_once(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(callbacks, "rank_zero_warn", said.append)
    watch = Throughput()
    run_steps(watch, clock, wait_s=1.0, work_s=1.0, steps=4)
    run_steps(watch, clock, wait_s=1.0, work_s=1.0, steps=4)
    assert len(said) == 1
    assert "50% of the time is spent waiting for clips" in said[0]


def event(kind: str, name: str) -> dict[str, str]:
    return {"kind": kind, "id": name, "path": f"{name}.mp4", "reason": "why"}


def test_every_clip_is_named_once_and_counted_each_time(tmp_path: Path) -> None:
    trainer, module = MagicMock(global_step=7), MagicMock()
    report = DataReport(tmp_path)
    report.on_train_batch_end(trainer, module, {}, {"events": []}, 0)
    assert not report.file.exists()
    report.on_train_batch_end(trainer, module, {}, {"events": [event("unreadable", "a")]}, 0)
    report.on_validation_batch_end(trainer, module, {}, {"events": [event("unreadable", "a")]}, 0)
    resumed = DataReport(tmp_path)
    resumed.load_state_dict(report.state_dict())
    events = [event("unreadable", "a"), event("truncated", "a"), event("unreadable", "b")]
    resumed.on_train_batch_end(trainer, module, {}, {"events": events}, 0)
    assert resumed.counts == {"unreadable": 3, "truncated": 1}  # validation meets the same clips again
    assert module.log_dict.call_args.args[0] == {"data/unreadable": 3.0, "data/truncated": 1.0}
    with report.file.open() as file:
        rows = [(row["when"], row["kind"], row["id"], row["path"], row["reason"]) for row in csv.DictReader(file)]
    assert rows == [
        ("step 7", "unreadable", "a", "a.mp4", "why"),
        ("step 7", "truncated", "a", "a.mp4", "why"),
        ("step 7", "unreadable", "b", "b.mp4", "why"),
    ]


def test_progress_bar_does_not_synchronize_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads in the first and in the last step only, if little time passes."""
    monkeypatch.setattr("vatt.training.callbacks.REFRESH_S", 1e6)
    bar, reads = StepBar(), []
    monkeypatch.setattr(bar, "get_metrics", lambda *args: reads.append(bar.train_progress_bar.n) or {})
    fit(make_module("masked"), make_batch("masked"), 5, [bar], enable_progress_bar=True)
    assert reads[:2] == [1, 5]
    assert bar.train_progress_bar.n == 5


def test_token_counts_are_numbers() -> None:
    """Tensors would have to be read from the device in every step."""
    throughput = Throughput()
    trainer = fit(make_module("masked"), make_batch("masked"), 2, [throughput], log_every_n_steps=2)
    assert trainer.callback_metrics["speed/tokens_per_s"] > 0
    for kind in PRETRAINING:
        module = make_module(kind)
        assert type(module.objective(module.backbone, make_batch(kind))["tokens"]) is int


def test_errors_of_a_full_disk_name_the_directory_if_they_name_no_file() -> None:
    trainer, callback = MagicMock(default_root_dir="runs/x"), NameDirectory()
    full, named, other = OSError(errno.ENOSPC, "full"), OSError(errno.ENOSPC, "full", "file"), OSError("other")
    for error in (full, named, other):
        callback.on_exception(trainer, MagicMock(), error)
    assert [error.filename for error in (full, named, other)] == ["runs/x", "file", None]
