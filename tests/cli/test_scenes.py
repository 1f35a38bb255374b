"""vatt scenes and vatt readout, as they are typed, on very few scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vatt.cli.main import main
from vatt.cli.scenes import _as_large, _block, _first, _j_and_f
from vatt.models.backbone import Backbone
from vatt.models.heads import NoProjection
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.preparation.scenes import FPS, FRAMES, SHAPES, SIZE
from vatt.structures import ClipFormat


def tower(depth: int = 1) -> Backbone:
    tokenizer = VideoTokenizer(16, (8, 8, 8), (2, 8, 8), positions="fixed")
    return Backbone({"video": tokenizer}, {"video": Transformer(16, depth, 2, agg=False)})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["scenes", str(folder), "--num_train", "6", "--num_test", "3", "--num_workers", "1"]) == 0
    return folder / "manifest.jsonl"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    format = ClipFormat(num_frames=FRAMES, fps=FPS, size=SIZE)
    VATT(tower(), NoProjection(), format).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("options", [(), ("--layer", "1", "--untrained", "false"), ("--frozen", "false")])
def test_readouts_are_trained_and_reported(scenes: Path, model: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    report = tmp_path / "report.json"
    command = ["readout", str(scenes), "--model", str(model), "--output", str(report), "--steps", "2"]
    assert main([*command, "--num_workers", "0", *options]) == 0
    found = json.loads(report.read_text())
    towers = {"trained", "without looking"} | ({"random weights"} if "--untrained" not in options else set())
    for name in towers:
        assert set(found[name]) == {
            "J", "F", "J&F", "AbsRel", "end-point error", "average Jaccard", "mean IoU"
        }  # fmt: skip
        assert found[name]["J&F"] == pytest.approx((found[name]["J"] + found[name]["F"]) / 2)
    assert ("random weights" in found) == ("random weights" in towers)
    assert "6 to train, 3 to test" in found["scenes"]
    assert ("trained too" in found["protocol"]) == ("--frozen" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tasks", '["smell"]'), "not smell"),
        (("--layer", "2"), "a number from 1 to 1, not '2'"),
        (("--layer", "1", "--frozen", "false"), "leave --layer out"),
    ],
)
def test_what_cannot_be_is_refused(
    scenes: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    command = ["readout", str(scenes), "--model", str(model), "--output", str(tmp_path / "r.json")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err


def test_models_of_other_clips_are_refused(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    VATT(tower(), NoProjection(), ClipFormat(num_frames=16, fps=5, size=64)).save_pretrained(tmp_path / "model")
    command = ["readout", str(scenes), "--model", str(tmp_path / "model"), "--output", str(tmp_path / "r.json")]
    assert main(command) == 2
    assert "at 5 fps; scenes have 16 of 64 x 64 at 10" in capsys.readouterr().err


@pytest.mark.parametrize(("depth", "blocks"), [(12, 10), (24, 21), (32, 29), (40, 36), (48, 44), (56, 52)])
def test_4ds_reads_where_its_code_does(depth: int, blocks: int) -> None:
    """The table of its sizes: how many blocks are applied."""
    with torch.device("meta"):
        assert _block(tower(depth), "4ds") == blocks - 1
        assert _block(tower(depth), "final") is None
        assert _block(tower(depth), "3") == 2


def test_labels_that_are_right_are_perfect() -> None:
    shape = torch.zeros(1, FRAMES, SIZE, SIZE, dtype=torch.uint8)
    for number in range(1, 1 + SHAPES):
        shape[:, :, 16 * number - 8 : 16 * number, 8:40] = number
    maps = F.one_hot(shape.long(), 1 + SHAPES).float()
    assert _j_and_f(_as_large(maps, shape), shape)["J&F"] == 1
    shares = _first(shape, (8, 8, 8))[:, None].expand(-1, 8, -1, -1, -1)
    still = _j_and_f(_as_large(shares, shape), shape)  # nothing moves, and the grid of 8 pixels has the same edges
    assert 0.9 < still["J"] < 1  # the corners are rounded
    moved = torch.cat([shape[:, :1], shape[:, 1:].roll(24, dims=-1)], dim=1)
    for known, j in ((shape, 1.0), (moved, 1 / 7)):  # the first frame, pixel by pixel
        assert _j_and_f(known[:, :1].expand_as(known), known)["J"] == pytest.approx(j)
