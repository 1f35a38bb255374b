"""A narrow transformer that is told features of some places and says what stands at others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vatt.models.part import Part
from vatt.models.positions import PositionKind, make_positions
from vatt.models.rope import Rotation
from vatt.models.transformer import Transformer


class Predictor(Part):
    """V-JEPA's predictor (Bardes et al. 2024, section 3.2) and VideoMAE's decoder: context features and mask tokens.

    Args:
        width: D of the features.
        inner: its own width; 384 in V-JEPA.
        depth: blocks; 12 in V-JEPA.
        heads: of the attention; those of the encoder in the released V-JEPA.
        masks: kinds of masks, each of which has a mask token of its own.
        out_width: of what is predicted; D unless given.
        grid: places along each axis.
        positions: see `vatt.models.positions.make_positions`.
        rotary: see `vatt.models.transformer.Transformer`; goes with positions "none".
        bias: of the first layer; VideoMAE's has none.
        init_std, init_by_depth: see `Transformer`.
    """

    def __init__(
        self,
        width: int,
        inner: int = 384,
        depth: int = 12,
        heads: int = 16,
        masks: int = 2,
        out_width: int | None = None,
        grid: Sequence[int] = (8, 14, 14),
        positions: PositionKind = "fixed",
        rotary: Rotation | None = None,
        bias: bool = True,
        init_std: float | None = None,
        init_by_depth: bool = False,
    ) -> None:
        super().__init__()
        self.embed, self.project = nn.Linear(width, inner, bias=bias), nn.Linear(inner, out_width or width)
        self.mask_tokens = nn.Parameter(torch.zeros(masks, inner))
        self.grid, self.positions = tuple(grid), make_positions(positions, grid, inner)
        how = {"rotary": rotary, "init_std": init_std, "init_by_depth": init_by_depth}
        self.transformer = Transformer(inner, depth, heads, agg=False, **how)
        for layer in (self.embed, self.project):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(
        self, context: Tensor, position: Tensor, hidden: Tensor, mask: int = 0, grid: Sequence[int] | None = None
    ) -> Tensor:
        """Predict what stands at hidden places.

        Args:
            context: (B, N, D) features.
            position: (B, N, 3) their places.
            hidden: (B, M, 3) places to predict.
            mask: which kind of mask hid them.
            grid: places along each axis; those of the predictor unless given.

        Returns:
            (B, M, D), or as wide as ``out_width``.
        """
        x = self.embed(context)
        asked = self.mask_tokens[mask].expand(*hidden.shape[:2], -1)
        if self.positions is not None:
            grid = self.grid if grid is None else grid
            x, asked = (y + self.positions(at, grid).to(x.dtype) for y, at in ((x, position), (asked, hidden)))
        everywhere = torch.cat([position.expand(len(x), -1, -1), hidden.expand(len(x), -1, -1)], dim=1)
        y, _ = self.transformer(torch.cat([x, asked], dim=1), position=everywhere)
        return self.project(y[:, x.shape[1] :])
