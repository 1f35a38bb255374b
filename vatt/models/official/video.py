"""Video encoders of others: the released V-JEPA, and Hugging Face's V-JEPA 2 and VideoMAE, strictly."""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.heads import NoProjection
from vatt.models.official.weights import Loaded
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.structures import ClipFormat

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which all of them were normalised with
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}  # of the released V-JEPA, by width
SLOTS = 8  # of 2 frames in the released V-JEPA's clips
TRAINING = ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", "lr")
Theirs = dict[str, str]  # a name of ours, below a block or at the top, to theirs


def is_video_encoder(path: str | Path) -> bool:
    """Whether `convert` is for it: a PyTorch file, or a folder of Hugging Face."""
    path = Path(path)
    return path.suffix in (".pt", ".pth", ".tar") or (path / "config.json").is_file()


def convert(path: str | Path, head_width: int | None = None) -> tuple[VATT, Loaded]:
    """A video tower with the weights of a checkpoint, and what became of these.

    Pixels in [-1, 1] go in: ImageNet's normalisation is folded into the first layer.

    Args:
        path: ``.pt``, ``.pth`` or ``.tar`` of the released V-JEPA, of which the target encoder is taken; or a folder
            with config.json and safetensors of Hugging Face's V-JEPA 2 or VideoMAE, pretrained or fine-tuned, whose
            predictor, decoder or classifier is left away.
        head_width: of the attention, for a V-JEPA of a size that was not released.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is none of these, or a tensor is missing, unknown, of another shape or not finite.
    """
    path = Path(path)
    if path.is_file():
        return _vjepa(path, head_width)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    readers: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], tuple[VATT, Loaded]]]
    readers = {"vjepa2": _vjepa2, "videomae": _videomae}
    kind = config.get("model_type")
    if kind not in readers:
        raise InputError(f"{path} is a {kind!r}; known are {', '.join(readers)}")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors in {path}: save the model again with transformers' save_pretrained")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
    return readers[kind](config, tensors)


def _vjepa(path: Path, head_width: int | None) -> tuple[VATT, Loaded]:
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    kept = next((name for name in ("target_encoder", "encoder") if isinstance(whole.get(name), dict)), None)
    if kept is None:
        raise InputError(f"{path} is no checkpoint of V-JEPA: it has no target_encoder")
    tensors = {name.removeprefix("module.").removeprefix("backbone."): x for name, x in whole[kept].items()}
    if not {"patch_embed.proj.weight", "pos_embed"} <= tensors.keys():
        raise InputError(f"{path} is no checkpoint of V-JEPA: {kept} has no patch_embed.proj.weight and pos_embed")
    width, _, *patch = tensors["patch_embed.proj.weight"].shape
    positions = tensors.pop("pos_embed")
    side = math.isqrt(positions.shape[1] // SLOTS)
    heads = HEADS.get(width) if head_width is None else width // head_width
    if heads is None or SLOTS * side**2 != positions.shape[1]:
        raise InputError(f"{path}: width {width} with {positions.shape[1]} places was not released: give --head_width")
    depth = _depth(tensors, r"blocks\.(\d+)\.")
    block = {
        "attention_norm": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp_norm": "norm2",
        "up": "mlp.fc1", "down": "mlp.fc2",
    }  # fmt: skip
    tokenizer = VideoTokenizer(width, (SLOTS, side, side), tuple(patch), positions="fixed")
    mlp = tensors["blocks.0.mlp.fc1.weight"].shape[0] if depth else None
    model = _model(tokenizer, Transformer(width, depth, heads, mlp, agg=False), side * patch[1])
    model_places = tokenizer(torch.zeros(1, SLOTS * patch[0], 3, side * patch[1], side * patch[2])).position
    if (tokenizer.positions(model_places) - positions.float()).abs().max() > 1e-4:
        raise InputError(f"{path}: pos_embed is not V-JEPA's sines and cosines of {(SLOTS, side, side)} places")
    names = dict(_names(depth, "blocks.{}.", block, "patch_embed.proj", "norm"))
    report = _fill(model, tensors, names)
    report.ignored += [f"{kept}.pos_embed (made anew)", *(f"{name}" for name in whole if name != kept)]
    return model, report


def _vjepa2(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[VATT, Loaded]:
    tensors = {name.removeprefix("vjepa2."): x for name, x in tensors.items()}  # so a classifier's encoder is named
    away = [name for name in tensors if name.startswith(("predictor.", "pooler.", "classifier."))]
    encoder = {name.removeprefix("encoder."): x for name, x in tensors.items() if name not in away}
    block = {
        "attention_norm": "norm1", "attention.q": "attention.query", "attention.k": "attention.key",
        "attention.v": "attention.value", "attention.out": "attention.proj", "mlp_norm": "norm2", "up": "mlp.fc1",
        "down": "mlp.fc2",
    }  # fmt: skip
    _plain(config, "gelu")
    width, depth, size = config["hidden_size"], config["num_hidden_layers"], config["crop_size"]
    frames = config["frames_per_clip"]
    patch, grid = _cut(config, frames, size)
    how = {"agg": False, "rotary": "space", "norm_eps": config["layer_norm_eps"]}
    transformer = Transformer(
        width, depth, config["num_attention_heads"], int(width * config.get("mlp_ratio", 4.0)), **how
    )
    model = _model(VideoTokenizer(width, grid, patch, positions="none"), transformer, size, frames, 4.0)
    names = dict(_names(depth, "layer.{}.", block, "embeddings.patch_embeddings.proj", "layernorm"))
    report = _fill(model, encoder, names)
    report.ignored += away
    return model, report


def _videomae(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[VATT, Loaded]:
    away = [n for n in tensors if re.match(r"(decoder|encoder_to_decoder|fc_norm|classifier)\.|mask_token$", n)]
    encoder = {name.removeprefix("videomae."): x for name, x in tensors.items() if name not in away}
    # Older files name the biases of queries and values otherwise; keys have none.
    encoder = {re.sub(r"attention\.attention\.([qv])_bias$", _bias, name): x for name, x in encoder.items()}
    block = {
        "attention_norm": "layernorm_before", "attention.q": "attention.attention.query",
        "attention.k": "attention.attention.key", "attention.v": "attention.attention.value",
        "attention.out": "attention.output.dense", "mlp_norm": "layernorm_after", "up": "intermediate.dense",
        "down": "output.dense",
    }  # fmt: skip
    _plain(config, "gelu")
    width, depth, size = config["hidden_size"], config["num_hidden_layers"], config["image_size"]
    frames = config["num_frames"]
    patch, grid = _cut(config, frames, size)
    norm = "layernorm.weight" in encoder
    heads, mlp = config["num_attention_heads"], config["intermediate_size"]
    transformer = Transformer(width, depth, heads, mlp, agg=False, norm_eps=config["layer_norm_eps"], final_norm=norm)
    model = _model(VideoTokenizer(width, grid, patch, positions="flat"), transformer, size, frames)
    for i in range(depth):
        for part in ("query", "value", "key"):
            name = f"encoder.layer.{i}.attention.attention.{part}"
            if part == "key" or not config.get("qkv_bias", config.get("qv_bias", True)):
                encoder.setdefault(f"{name}.bias", torch.zeros(width))
    last = "layernorm" if norm else None
    names = dict(_names(depth, "encoder.layer.{}.", block, "embeddings.patch_embeddings.projection", last))
    report = _fill(model, encoder, names)
    report.ignored += away
    return model, report


def _bias(match: re.Match[str]) -> str:
    return f"attention.attention.{'query' if match[1] == 'q' else 'value'}.bias"


def _cut(config: dict[str, Any], frames: int, size: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Patches, and their places along time, height and width."""
    time, side = config["tubelet_size"], config["patch_size"]
    return (time, side, side), (frames // time, size // side, size // side)


def _plain(config: dict[str, Any], activation: str) -> None:
    if config.get("hidden_act", activation) != activation:
        raise InputError(f"hidden_act {config['hidden_act']!r} is not supported, only {activation!r}")


def _depth(tensors: dict[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)


def _model(tokenizer: VideoTokenizer, transformer: Transformer, size: int, frames: int = 16, fps: float = 7.5) -> VATT:
    backbone = Backbone({"video": tokenizer}, {"video": transformer})
    return VATT(backbone, NoProjection(), ClipFormat(num_frames=frames, fps=fps, size=size))


def _names(
    depth: int, prefix: str, block: Theirs, patches: str, last: str | None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every weight of ours and those of theirs that it is made of."""
    for end in ("weight", "bias"):
        yield f"tokenizers.video.project.{end}", (f"{patches}.{end}",)
        for i in range(depth):
            ours, theirs = f"transformers.video.blocks.{i}.", prefix.format(i)
            for name, other in block.items():
                if name[-2:] not in (".q", ".k", ".v"):
                    yield f"{ours}{name}.{end}", (f"{theirs}{other}.{end}",)
            if "attention.q" in block:
                parts = tuple(f"{theirs}{block[f'attention.{part}']}.{end}" for part in "qkv")
                yield f"{ours}attention.qkv.{end}", parts
        if last is not None:
            yield f"transformers.video.norm.{end}", (f"{last}.{end}",)


def _fill(model: VATT, tensors: dict[str, Tensor], names: dict[str, tuple[str, ...]]) -> Loaded:
    """Raises InputError, which names tensors that are missing, unknown, of another shape or not finite."""
    report, state, filled = Loaded(), model.backbone.state_dict(), {}
    report.missing = sorted(theirs for parts in names.values() for theirs in parts if theirs not in tensors)
    report.missing += sorted(state.keys() - names.keys())
    report.unknown = sorted(tensors.keys() - {theirs for parts in names.values() for theirs in parts})
    if report.missing or report.unknown:
        lines = [f"\n  missing: {name}" for name in report.missing] + [f"\n  unknown: {n}" for n in report.unknown]
        raise InputError("the checkpoint is not of this architecture" + "".join(lines))
    for ours, theirs in names.items():
        value = torch.cat([tensors[name].float() for name in theirs])
        if value.ndim == 5:  # Conv3d: (D, C, t, h, w); ours is a linear layer over (t h w C)
            value = value.permute(0, 2, 3, 4, 1).flatten(1)
        if value.shape != state[ours].shape:
            raise InputError(f"{theirs[0]} gives {ours} the shape {tuple(value.shape)}, not {tuple(state[ours].shape)}")
        if not value.isfinite().all():
            raise InputError(f"{', '.join(theirs)}: a number is NaN or infinite")
        filled[ours] = value
        report.loaded += theirs
    name = "tokenizers.video.project"
    filled[f"{name}.weight"], filled[f"{name}.bias"] = fold_pixels(filled[f"{name}.weight"], filled[f"{name}.bias"])
    model.backbone.load_state_dict(filled)
    return report


def fold_pixels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """A layer (D, P) for patches that ImageNet's mean and deviation normalise, as one for pixels in [-1, 1]."""
    mean, std = (torch.tensor(x, dtype=torch.float64).repeat(weight.shape[1] // 3) for x in (MEAN, STD))
    exact = weight.double()
    folded = bias.double() + (exact * ((0.5 - mean) / std)).sum(dim=1)
    return (exact / (2 * std)).to(weight.dtype), folded.to(bias.dtype)
