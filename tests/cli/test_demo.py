"""The demonstration, made small: every command of it, what it leaves behind, and that it is used again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT
from vatt.cli import measures
from vatt.cli import steps as module
from vatt.cli.demo import demo
from vatt.cli.main import main
from vatt.cli.steps import CommandFailed
from vatt.evaluation import linear_probe as classifiers
from vatt.models.vatt import VATT


def shrink(name: str, tmp_path: Path) -> Path:
    """A configuration of the demonstration with 4 steps of 4 clips."""
    experiment = yaml.safe_load((ROOT / "configs" / name).read_text())
    parts = tmp_path / f"parts_{name}"
    parts.mkdir()
    for room, change in (("data", {"batch_size": 4, "num_workers": 0}), ("trainer", {"max_steps": 4})):
        part = yaml.safe_load((ROOT / "configs" / experiment[room]).read_text()) | change
        if "max_steps" in change:
            part |= {"val_check_interval": 2, "log_every_n_steps": 1}
        (parts / f"{room}.yaml").write_text(yaml.safe_dump(part))
        experiment[room] = f"{parts.name}/{room}.yaml"
    for room in ("backbone", "objective"):
        experiment["model"][room] = str(ROOT / "configs" / experiment["model"][room])
    experiment["model"]["optimization"]["warmup_steps"] = 1
    path = tmp_path / f"small_{name}"
    path.write_text(yaml.safe_dump(experiment))
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of the demonstration, made small, on a corpus of 20."""
    sizes = "--clips_per_combination 1 --num_test 4 --num_val 4 --num_train 12 --num_workers 1"
    monkeypatch.setattr(module, "CORPUS", tuple(sizes.split()))
    return shrink("demo.yaml", tmp_path)


@pytest.mark.slow
def test_it_leaves_what_it_says_and_uses_it_again(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    assert demo(str(config), str(run), str(corpus)) == 0
    first = capsys.readouterr().out
    report = json.loads((run / "report.json").read_text())
    for direction in ("text_to_video", "video_to_text", "audio_to_video", "video_to_audio"):
        assert {"R@1", "R@5", "R@10", "MedR", "gallery", "chance"} <= report[direction].keys()
        assert report[direction]["gallery"] == 4
    assert report["steps"] == 4
    assert report["minutes"] >= 0
    model_hash = VATT.from_pretrained(run / "model").model_hash()
    page = (run / "model" / "README.md").read_text()
    for told in ("| objective | Contrastive: L = ", "| steps | 4 |", "| batch size | 4 |", "| text to video | "):
        assert told in page
    assert json.loads((run / "index" / "index.json").read_text())["model"] == model_hash
    for name in ("query_1", "query_2", "query_3", "curves"):
        assert min(Image.open(run / "pictures" / f"{name}.png").size) > 200
    assert first.count("$ vatt search") == 3
    assert "there already" not in first

    weights = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert demo(str(config), str(run), str(corpus)) == 0
    again = capsys.readouterr().out
    assert again.count("there already") == 5  # corpus, vocabulary, model, embeddings, index
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == weights
    assert json.loads((run / "report.json").read_text())["text_to_video"] == report["text_to_video"]


def test_a_command_that_fails_ends_it(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CORPUS", ("--num_test", "9999"))
    with pytest.raises(CommandFailed, match="vatt synth"):
        demo(str(config), str(tmp_path / "run"), str(tmp_path / "corpus"))


@pytest.mark.parametrize("command", [["demo", "--config"], ["droptoken", "--config"], ["compare", "--configs"]])
def test_unknown_configuration_is_an_error_with_close_names(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "['demo_mask']" if command[0] == "compare" else "demo_mask"]) == 2
    assert "there is no configuration 'demo_mask', neither" in (error := capsys.readouterr().err)
    assert "did you mean demo_videomae or" in error
    assert not list(tmp_path.iterdir())


def test_rates_of_droptoken_are_compared(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["droptoken", "--config", str(config), "--output", str(tmp_path / "drop"), "--rates", "[0.5,0]"]
    command += ["--corpus", str(tmp_path / "corpus"), "--max_steps", "3"]
    assert main(command) == 0
    table = json.loads((tmp_path / "drop" / "table.json").read_text())
    half, whole = table["rates"]
    assert (half["drop"], whole["drop"]) == (0.5, 0)
    # Half of the tokens are more than half of the operations: texts are not dropped, patches are all embedded.
    assert 0.4 * whole["gflops"] < half["gflops"] < 0.9 * whole["gflops"]
    retrieved = {f"{m} → video R@{k}" for m in ("text", "audio") for k in (1, 5)}
    assert set(half["metrics"]) == {*retrieved, "shape, linear probe"}
    assert (half["steps"], half["seed"]) == (3, 0)
    for rate, run in ((0.5, "drop_50"), (0.0, "drop_0")):
        said = yaml.safe_load((tmp_path / "drop" / run / "config.yaml").read_text())
        assert said["model"]["objective"]["init_args"]["drop_video"] == rate
        assert json.loads((tmp_path / "drop" / run / "model" / "training.json").read_text())["steps"] == 3
    assert "| 50% |" in (tmp_path / "drop" / "table.md").read_text()
    assert Image.open(tmp_path / "drop" / "droptoken.png").size[0] > 500
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("there already") >= 5  # vocabulary, two models and their vectors
    assert main([*command[:-2], "--rates", "[0.5,0.5]"]) == 2
    assert main([*command[:-1], "4"]) == 2  # what is there was trained for three steps
    assert "training of another configuration" in capsys.readouterr().err


@pytest.mark.slow
def test_ways_to_pretrain_are_compared(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "SCENES", ("--num_train", "6", "--num_test", "3", "--num_workers", "1"))
    monkeypatch.setattr(measures, "STEPS", 3)
    monkeypatch.setattr(classifiers, "STRENGTHS", [0.1, 10.0])
    monkeypatch.setattr(measures, "TRACKING", (*measures.TRACKING, "--steps", "3"))
    others = [str(shrink(f"demo_{name}.yaml", tmp_path)) for name in ("vjepa", "videomae")]
    command = ["compare", "--configs", json.dumps([str(config), *others]), "--output", str(tmp_path / "compare")]
    command += ["--corpus", str(tmp_path / "corpus"), "--labels", '["shape"]', "--shares", "[0.5]"]
    command += ["--scenes", str(tmp_path / "scenes")]
    assert main([*command, "--tflops", "0.03"]) == 0
    table = json.loads((tmp_path / "compare" / "table.json").read_text())
    ways = table["ways"]
    names = [f"small_demo_{name}" for name in ("vjepa", "videomae")]
    # Masked autoencoding and feature prediction have the same tower, so it is untrained once.
    random = [f"untrained, as {name}" for name in ("small_demo", "small_demo_vjepa")]
    assert list(ways) == [*random, "small_demo", *names]
    for name in names:
        assert ways[name]["tokens"] == ways[name]["clips"] * 128
    for name, way in ways.items():
        probed = {f"{kind}, layer final, 100% of the labels" for kind in ("linear", "knn", "attentive")}
        assert probed | {"linear, layer 2, 100% of the labels"} <= way["probes"]["shape"].keys()
        assert {"average Jaccard", "mean IoU", "J", "F", "J&F"} == way["tracking"].keys()
        if name in random:
            assert way["steps"] == 0
            continue
        # As many steps as the operations allow, to half a step of four clips.
        assert way["TFLOPs"] == pytest.approx(0.03, abs=2.1e-3 * way["GFLOPs a clip"] + 0.005)
        history = json.loads((tmp_path / "compare" / name / "model" / "training.json").read_text())
        assert history["steps"] == way["steps"]
        assert len(way["loss"]) == 2
    assert any(name.endswith("_rank") for name in ways["small_demo_vjepa"]["health"])
    assert ways["small_demo"]["sees"] == "video, audio, text"
    assert "retrieval" in ways["small_demo"]
    assert "retrieval" not in ways["small_demo_videomae"]
    assert Image.open(tmp_path / "compare" / "compare.png").size[0] > 500
    page = (tmp_path / "compare" / "table.md").read_text()
    assert "| untrained, as small_demo |" in page
    assert "**ways**" not in page
    first = capsys.readouterr().out
    # Other shares of the labels are probed anew, and nothing else.
    again = [*command, "--tflops", "0.03"]
    again[again.index("--shares") + 1] = "[0.9]"
    assert main(again) == 0
    anew = [line for line in capsys.readouterr().out.split("\n$ ") if "there already" not in line]
    assert sum(line.startswith("vatt probe") for line in anew) == len(ways)
    assert sum(line.startswith("vatt probe") for line in first.split("\n$ ")) == 3 * len(ways)
    assert not any(line.startswith(("vatt pretrain", "vatt readout", "vatt embed")) for line in anew)
    capsys.readouterr()
    command[command.index("--configs") + 1] = json.dumps([str(config)])
    assert main([*command, "--tflops", "0.5"]) == 2  # what is there was trained with less
    assert "training of another configuration" in capsys.readouterr().err
    assert main([*command, "--tflops", "1e-9"]) == 2
    assert "would have 0 steps, and its warm-up alone has 1: give --tflops" in capsys.readouterr().err
    assert main([*command[:-6], "--labels", '["taste"]', "--tflops", "0.03"]) == 2
    assert "not 'taste'" in capsys.readouterr().err


def test_a_training_that_probes_do_not_see_is_a_collapse() -> None:
    """A collapse is told by probes, not by the loss; what may be chance is none of their merit."""

    def found(*top1: float, clips: int = 216) -> dict[str, dict[str, float]]:
        key = measures.key("linear")
        return {name: {key: x, "test clips": clips} for name, x in zip("ab", top1, strict=False)}

    assert measures.collapsed(found(20.0), found(20.0))
    assert measures.collapsed(found(25.0), found(20.0))  # an error of 4 points
    assert not measures.collapsed(found(30.0), found(20.0))
    assert not measures.collapsed(found(25.0, clips=21_600), found(20.0))
    assert not measures.collapsed(found(20.0, 90.0), found(20.0, 20.0))
