"""Static checks of the files that hosting services and packaging tools read, and of CONTRIBUTING.md."""

from __future__ import annotations

import configparser
import json
import re
import tomllib

import pytest
import yaml

from tests.conftest import ROOT
from vatt.cli.main import COMMANDS
from vatt.models.tokenizers import Tokenizer
from vatt.objectives.base import Objective

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def load_yaml(name: str) -> dict:
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), yaml.BaseLoader)


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


@pytest.fixture
def job() -> dict:
    """The job of the workflow."""
    return load_yaml(".github/workflows/ci.yml")["jobs"]["test"]


def test_workflow_calls_targets_of_the_makefile(job: dict) -> None:
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        program, target, *options = command.split()
        assert program == "make"
        assert target in TARGETS
        assert options == ["PYTHON=python"]


def test_workflow_runs_on_every_system_and_python(job: dict) -> None:
    matrix = job["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    assert min(map(version, matrix["python"])) == version(SETUP["options"]["python_requires"].removeprefix(">="))
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert classifiers
    assert set(classifiers) <= set(matrix["python"])
    setup_python = next(step for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert setup_python["with"]["python-version"] == "${{ matrix.python }}"
    assert (ROOT / setup_python["with"]["cache-dependency-path"]).is_file()


def test_linter_checks_for_the_oldest_python() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert f">={ruff['target-version'].replace('py3', '3.')}" == SETUP["options"]["python_requires"]


def test_dockerfile_runs_the_demonstration() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    instructions = {word: rest for word, _, rest in (line.partition(" ") for line in lines) if word.isupper()}
    command = json.loads(instructions["ENTRYPOINT"]) + json.loads(instructions["CMD"])
    assert command == ["vatt", "demo"]
    assert command[1] in COMMANDS
    python = re.fullmatch(r"python:([\d.]+)-slim", instructions["FROM"])
    assert f"Python :: {python[1]}" in SETUP["metadata"]["classifiers"]
    extra = re.search(r'pip install .*"/source\[(\w+)\]"', instructions["RUN"])
    assert extra[1] in SETUP["options.extras_require"]
    assert instructions["COPY"] == ". /source"


def test_docker_context_has_what_the_installation_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    included = {line[1:] for line in lines if line.startswith("!")}
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "vatt", "configs", "data"}
    needed |= {SETUP["metadata"]["license_files"], SETUP["metadata"]["long_description"].removeprefix("file: ")}
    assert included == needed
    assert all((ROOT / name).exists() for name in included)


def test_citation_has_its_required_fields() -> None:
    citation = load_yaml("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "vatt contributors"}]
    assert citation["license"] == SETUP["metadata"]["license"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year"} <= paper.keys()
    assert paper["authors"][0] == {"given-names": "Hassan", "family-names": "Akbari"}
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2104.11178"}]


def test_paths_in_contributing_exist() -> None:
    paths = re.findall(r"`([\w./]+/[\w./]+)`", CONTRIBUTING)
    paths = [path for path in paths if "NAME" not in path and not path.startswith("build/")]  # build/ holds outputs
    assert len(paths) > 10
    for path in [*paths, "CHANGELOG.md", "setup.cfg", "pyproject.toml"]:
        assert (ROOT / path).exists(), path


def test_classes_in_contributing_are_importable_and_complete() -> None:
    for kind in (Tokenizer, Objective):
        assert f"`{kind.__module__}.{kind.__qualname__}`" in CONTRIBUTING
        section = CONTRIBUTING.partition(f"`{kind.__module__}.{kind.__qualname__}`")[2].partition("\n2. ")[0]
        named = set(re.findall(r"`(\w+)` \(", section))
        assert named == set(kind.__abstractmethods__)
    for path in re.findall(r"`(vatt(?:\.\w+)+)`", CONTRIBUTING):
        module, _, name = path.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), path


def test_commands_in_contributing_exist() -> None:
    targets = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", CONTRIBUTING, re.MULTILINE))
    assert {"lint", "format", "test", "test-fast"} <= targets
    assert targets <= TARGETS
    assert set(re.findall(r"`vatt (\w+)", CONTRIBUTING)) <= set(COMMANDS)
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    for marker in markers["markers"]:
        assert f"`{marker.partition(':')[0]}`" in CONTRIBUTING
