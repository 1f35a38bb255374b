"""Every shipped configuration is built, as the command line would build it, and takes one batch of its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import ROOT
from vatt.cli.training import VattCLI, build_pretraining
from vatt.datasets.text import WordVocabulary
from vatt.structures import Batch, ClipFormat

CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(CONFIGS.glob("*.yaml"))
PARTS = sorted(CONFIGS.glob("*/*.yaml"))


def build(*argv: str) -> VattCLI:
    return build_pretraining(list(argv))


@pytest.fixture
def needs(tmp_path: Path) -> list[str]:
    """What configurations ask of the user: a manifest and a vocabulary."""
    WordVocabulary(["a", "red", "ring"]).save(tmp_path / "vocabulary")
    return [f"--data.manifest={tmp_path}/clips.jsonl", f"--data.vocabulary={tmp_path}/vocabulary"]


def batch_of(format: ClipFormat, clips: int = 2) -> Batch:
    """Random clips of a format."""
    text = torch.zeros(clips, format.num_texts, format.num_words, dtype=torch.int64)
    text[..., 0] = torch.arange(2, clips + 2)[:, None]
    return {
        "id": [str(i) for i in range(clips)],
        "video": torch.rand(clips, format.num_frames, 3, format.size, format.size) * 2 - 1,
        "video_valid": torch.ones(clips, dtype=torch.bool),
        "audio": torch.rand(clips, format.num_samples) * 2 - 1,
        "audio_valid": torch.ones(clips, dtype=torch.bool),
        "text": text,
        "text_valid": torch.ones(clips, format.num_texts, dtype=torch.bool),
        "events": [],
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_every_experiment_is_built_and_fits_its_data(path: Path, needs: list[str], tmp_path: Path) -> None:
    cli = build("--config", str(path), *needs, f"--run.folder={tmp_path}")
    assert cli.trainer.max_steps > 0
    cli.model.train()
    losses = cli.model.objective(cli.model.backbone, batch_of(cli.datamodule.format))
    assert {"loss", "video_audio", "video_text"} <= losses.keys()
    losses["loss"].backward()
    idle = [name for name, p in cli.model.named_parameters() if p.grad is None]
    assert idle == []


def test_every_part_is_used_by_an_experiment() -> None:
    def files(node: Any) -> set[str]:
        if isinstance(node, dict):
            return set().union(*(files(value) for value in node.values()), set())
        return {node} if isinstance(node, str) and node.endswith(".yaml") else set()

    used = set().union(*(files(yaml.safe_load(path.read_text())) for path in EXPERIMENTS))
    assert used == {path.relative_to(CONFIGS).as_posix() for path in PARTS}
    assert EXPERIMENTS


def test_shared_and_separate_transformers_differ_by_configuration_alone(needs: list[str], tmp_path: Path) -> None:
    for name, shared in (("demo", False), ("demo_agnostic", True)):
        backbone = build("--config", str(CONFIGS / f"{name}.yaml"), *needs, f"--run.folder={tmp_path}").model.backbone
        assert backbone.shared is shared


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--model.objective.init_args.drop_vidio=0.1", "drop_vidio"),
        ("--model.objective.init_args.drop_video=much", "drop_video"),
        ("--data.format.fpss=3", "fpss"),
        ("--trainer.max_stepz=3", "max_stepz"),
        ("--run.foldr=x", "foldr"),
        ("--model.optimization.lr=fast", "lr"),
    ],
)
def test_a_misspelt_key_or_a_wrong_value_is_named(
    argument: str, said: str, needs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build("--config", str(CONFIGS / "demo.yaml"), *needs, argument)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_misspelt_key_in_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/objective.yaml").write_text(
        (CONFIGS / "objective/contrastive_small.yaml").read_text().replace("temperature", "temprature")
    )
    experiment = (CONFIGS / "demo.yaml").read_text().replace("objective/contrastive_small.yaml", "parts/objective.yaml")
    for room in ("backbone", "data", "trainer"):
        experiment = experiment.replace(f"{room}/", f"{CONFIGS}/{room}/")
    (tmp_path / "experiment.yaml").write_text(experiment)
    with pytest.raises(SystemExit):
        build("--config", str(tmp_path / "experiment.yaml"))
    assert "temprature" in capsys.readouterr().err
