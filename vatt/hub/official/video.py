"""Video encoders of other projects: the released V-JEPA, and Hugging Face's V-JEPA 2 and VideoMAE."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vatt.errors import InputError
from vatt.hub.official.huggingface import convert_huggingface
from vatt.hub.official.huggingface_weights import load_pickle
from vatt.hub.official.preprocessing import Preprocessing
from vatt.hub.official.video_weights import check_names, fill, make_model, tensor_names
from vatt.hub.official.weights import Loaded
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.structures import ClipFormat

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}  # of the released V-JEPA, by width
SLOTS = 8  # of 2 frames in the released V-JEPA's clips
PATCHES = "patch_embed.proj"
BLOCK = {
    "attention_norm": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj", "mlp_norm": "norm2",
    "up": "mlp.fc1", "down": "mlp.fc2",
}  # fmt: skip


def convert(path: str | Path, head_width: int | None = None) -> tuple[VATT, Loaded]:
    """Convert the encoder of a checkpoint to a model of video alone, which takes pixels in [-1, 1].

    The normalization that the checkpoint expects is folded into the first layer.

    Args:
        path: Checkpoint of the released V-JEPA, of which the target encoder is taken; or directory with config.json,
            weights and preprocessing files of Hugging Face's V-JEPA 2 or VideoMAE, pretrained or fine-tuned, whose
            predictor, decoder and classifier are omitted.
        head_width: Width of the attention heads, for a V-JEPA of a size that was not released.

    Raises:
        FileNotFoundError: There is no checkpoint.
        InputError: It is another model, a key of a configuration is not supported, or a tensor is missing, unknown, of
            another shape or not finite.
    """
    path = Path(path)
    if path.is_dir():
        if head_width is not None:
            raise InputError("--head_width is for V-JEPA: the width of heads is in config.json of the model")
        return convert_huggingface(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    return _vjepa(path, head_width)


def _vjepa(path: Path, head_width: int | None) -> tuple[VATT, Loaded]:
    whole = load_pickle(path)
    kept, tensors = _encoder(whole, path)
    width, channels, *patch = tensors[f"{PATCHES}.weight"].shape
    positions = tensors.pop("pos_embed")
    side = math.isqrt(positions.shape[1] // SLOTS)
    heads = HEADS.get(width) if head_width is None else width // head_width
    if not heads or SLOTS * side**2 != positions.shape[1] or channels != 3:
        raise InputError(
            f"{path}: V-JEPA was not released with width {width}, {positions.shape[1]} positions and {channels} "
            "channels: pass --head_width if only the width differs"
        )
    depth = _depth(tensors, r"blocks\.(\d+)\.")
    names = dict(tensor_names(depth, "blocks.{}.", BLOCK, PATCHES, "norm"))
    check_names(tensors, names, str(path))
    mlp_width = tensors["blocks.0.mlp.fc1.weight"].shape[0] if depth else None
    try:
        tokenizer = VideoTokenizer(width, (SLOTS, side, side), (patch[0], patch[1], patch[2]), positions="fixed")
        transformer = Transformer(width, depth, heads, mlp_width, agg=False)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    model = make_model(tokenizer, transformer, ClipFormat(num_frames=16, fps=7.5, size=side * patch[1]))
    grid = tokenizer(torch.zeros(1, SLOTS * patch[0], 3, side * patch[1], side * patch[2])).position
    expected = tokenizer.positions(grid)
    if expected.shape != positions.shape or (expected - positions.float()).abs().max() > 1e-4:
        raise InputError(f"{path}: pos_embed is not V-JEPA's sines and cosines of {(SLOTS, side, side)} positions")
    preprocessing = Preprocessing(source="the released code of V-JEPA")
    report = fill(model, tensors, names, preprocessing, str(path))
    report.ignored += [f"{kept}.pos_embed (computed)", *(str(name) for name in whole if name != kept)]
    report.notes.append(preprocessing.describe())
    return model, report


def _encoder(whole: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the name of the encoder in a checkpoint, and its tensors without prefixes.

    Raises:
        InputError: There is no encoder of V-JEPA.
    """
    keys = [str(key) for key in whole] if isinstance(whole, dict) else []
    kept = next(
        (name for name in ("target_encoder", "encoder") if name in keys and isinstance(whole[name], dict)), None
    )
    if kept is None:
        content = f"its keys are {', '.join(keys[:4])}{' ...' if len(keys) > 4 else ''}" if keys else "it has no keys"
        raise InputError(
            f"{path} is a PyTorch file, but not a checkpoint of V-JEPA: it has no target_encoder ({content}). Of "
            "V-JEPA 2 and VideoMAE, pass the directory of the Hugging Face model"
        )
    tensors = {str(name).removeprefix("module.").removeprefix("backbone."): x for name, x in whole[kept].items()}
    if not all(isinstance(x, Tensor) for x in tensors.values()):
        raise InputError(f"{path} is not a checkpoint of V-JEPA: {kept} has values that are not tensors")
    shapes = {name: tensors[name].ndim if name in tensors else None for name in (f"{PATCHES}.weight", "pos_embed")}
    if shapes != {f"{PATCHES}.weight": 5, "pos_embed": 3}:
        raise InputError(
            f"{path} is not a checkpoint of V-JEPA: {kept} has no {PATCHES}.weight and pos_embed of a video "
            "encoder. Of V-JEPA 2, which has no pos_embed, pass the directory of the Hugging Face model"
        )
    return kept, tensors


def _depth(tensors: dict[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)
