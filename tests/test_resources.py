from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from vatt import resources
from vatt.cli.training import build_pretraining
from vatt.cli.training_options import resolve_config_names
from vatt.errors import InputError
from vatt.resources import dataset_scripts, find_config, packaged_configs, resource_dir


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start in an empty directory."""
    monkeypatch.chdir(tmp_path)


def test_directories_are_beside_the_package_in_a_checkout() -> None:
    assert resource_dir("configs") == ROOT / "configs"
    assert resource_dir("data") == ROOT / "data"


def test_directories_are_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    for path in ("configs/data/a.yaml", "data/b/prepare.py", "data/c/other.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert packaged_configs() == {"data/a": tmp_path / "configs/data/a.yaml"}
    assert dataset_scripts() == {"b": tmp_path / "data/b/prepare.py"}


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "data/shapes", "backbone/transformer/base"])
def test_names_of_packaged_configurations_are_resolved(name: str) -> None:
    assert find_config(name) == ROOT / "configs" / f"{name.removesuffix('.yaml')}.yaml"


def test_files_take_precedence_over_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("demo").mkdir()
    assert find_config("demo") == ROOT / "configs/demo.yaml"
    Path("demo.yaml").touch()
    assert find_config("demo.yaml") == Path("demo.yaml")
    assert find_config("~/demo.yaml") == tmp_path / "demo.yaml"
    assert find_config("demo") == ROOT / "configs/demo.yaml"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pretrain_smal", "; did you mean pretrain_small or "),
        ("configs/demo.yaml", "; did you mean demo?"),
        ("qqqqqqqqqq", "; packaged configurations are in "),
    ],
)
def test_unknown_names_list_close_matches(name: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        find_config(name)
    assert f"there is no configuration {name!r}, neither as a file nor packaged with vatt{hint}" in str(raised.value)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["fit", "--config", "demo", "--config=demo_vjepa"], ["fit", "--config", "{demo}", "--config={demo_vjepa}"]),
        (["fit", "-c", "demo.yaml"], ["fit", "-c", "{demo}"]),
        (["--config", "{run: {folder: x}}"], ["--config", "{run: {folder: x}}"]),
        (["--data", "data/shapes"], ["--data", "{data/shapes}"]),
        (["--trainer=trainer/gpu.yaml"], ["--trainer={trainer/gpu}"]),
        (["--data.manifest", "data/shapes"], ["--data.manifest", "data/shapes"]),
        (["--data", "data/none", "--trainer=x"], ["--data", "data/none", "--trainer=x"]),
        (["--model.backbone={class_path: " + "x" * 5000 + "}"], ["--model.backbone={class_path: " + "x" * 5000 + "}"]),
        (["--run.folder=a=demo", "demo"], ["--run.folder=a=demo", "demo"]),
    ],
)  # fmt: skip
def test_names_among_arguments_are_resolved(argv: list[str], expected: list[str]) -> None:
    paths = {f"{{{name}}}": str(path) for name, path in packaged_configs().items()}

    def filled(word: str) -> str:
        for key, path in paths.items():
            word = word.replace(key, path)
        return word

    assert resolve_config_names(argv) == [filled(word) for word in expected]


def test_a_part_in_the_current_directory_takes_precedence(tmp_path: Path) -> None:
    Path("data").mkdir()
    Path("data/shapes.yaml").touch()
    assert resolve_config_names(["--data", "data/shapes.yaml"]) == ["--data", "data/shapes.yaml"]


def test_training_is_built_by_names_of_configurations(tmp_path: Path) -> None:
    options = ["--data", "data/shapes_video", "--data.manifest=none", f"--run.folder={tmp_path}"]
    cli = build_pretraining(["--config", "demo_videomae", *options])
    assert cli.datamodule.format.num_texts
    assert cli.model.backbone.modalities == ("video",)
