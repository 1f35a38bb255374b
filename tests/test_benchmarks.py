"""The benchmark that counts is right on every machine; those that measure time are not run here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_the_papers_operations_are_met() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/flops.py")], capture_output=True, text=True, check=True
    )
    rows = re.findall(r"^(.+?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.MULTILINE)
    assert len(rows) == 10
    for name, _, _, _, ratio in rows:
        assert 0.99 < float(ratio) < 1.01, name
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for _, *numbers in rows:
        assert " | ".join(numbers) in results


def test_the_page_on_scaling_is_what_its_model_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/scaling.py")], capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "docs/cost_model.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_gpu_step_benchmark_runs(tmp_path: Path) -> None:
    """On the CPU, with a small model."""
    command = [sys.executable, str(ROOT / "benchmarks/gpu_step.py"), "--device", "cpu", "--tiny"]
    command += ["--minutes", "5", "--output", str(tmp_path / "table.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table in done.stdout
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| SMALL")]
    assert [row[2].strip() for row in rows] == ["–", "–", "1"]
    assert all(len(row) == 9 and float(row[4]) > 0 for row in rows)
