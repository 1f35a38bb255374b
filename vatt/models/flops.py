"""How much computing a forward pass is, counted by PyTorch's own counter on tensors without content."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vatt.models.backbone import Backbone
from vatt.models.part import from_config, to_config
from vatt.models.selection import drop_token
from vatt.structures import MODALITIES, ClipFormat


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one clip (or one text) through tokenizer and encoder.

    A multiplication with the addition that follows counts as two. Matrix products and attention are counted;
    norms, activations and softmax are not, they are under two per cent.

    Args:
        modality: which.
        tokens: N, that the signal has.
        kept: of them, after DropToken, that the encoder sees, without the AGG token.
        all: operations.
        scores: of them, those of queries times keys.
    """

    modality: str
    tokens: int
    kept: int
    all: int
    scores: int


def without_weights(backbone: Backbone) -> Backbone:
    """The same backbone on the device "meta", on which counting costs nothing."""
    with torch.device("meta"):
        return from_config(to_config(backbone))


def count_flops(backbone: Backbone, format: ClipFormat, drop: dict[str, float] | None = None) -> list[Flops]:
    """Operations of one clip of a format, by modality; text is one text.

    Args:
        backbone: on the device "meta", or any other.
        format: of the clip; may be larger or longer than the position tables.
        drop: share of the tokens that DropToken leaves out, by modality.
    """
    device = next(backbone.parameters()).device
    raw = {
        "video": torch.empty(1, format.num_frames, 3, format.size, format.size, device=device),
        "audio": torch.empty(1, format.num_samples, device=device),
        "text": torch.zeros(1, format.num_words, dtype=torch.int64, device=device),
    }
    found = []
    training = backbone.training
    backbone.eval()
    try:
        for modality in MODALITIES:
            if modality not in backbone.modalities:
                continue
            # Fused attention is not counted on every device; two batched products are.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                tokens = backbone.tokenize(modality, raw[modality])
                kept = drop_token(tokens, (drop or {}).get(modality, 0.0), backbone.tokenizers[modality].grid)
                backbone.encode(modality, kept)
            by_operation = counter.get_flop_counts()["Global"]
            attention = sum(n for name, n in by_operation.items() if "bmm" in str(name))
            # Queries times keys and weights times values are equally much.
            found.append(Flops(modality, tokens.x.shape[1], kept.x.shape[1], counter.get_total_flops(), attention // 2))
    finally:
        backbone.train(training)
    return found
