"""Video encoders of others: the same features, and nothing that is missing or unknown passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vatt.errors import InputError
from vatt.models.official.video import MEAN, STD, convert, is_video_encoder
from vatt.models.positions import FixedPositions

transformers = pytest.importorskip("transformers")


def normalised(video: torch.Tensor) -> torch.Tensor:
    """[-1, 1] to what these models were trained on."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    return ((video + 1) / 2 - mean) / std


def random_weights(model: torch.nn.Module) -> None:
    """Biases and norms that are not zeros and ones."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.fixture
def vjepa2(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        patch_size=8, crop_size=32, frames_per_clip=4, tubelet_size=2, hidden_size=48, num_attention_heads=2,
        num_hidden_layers=2, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    model = transformers.VJEPA2Model(config).eval()
    random_weights(model)
    model.save_pretrained(tmp_path)
    return tmp_path, model


@pytest.fixture
def videomae(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=40, decoder_hidden_size=12, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=24, use_mean_pooling=False,
    )  # fmt: skip
    model = transformers.VideoMAEForPreTraining(config).eval()
    random_weights(model)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_vjepa_2_has_the_same_features(vjepa2: tuple[Path, torch.nn.Module]) -> None:
    folder, theirs = vjepa2
    video = torch.rand(2, 4, 3, 32, 32) * 2 - 1
    model, report = convert(folder)
    assert is_video_encoder(folder)
    assert any(name.startswith("predictor.") for name in report.ignored)
    with torch.no_grad():
        wanted = theirs(normalised(video), skip_predictor=True).last_hidden_state
        torch.testing.assert_close(model.backbone("video", video).tokens, wanted, rtol=1e-5, atol=1e-5)
        # Places of tokens are what turns them, not their order.
        tokens = model.backbone.tokenize("video", video)
        order = torch.randperm(tokens.x.shape[1]).expand(2, -1)
        shuffled = model.backbone.encode("video", tokens.take(order)).tokens
        torch.testing.assert_close(shuffled, wanted[:, order[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("old", [False, True])
def test_videomae_has_the_same_features(videomae: tuple[Path, torch.nn.Module], old: bool) -> None:
    folder, theirs = videomae
    if old:
        tensors = load_file(folder / "model.safetensors")
        for part in ("query", "value"):
            for name in [n for n in tensors if n.startswith("videomae.") and n.endswith(f".{part}.bias")]:
                tensors[name.replace(f"{part}.bias", f"{part[0]}_bias")] = tensors.pop(name)
        save_file(tensors, folder / "model.safetensors")
    video = torch.rand(2, 4, 3, 32, 32) * 2 - 1
    model, report = convert(folder)
    assert "mask_token" in report.ignored
    with torch.no_grad():
        wanted = theirs.videomae(normalised(video)).last_hidden_state
    torch.testing.assert_close(model.backbone("video", video).tokens, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["VJEPA2", "VideoMAE"])
def test_of_a_fine_tuned_one_the_encoder_is_taken(
    kind: str, vjepa2: tuple[Path, torch.nn.Module], videomae: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    _, theirs = vjepa2 if kind == "VJEPA2" else videomae
    theirs.config.update({"num_labels": 3, "use_mean_pooling": True})
    classifier = getattr(transformers, f"{kind}ForVideoClassification")(theirs.config).eval()
    random_weights(classifier)
    classifier.save_pretrained(tmp_path / "classifier")
    model, report = convert(tmp_path / "classifier")
    assert {"classifier.weight", "classifier.bias"} <= set(report.ignored)
    video = torch.rand(2, 4, 3, 32, 32) * 2 - 1
    trunk = classifier.vjepa2 if kind == "VJEPA2" else classifier.videomae
    how = {"skip_predictor": True} if kind == "VJEPA2" else {}
    with torch.no_grad():
        wanted = trunk(normalised(video), **how).last_hidden_state
    torch.testing.assert_close(model.backbone("video", video).tokens, wanted, rtol=1e-5, atol=1e-5)


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
    tensors["pos_embed"] = FixedPositions(3, width)(places)
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
    wanted = stem.flatten(2).transpose(1, 2) + weights["module.backbone.pos_embed"]
    torch.testing.assert_close(model.backbone.tokenize("video", video).x, wanted, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_named(vjepa: Path, vjepa2: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    folder, _ = vjepa2
    tensors = load_file(folder / "model.safetensors")
    for change, message in (
        ({"encoder.layer.0.norm1.bias": None}, "missing: layer.0.norm1.bias"),
        ({"encoder.extra": torch.zeros(1)}, "unknown: extra"),
        ({"encoder.layernorm.bias": torch.full((48,), torch.nan)}, "layernorm.bias: a number is NaN"),
        ({"encoder.layernorm.bias": torch.zeros(3)}, "layernorm.bias gives .* the shape"),
    ):
        save_file({n: x for n, x in {**tensors, **change}.items() if x is not None}, folder / "model.safetensors")
        with pytest.raises(InputError, match=message):
            convert(folder)
    whole = torch.load(vjepa, weights_only=True)
    whole["target_encoder"]["module.backbone.pos_embed"] += 1
    torch.save(whole, vjepa)
    with pytest.raises(InputError, match="pos_embed is not"):
        convert(vjepa)
    vjepa.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        convert(vjepa)
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "elsewhere")
