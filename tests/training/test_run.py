from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vatt.training.run import Run, run_loggers

LOG = """
import sys
from vatt.training.run import Run, run_loggers
for logger in run_loggers(Run(sys.argv[1])):
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.save()
assert "tensorflow" not in sys.modules
"""


def test_tensorboard_does_not_bring_tensorflow_along(tmp_path: Path) -> None:
    """In a process of its own, with a TensorFlow that nobody may import."""
    pytest.importorskip("tensorboard")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    environment = {"PYTHONPATH": f"{tmp_path / 'path'}:{Path(__file__).parents[2]}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", LOG, str(tmp_path / "run")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert list((tmp_path / "run").rglob("metrics.csv"))


def test_there_are_logs_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("tensorboard")

    monkeypatch.setattr("vatt.training.run.TensorBoardLogger", missing)
    with pytest.warns(UserWarning, match=r"pip install \"vatt\[logs\]\""):
        (logger,) = run_loggers(Run(str(tmp_path)))
    assert type(logger).__name__ == "CSVLogger"
