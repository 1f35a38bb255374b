"""vatt probe, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vatt.cli.main import main
from vatt.cli.probe import _layers, _put_together
from vatt.evaluation.features import FINAL
from vatt.media.encoding import write_media
from vatt.models.backbone import Backbone
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise around -0.5 and 0.5, of 1.5 s in three folds, and one file that is none."""
    folder = tmp_path_factory.mktemp("noises")
    rng, rows = np.random.default_rng(0), []
    for i in range(18):
        wave = rng.normal(size=12_000) * 0.01 + (-0.5, 0.5)[i % 2]
        write_media(folder / f"{i}.m4a", None, 25, wave.astype(np.float32), 8000)
        label = ("below", "above")[i % 2]
        rows.append({"path": f"{i}.m4a", "id": f"noise{i}", "label": label, "x_fold": 1 + i // 2 % 3})
    (folder / "bad.m4a").write_bytes(b"nothing")
    rows.append({"path": "bad.m4a", "id": "bad", "label": "below", "x_fold": 1})
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "clips.jsonl"


def test_layers_by_name() -> None:
    with torch.device("meta"):
        tower = Backbone({"video": VideoTokenizer(16)}, {"video": Transformer(16, 12, 2)})
    assert _layers(tower, "4ds") == ["10"]
    assert _layers(tower, "final") == [FINAL]
    assert _layers(tower, "all") == [*map(str, range(1, 13)), FINAL]
    assert _layers(tower, [3, 1, 3]) == ["3", "1"]


def test_probes_over_folds_layers_and_shares(
    noises: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "probe.json"
    given = ["probe", str(noises), "--model", str(model_folder), "--output", str(output), "--modality", "audio"]
    options = ["--folds", "[1,2,3]", "--layers", "all", "--windows", "2", "--steps", "50", "--num_workers", "0"]
    assert (
        main([*given, *options, "--kinds", "[linear,svm,knn,lowrank,attentive,readout]", "--shares", "[0.5,1.0]"]) == 1
    )
    printed = capsys.readouterr().out
    assert "unreadable: " in printed
    assert "18 of 19 test clips" in " ".join(printed.split())
    report = json.loads(output.read_text())
    assert report["clips present"] == "18 of 19"
    found = {name: value for name, value in report.items() if "labels" in name}
    assert len(found) == 2 * 6 * 3  # shares, kinds and layers
    for name, value in found.items():
        each = np.array(value["each"]).reshape(3, -1)  # folds by parts of the labels
        assert each.shape[1] == (3 if "50%" in name else 1)
        assert value["top-1 (%)"] == pytest.approx(each.mean(), abs=0.01)
        spread = each.mean(axis=0) if "50%" in name else each[:, 0]
        assert value["std"] == pytest.approx(np.std(spread, ddof=1), abs=0.01)
        assert value["std over"] == ("parts of the labels" if "50%" in name else "folds")
        assert value["training clips"] == (6 if "50%" in name else 12)
    assert report["training clips present"] == "36 of 38"
    assert report["chance"] == {"majority class (%)": 50.0, "1 / classes (%)": 50.0}
    assert "chance (%)" in printed
    assert set(report) >= {"configuration", "seed", "steps", "minutes", "pretraining", "code", "hardware"}
    assert found["linear, layer final, 100% of the labels"]["top-1 (%)"] > 90
    assert "| protocol |" in output.with_suffix(".md").read_text()


def test_any_split_and_layer_whatever_the_batches(
    noises: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in noises.read_text().splitlines()[:-1]]
    for row in rows:
        row["split"] = "val" if row.pop("x_fold") == 1 else "train"
    manifest, output = noises.with_name("splits.jsonl"), tmp_path / "probe.json"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    found = []
    for size, workers in (("1", "0"), ("7", "2"), ("32", "0")):
        given = ["probe", str(manifest), "--model", str(model_folder), "--output", str(output), "--modality", "audio"]
        options = ["--test_split", "val", "--layers", "[1]", "--kinds", "[linear,attentive]", "--steps", "30"]
        assert main([*given, *options, "--batch_size", size, "--num_workers", workers]) == 0
        report = json.loads(output.read_text())
        found.append(
            {name: report[name]["each"] for name in report if "labels" in name} | {"": report["configuration"]}
        )
    assert list(found[0]) == ["linear, layer 1, 100% of the labels", "attentive, layer 1, 100% of the labels", ""]
    assert found[0] == found[1] == found[2]
    clips = f"{manifest}: 12 training clips (split 'train'), 6 test clips (split 'val')\n"
    assert clips in capsys.readouterr().out  # and no validation clips, since nothing is chosen by them
    assert main([*given, "--layers", "[1]"]) == 2
    output = capsys.readouterr()
    assert "no row has split 'test'; column 'split' holds train, val. Give rows the splits" in output.err
    assert "not used: 6 rows of split 'val'" in output.out
    manifest.write_text("\n".join(json.dumps({**row, "split": None}) for row in rows))
    assert main(given) == 2
    assert f"{manifest}: no row has a split. Give rows the splits train and test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "[4]"], "no row is to be tested in fold 4; found: 1, 2, 3"),
        ([], "choose a fold"),
        (["--folds", "[1]", "--windows", "0"], "--windows must lie in [1, inf), not 0"),
        (["--folds", "[1]", "--layers", "[3]"], "layers are numbers from 1 to 2, not [3]"),
    ],
)
def test_what_cannot_be_probed_is_said(
    noises: Path, model_folder: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    given = ["probe", str(noises), "--model", str(model_folder), "--output", str(tmp_path / "p.json")]
    assert main([*given, "--modality", "audio", *options]) == 2
    assert message in capsys.readouterr().err


def test_attention_over_all_windows_at_once_and_crops(
    noises: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens keep their order: of the windows, then of the squares."""
    views = torch.arange(2 * 3 * 2 * 4).view(2, 6, 4, 1)  # clips, windows x squares, tokens
    for square in range(2):
        found = _put_together(views, 3)[:, square]
        assert torch.equal(found, torch.cat([views[:, 2 * window + square] for window in range(3)], dim=1))
    output = tmp_path / "probe.json"
    given = ["probe", str(noises), "--model", str(model_folder), "--output", str(output), "--modality", "audio"]
    options = ["--folds", "[1]", "--windows", "2", "--steps", "60", "--num_workers", "0", "--together", "true"]
    assert main([*given, *options, "--kinds", "[attentive]"]) == 1  # one file is none
    report = json.loads(output.read_text())
    assert "tokens of 2 windows at once" in report["protocol"]
    assert report["attentive, layer final, 100% of the labels"]["top-1 (%)"] > 90
    for more, message in (
        (["--kinds", "[linear,attentive]"], "ask for --kinds [attentive], not linear, attentive"),
        (["--kinds", "[attentive]", "--crops", "3"], "audio has none"),
    ):
        assert main([*given, *options, *more]) == 2
        assert message in capsys.readouterr().err


def test_three_squares_of_each_window(model_folder: Path, tmp_path: Path) -> None:
    """Wide pictures, bright or dark."""
    rows = []
    for i in range(16):
        frames = np.full((8, 32, 96, 3), (40, 220)[i % 2] + i // 2, np.uint8)
        write_media(tmp_path / f"{i}.mp4", frames, 8)
        split = "train" if i < 10 else "test"
        rows.append({"path": f"{i}.mp4", "id": str(i), "label": ("dark", "bright")[i % 2], "split": split})
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "probe.json"
    given = ["probe", str(tmp_path / "clips.jsonl"), "--model", str(model_folder), "--output", str(output)]
    options = ["--kinds", "[attentive]", "--windows", "2", "--crops", "3", "--together", "true", "--steps", "60"]
    assert main([*given, *options, "--num_workers", "0"]) == 0
    report = json.loads(output.read_text())
    assert "so in 3 squares" in report["protocol"]
    assert report["attentive, layer final, 100% of the labels"]["top-1 (%)"] > 90
