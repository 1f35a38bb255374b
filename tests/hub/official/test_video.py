"""The released V-JEPA: the target encoder is read, and nothing missing or unknown is ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vatt.errors import InputError
from vatt.hub.official.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vatt.hub.official.video import convert
from vatt.models.positions import SinCos3D


def normalised(video: torch.Tensor) -> torch.Tensor:
    """Convert pixels in [-1, 1] to those that V-JEPA was trained on."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return ((video + 1) / 2 - mean) / std


@pytest.fixture
def vjepa(tmp_path: Path) -> Path:
    """With the names of the released files."""
    torch.manual_seed(0)
    width, tensors = 192, {}
    shapes = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
    }  # fmt: skip
    for name, shape in {**{f"blocks.0.{name}": shape for name, shape in shapes.items()}, "norm": (width,)}.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.randn(shape) * 0.1, torch.randn(shape[0]) * 0.1
    tensors["patch_embed.proj.weight"] = torch.randn(width, 3, 2, 16, 16) * 0.02
    tensors["patch_embed.proj.bias"] = torch.randn(width)
    places = torch.cartesian_prod(torch.arange(8), torch.arange(2), torch.arange(2)).unsqueeze(0)
    tensors["pos_embed"] = SinCos3D(3, width)(places)
    named = {f"module.backbone.{name}": x for name, x in tensors.items()}
    other = {name: x + 1 for name, x in named.items()}
    path = tmp_path / "vitt16.pth.tar"
    torch.save({"target_encoder": named, "encoder": other, "predictor": {}, "opt": {}, "epoch": 300}, path)
    return path


def test_the_target_encoder_of_vjepa_is_read(vjepa: Path) -> None:
    model, report = convert(vjepa)
    weights = torch.load(vjepa, weights_only=True)["target_encoder"]
    block = model.backbone.encoder("video").blocks[0]
    assert torch.equal(block.attention.qkv.weight, weights["module.backbone.blocks.0.attn.qkv.weight"])
    assert block.attention.heads == 3
    assert model.format.num_frames == 16
    assert model.format.size == 32
    assert {"predictor", "opt", "epoch", "encoder"} <= set(report.ignored)
    video = torch.rand(1, 16, 3, 32, 32) * 2 - 1
    stem = torch.nn.functional.conv3d(
        normalised(video).transpose(1, 2), weights["module.backbone.patch_embed.proj.weight"],
        weights["module.backbone.patch_embed.proj.bias"], stride=(2, 16, 16),
    )  # fmt: skip
    expected = stem.flatten(2).transpose(1, 2) + weights["module.backbone.pos_embed"]
    torch.testing.assert_close(model.backbone.tokenize("video", video).x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.norm1.bias": None}, "missing: blocks.0.norm1.bias"),
        ({"blocks.0.mlp.fc1.weight": None}, "missing: blocks.0.mlp.fc1.weight"),
        ({"blocks.0.mlp.fc3.weight": torch.zeros(1)}, "unknown: blocks.0.mlp.fc3.weight"),
        ({"norm.bias": torch.full((192,), torch.nan)}, "norm.bias: a number is NaN"),
        ({"norm.bias": torch.zeros(3)}, "norm.bias gives .* the shape"),
        ({"norm.bias": torch.zeros(192, dtype=torch.int8)}, "norm.bias is of type torch.int8"),
        ({"norm.bias": 3}, "has values that are not tensors"),
        ({"pos_embed": torch.zeros(1, 32, 192)}, "pos_embed is not V-JEPA's sines"),
        ({"pos_embed": torch.zeros(1, 33, 192)}, "was not released with width 192, 33 positions"),
        ({"pos_embed": None}, "Of V-JEPA 2, which has no pos_embed, pass the directory"),
        ({"patch_embed.proj.weight": torch.zeros(192, 768)}, "has no patch_embed.proj.weight and pos_embed"),
    ],
)
def test_tensors_that_do_not_fit_are_named(vjepa: Path, tensors: dict[str, Any], message: str) -> None:
    whole = torch.load(vjepa, weights_only=True)
    changed = whole["target_encoder"] | {f"module.backbone.{name}": x for name, x in tensors.items()}
    whole["target_encoder"] = {name: x for name, x in changed.items() if x is not None}
    torch.save(whole, vjepa)
    with pytest.raises(InputError, match=message):
        convert(vjepa)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": torch.zeros(1)}}, r"no target_encoder \(its keys are model\)"),
        (torch.zeros(3), r"no target_encoder \(it has no keys\)"),
        ([1, 2], r"no target_encoder \(it has no keys\)"),
        ({"encoder": print}, "contains Python objects, which are not loaded"),
    ],
)
def test_other_pytorch_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "other.pth")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        convert(tmp_path / "elsewhere")
