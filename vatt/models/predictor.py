"""The predictor of V-JEPA: from the features of a context to those of places that were hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.models.part import Part
from vatt.models.positions import FixedPositions
from vatt.models.transformer import Transformer


class Predictor(Part):
    """A narrow transformer over context features and mask tokens (Bardes et al. 2024, "V-JEPA", section 3.2).

    Args:
        width: D of the features.
        inner: its own width; 384 in the paper.
        depth: blocks; 12 in the paper.
        heads: of the attention; those of the encoder in the released code.
        masks: kinds of masks, each of which has a mask token of its own.
    """

    def __init__(self, width: int, inner: int = 384, depth: int = 12, heads: int = 16, masks: int = 2) -> None:
        super().__init__()
        self.embed, self.project = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mask_tokens = nn.Parameter(torch.zeros(masks, inner))
        self.positions = FixedPositions(3, inner)
        self.transformer = Transformer(inner, depth, heads, agg=False)
        for layer in (self.embed, self.project):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, context: Tensor, position: Tensor, hidden: Tensor, mask: int) -> Tensor:
        """Predict what an encoder would see at hidden places.

        Args:
            context: (B, N, D) features.
            position: (B, N, 3) their places.
            hidden: (B, M, 3) places to predict.
            mask: which kind of mask hid them.

        Returns:
            (B, M, D).
        """
        x = self.embed(context)
        x = x + self.positions(position).to(x.dtype)
        asked = self.mask_tokens[mask] + self.positions(hidden).to(x.dtype)
        y, _ = self.transformer(torch.cat([x, asked.expand(len(x), -1, -1)], dim=1))
        return self.project(y[:, x.shape[1] :])
