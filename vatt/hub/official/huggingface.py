"""Hugging Face's V-JEPA 2 and VideoMAE as models of this package."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from vatt.errors import InputError
from vatt.hub.official.huggingface_config import CONFIG, read_config
from vatt.hub.official.huggingface_weights import read_tensors
from vatt.hub.official.preprocessing import Preprocessing, read_preprocessing
from vatt.hub.official.video_weights import check_names, fill, make_model, tensor_names
from vatt.hub.official.weights import Loaded
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.structures import ClipFormat

VJEPA2_BLOCK = {
    "attention_norm": "norm1", "attention.q": "attention.query", "attention.k": "attention.key",
    "attention.v": "attention.value", "attention.out": "attention.proj", "mlp_norm": "norm2", "up": "mlp.fc1",
    "down": "mlp.fc2",
}  # fmt: skip
VIDEOMAE_BLOCK = {
    "attention_norm": "layernorm_before", "attention.q": "attention.attention.query",
    "attention.k": "attention.attention.key", "attention.v": "attention.attention.value",
    "attention.out": "attention.output.dense", "mlp_norm": "layernorm_after", "up": "intermediate.dense",
    "down": "output.dense",
}  # fmt: skip
OTHER_PARTS = {  # tensors that are not of the encoder
    "vjepa2": re.compile(r"(vjepa2\.)?predictor\.|pooler\.|classifier\."),
    "videomae": re.compile(r"(decoder|encoder_to_decoder|fc_norm|classifier)\.|mask_token$"),
}


def convert_huggingface(folder: Path) -> tuple[VATT, Loaded]:
    """Convert the encoder of a V-JEPA 2 or VideoMAE, pretrained or fine-tuned.

    Args:
        folder: Directory with config.json, the weights and the preprocessing files.

    Raises:
        FileNotFoundError: The weights are missing.
        InputError: The directory holds another model, or a key or a tensor is not supported.
    """
    model_type, config = read_config(folder)
    side = config["crop_size" if model_type == "vjepa2" else "image_size"]
    preprocessing = read_preprocessing(folder, model_type, side)
    tensors = read_tensors(folder)
    depth = config["num_hidden_layers"]
    if depth > len(tensors):
        raise InputError(f"{folder / CONFIG}: 'num_hidden_layers' is {depth}, but there are {len(tensors)} tensors")
    other = {name for name in tensors if OTHER_PARTS[model_type].match(name)}
    encoder = {name: tensor for name, tensor in tensors.items() if name not in other}
    convert: Callable[[dict[str, Any], dict[str, Tensor], Preprocessing, Path], tuple[VATT, Loaded]]
    convert = _vjepa2 if model_type == "vjepa2" else _videomae
    try:
        model, report = convert(config, encoder, preprocessing, folder)
    except InputError:
        raise
    except ValueError as error:  # of the constructors
        raise InputError(f"{folder / CONFIG}: {error}") from error
    report.ignored += sorted(other)
    report.notes.append(preprocessing.describe())
    return model, report


def _vjepa2(
    config: dict[str, Any], tensors: dict[str, Tensor], preprocessing: Preprocessing, folder: Path
) -> tuple[VATT, Loaded]:
    tensors = _without_prefixes(tensors, "vjepa2.", "encoder.")
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    qkv_bias = "qkv" if config["qkv_bias"] else ""
    patches = "embeddings.patch_embeddings.proj"
    names = dict(tensor_names(depth, "layer.{}.", VJEPA2_BLOCK, patches, "layernorm", qkv_bias))
    check_names(tensors, names, str(folder))
    patch, grid = _grid(config, "frames_per_clip", "crop_size", folder)
    mlp_width = int(width * config["mlp_ratio"])
    _check_widths(tensors, {patches: (width, 3, *patch), "layer.0.mlp.fc1": (mlp_width, width)}, folder)
    transformer = Transformer(
        width, depth, config["num_attention_heads"], mlp_width, agg=False, rotary="space",
        norm_eps=config["layer_norm_eps"],
    )  # fmt: skip
    tokenizer = VideoTokenizer(width, grid, patch, positions="none")
    model = make_model(
        tokenizer, transformer, _format(config["frames_per_clip"], 4.0, preprocessing, config["crop_size"])
    )
    return model, fill(model, tensors, names, preprocessing, str(folder))


def _videomae(
    config: dict[str, Any], tensors: dict[str, Tensor], preprocessing: Preprocessing, folder: Path
) -> tuple[VATT, Loaded]:
    tensors = _without_prefixes(tensors, "videomae.")
    # Transformers 4 names the biases of queries and values differently; keys have none.
    renamed = {re.sub(r"\.([qv])_bias$", _bias_name, name): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        raise InputError(f"{folder}: the weights contain biases of queries or values by two names")
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    has_norm = not config["use_mean_pooling"]  # then the encoder has a final layer norm
    patches, norm = "embeddings.patch_embeddings.projection", "layernorm" if has_norm else None
    qkv_bias = "qv" if config["qv_bias"] else ""
    names = dict(tensor_names(depth, "encoder.layer.{}.", VIDEOMAE_BLOCK, patches, norm, qkv_bias))
    check_names(renamed, names, str(folder))
    patch, grid = _grid(config, "num_frames", "image_size", folder)
    mlp_width = config["intermediate_size"]
    shapes = {patches: (width, 3, *patch), "encoder.layer.0.intermediate.dense": (mlp_width, width)}
    _check_widths(renamed, shapes, folder)
    transformer = Transformer(
        width, depth, config["num_attention_heads"], mlp_width, agg=False, norm_eps=config["layer_norm_eps"],
        final_norm=has_norm,
    )  # fmt: skip
    tokenizer = VideoTokenizer(width, grid, patch, positions="flat")
    model = make_model(tokenizer, transformer, _format(config["num_frames"], 7.5, preprocessing, config["image_size"]))
    return model, fill(model, renamed, names, preprocessing, str(folder))


def _check_widths(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Check the shapes of layers before a model of these widths is allocated.

    Raises:
        InputError: A shape differs from the configuration.
    """
    for name, shape in shapes.items():
        given = tuple(tensors[f"{name}.weight"].shape)
        if given != shape:
            raise InputError(f"{folder}: {name}.weight has the shape {given}, but {CONFIG} describes {shape}")


def _without_prefixes(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    for prefix in prefixes:
        short = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        if len(short) < len(tensors):
            twice = next(name for name in tensors if name.startswith(prefix) and name.removeprefix(prefix) in tensors)
            raise InputError(f"the weights contain {twice} with and without {prefix!r}")
        tensors = short
    return tensors


def _bias_name(match: re.Match[str]) -> str:
    return f".{'query' if match[1] == 'q' else 'value'}.bias"


def _grid(
    config: dict[str, Any], frames: str, size: str, folder: Path
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the shape of a patch, and the number of patches along time, height and width.

    Raises:
        InputError: Clips cannot be divided into patches, or the width into heads.
    """
    for whole, part in ((frames, "tubelet_size"), (size, "patch_size"), ("hidden_size", "num_attention_heads")):
        if config[whole] % config[part]:
            raise InputError(
                f"{folder / CONFIG}: {whole!r} is {config[whole]}, which is not a multiple of {part!r}, {config[part]}"
            )
    time, side = config["tubelet_size"], config["patch_size"]
    return (time, side, side), (config[frames] // time, config[size] // side, config[size] // side)


def _format(frames: int, fps: float, preprocessing: Preprocessing, size: int) -> ClipFormat:
    return ClipFormat(num_frames=frames, fps=fps, size=size, crop_box=preprocessing.crop_box)
