from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vatt.datasets.manifest import read_manifest
from vatt.structures import Clip


@dataclass
class Done:
    """What a script did: its exit status, what it said, and what it wrote."""

    status: int
    out: str
    err: str
    clips: list[Clip]
    missing: list[list[str]]

    def by_id(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in self.clips}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "clips.jsonl"


@pytest.fixture
def prepare(output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run data/<name>/prepare.py as a program. Reading its manifest back looks for every file and for unique ids."""

    def call(name: str, *arguments: object) -> Done:
        script = str(ROOT / "data" / name / "prepare.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--output", str(output)])
        status = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        if status or not output.is_file():
            return Done(status, said.out, said.err, [], [])
        with output.with_suffix(".missing.csv").open(newline="", encoding="utf-8") as file:
            header, *missing = csv.reader(file)
        assert header == ["id", "looked_for"]
        return Done(status, said.out, said.err, read_manifest(output), missing)

    return call


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., Path]:
    """Make empty files below a folder "media" and return it."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "media" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"0")
        return tmp_path / "media"

    return make


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a text file and return its path."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return make
