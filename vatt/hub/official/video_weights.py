"""Weights of other video encoders in a VATT model: names of tensors, strict filling, and normalization of pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vatt.errors import InputError
from vatt.hub.official.preprocessing import Preprocessing
from vatt.hub.official.weights import Loaded
from vatt.models.backbone import Backbone
from vatt.models.heads import NoProjection
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.structures import ClipFormat

MAX_LINES = 20  # tensors listed in an error
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def make_model(tokenizer: VideoTokenizer, transformer: Transformer, format: ClipFormat) -> VATT:
    """Return a randomly initialized video model without projections."""
    return VATT(Backbone({"video": tokenizer}, {"video": transformer}), NoProjection(), format)


def tensor_names(
    depth: int, prefix: str, block: dict[str, str], patches: str, norm: str | None, qkv_bias: str = "qkv"
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each tensor of our backbone and the names of the checkpoint tensors that form it.

    The checkpoint tensors are concatenated.

    Args:
        depth: Number of blocks.
        prefix: Prefix of a block in the checkpoint, with ``{}`` for its number.
        block: Names of a block's layers: ours to theirs.
        patches: Name of the patch embedding in the checkpoint.
        norm: Name of the final layer norm in the checkpoint, or None without one.
        qkv_bias: Those of ``q``, ``k`` and ``v`` that have a bias in the checkpoint. Other biases are zero, with an
            empty name.
    """
    for end in ("weight", "bias"):
        yield f"tokenizers.video.project.{end}", (f"{patches}.{end}",)
        for i in range(depth):
            ours, theirs = f"transformers.video.blocks.{i}.", prefix.format(i)
            for name, other in block.items():
                if name[-2:] not in (".q", ".k", ".v"):
                    yield f"{ours}{name}.{end}", (f"{theirs}{other}.{end}",)
            if "attention.q" in block:
                present = "qkv" if end == "weight" else qkv_bias
                parts = (f"{theirs}{block[f'attention.{x}']}.{end}" if x in present else "" for x in "qkv")
                yield f"{ours}attention.qkv.{end}", tuple(parts)
        if norm is not None:
            yield f"transformers.video.norm.{end}", (f"{norm}.{end}",)


def check_names(tensors: dict[str, Tensor], names: dict[str, tuple[str, ...]], source: str) -> None:
    """Check that a checkpoint has exactly the tensors that a model consists of.

    Args:
        tensors: Tensors of the encoder in the checkpoint.
        names: See `tensor_names`.
        source: Name of the checkpoint in errors.

    Raises:
        InputError: A tensor is missing, unknown or not of a floating-point type.
    """
    known = {theirs for parts in names.values() for theirs in parts if theirs}
    lines = [f"\n  missing: {name}" for name in sorted(known - tensors.keys())]
    lines += [f"\n  unknown: {name}" for name in sorted(tensors.keys() - known)]
    if lines:
        more = f"\n  and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
        raise InputError(f"{source}: the weights do not match the architecture{''.join(lines[:MAX_LINES])}{more}")
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"{source}: {name} is of type {tensor.dtype}: quantized weights are not supported")


def fill(
    model: VATT,
    tensors: dict[str, Tensor],
    names: dict[str, tuple[str, ...]],
    preprocessing: Preprocessing,
    source: str,
) -> Loaded:
    """Fill the backbone of a model from a checkpoint, and fold the normalization of pixels into its first layer.

    Args:
        model: Model to fill.
        tensors: Tensors of the encoder in the checkpoint, see `check_names`.
        names: See `tensor_names`.
        preprocessing: Normalization that the checkpoint expects.
        source: Name of the checkpoint in errors.

    Raises:
        InputError: A tensor is of another shape or not finite.
    """
    report, state, filled = Loaded(), model.backbone.state_dict(), {}
    for ours, theirs in names.items():
        width = state[ours].shape[0] // len(theirs)
        value = torch.cat([tensors[name].float() if name else torch.zeros(width) for name in theirs])
        if value.ndim == 5:  # Conv3d: (D, C, t, h, w); ours is a linear layer over (t h w C)
            value = value.permute(0, 2, 3, 4, 1).flatten(1)
        if value.shape != state[ours].shape:
            raise InputError(
                f"{source}: {theirs[0]} gives {ours} the shape {tuple(value.shape)}, not {tuple(state[ours].shape)}"
            )
        if not value.isfinite().all():
            raise InputError(f"{source}: {', '.join(filter(None, theirs))}: a number is NaN or infinite")
        filled[ours] = value
        report.loaded += filter(None, theirs)
    name = "tokenizers.video.project"
    weight, bias = fold_normalization(filled[f"{name}.weight"], filled[f"{name}.bias"], preprocessing)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise InputError(f"{preprocessing.source}: with this mean, std and rescale_factor, the first layer overflows")
    filled[f"{name}.weight"], filled[f"{name}.bias"] = weight, bias
    model.backbone.load_state_dict(filled)
    return report


def fold_normalization(weight: Tensor, bias: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return the patch embedding for pixels in [-1, 1] that equals one for normalized pixels.

    Args:
        weight: (D, P) over patches whose last axis is the color channel.
        bias: (D,).
        preprocessing: Normalization of the pixels in [0, 255] that the layer was trained with.
    """
    channels = weight.shape[1] // 3
    mean, std = (torch.tensor(x, dtype=torch.float64).repeat(channels) for x in (preprocessing.mean, preprocessing.std))
    half = 127.5 * preprocessing.scale  # normalized = (half * (x + 1) - mean) / std
    exact = weight.double()
    folded = bias.double() + (exact * ((half - mean) / std)).sum(dim=1)
    return (exact * (half / std)).to(weight.dtype), folded.to(bias.dtype)
