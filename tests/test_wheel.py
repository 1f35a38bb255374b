"""The wheel and the source distribution are complete, and commands work from the wheel in an empty directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from vatt import __version__

SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "configs", "data", "pyproject.toml", "setup.cfg", "setup.py", "vatt")


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a "wheel" or an "sdist" of a source directory, as pip does, without installing build dependencies."""
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(output)!r})"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, env=environment, stdout=subprocess.DEVNULL)
    return next(output.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that are built, with files that must not be distributed."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)
    for name in ("data/grid/clip.mp4", "data/videos.csv", "configs/demo.yaml~"):
        (folder / name).write_bytes(b"0")
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_wheel_contains_the_package_configurations_and_dataset_scripts(wheel: Path) -> None:
    expected = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vatt").rglob("*.py")} | {"vatt/py.typed"}
    expected |= {f"vatt/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"vatt/configs/cluster/{path.name}" for path in (ROOT / "configs/cluster").iterdir()}
    expected |= {f"vatt/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "data").glob("*/*.py")}
    expected |= {"vatt/data/README.md"}
    info = f"vatt-{__version__}.dist-info"
    expected |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt")}
    assert names_in(wheel) == expected | {f"{info}/licenses/LICENSE"}
    assert wheel.name == f"vatt-{__version__}-py3-none-any.whl"


def test_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", source, tmp_path)) as file:
        file.extractall(tmp_path, filter="data")
    unpacked = tmp_path / f"vatt-{__version__}"
    assert not (unpacked / "data/grid/clip.mp4").exists()
    assert names_in(build("wheel", unpacked, tmp_path / "again")) == names_in(wheel)


@pytest.mark.slow
def test_commands_work_from_the_wheel_in_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)

    def run(code: str, *argv: str) -> str:
        command, environment = [sys.executable, "-c", code, *argv], os.environ | {"PYTHONPATH": str(installed)}
        return subprocess.run(command, cwd=empty, env=environment, check=True, capture_output=True, text=True).stdout

    def vatt(*argv: str) -> str:
        return run("import sys; from vatt.cli.main import main; sys.exit(main())", *argv)

    path = run("from vatt.resources import find_config; print(find_config('demo'))")
    assert path == f"{installed / 'vatt/configs/demo.yaml'}\n"
    config = yaml.safe_load(vatt("pretrain", "fit", "--config", "demo", "--print_config"))
    assert config["data"]["manifest"] == "runs/shapes/manifest.jsonl"
    assert config["model"]["objective"]["class_path"] == "vatt.objectives.contrastive.Contrastive"
    assert "  esc50 " in vatt("manifest", "--help")
    assert "usage: vatt manifest grid " in vatt("manifest", "grid", "--help")
    assert not list(empty.iterdir())
