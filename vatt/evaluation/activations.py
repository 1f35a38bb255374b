"""What the hidden nodes of a model do when they are shown a modality."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.backbone import Backbone


def mean_activations(backbone: Backbone, modality: str, raw: Tensor) -> np.ndarray:
    """Mean activation of the hidden nodes of every MLP, after GELU, over clips and valid tokens (VATT, figure 4).

    Args:
        backbone: with blocks of attention and MLP.
        modality: that is shown.
        raw: (B, T, 3, H, W) video, (B, S) audio or (B, L) ids.

    Returns:
        (L, H) float32: blocks and their nodes.

    Raises:
        InputError: the modality's encoder has no such blocks.
    """
    encoder, found = backbone.encoder(modality), []
    blocks = getattr(encoder, "blocks", None)
    if blocks is None:
        raise InputError(f"the encoder of {modality} has no blocks whose nodes could be looked at")
    tokens = backbone.tokenize(modality, raw)
    valid = None
    if tokens.valid is not None:
        valid = torch.cat([tokens.valid.new_ones(len(raw), int(encoder.agg)), tokens.valid], dim=1)

    def look(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        hidden = F.gelu(output.float())
        chosen = hidden.flatten(0, 1) if valid is None else hidden[valid]
        found.append(chosen.mean(dim=0))

    hooks = [block.up.register_forward_hook(look) for block in blocks]
    try:
        with torch.inference_mode():
            backbone.encode(modality, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found).cpu().numpy()
