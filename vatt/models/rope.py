"""Rotary positions: queries and keys are turned by angles that grow with their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Rotation = Literal["sequence", "space"]


@dataclass(frozen=True)
class Turn:
    """What `Rotary` makes of places.

    Args:
        cos, sin: (B or 1, 1, N, head width) float32.
        neighbours: dimensions 2i and 2i + 1 are a pair; otherwise i and i + half the width.
    """

    cos: Tensor
    sin: Tensor
    neighbours: bool

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, N, head width), turned."""
        if self.neighbours:
            first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
            across = torch.stack((-second, first), dim=-1).flatten(-2)
        else:
            first, second = x.chunk(2, dim=-1)
            across = torch.cat((-second, first), dim=-1)
        return (x * self.cos + across * self.sin).to(x.dtype)


class Rotary(nn.Module):
    """Angles of places (Su et al. 2021, "RoFormer"); nothing is learned.

    Args:
        kind: "sequence" counts tokens in their order and turns the whole width of a head, as Llama does; "space" turns
            a third of the width by each of time, row and column, and leaves the rest, as V-JEPA 2 does: pairs are
            neighbours, yet angles repeat after half of a third, as in the released code, whose weights are made so.
        head_width: of a head.
        base: 1 / base is the angle that the slowest pair would turn by from place to place.
    """

    def __init__(self, kind: Rotation, head_width: int, base: float = 10_000.0) -> None:
        super().__init__()
        if kind not in get_args(Rotation):
            raise ValueError(f"positions turn by sequence or space, not {kind!r}")
        self.kind, self.head_width, self.base = kind, head_width, base
        self.part = head_width if kind == "sequence" else 2 * (head_width // 3 // 2)
        if self.part < 2 or self.part % 2:
            raise ValueError(f"a head of width {head_width} cannot be turned by {kind}")

    def forward(self, length: int, position: Tensor | None, device: torch.device) -> Turn:
        """Of (B, N, 3) places, or of N = ``length`` tokens in their order.

        Raises:
            ValueError: no places, where they are what turns.
        """
        half = self.part // 2
        frequencies = self.base ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
        if self.kind == "sequence":
            angles = torch.arange(length, device=device).double()[None, :, None] * frequencies
            angles = torch.cat([angles, angles], dim=-1)
        else:
            if position is None:
                raise ValueError("positions that turn by space must be told the places of the tokens")
            if position.stride(0) == 0:  # expanded: the same places in every clip
                position = position[:1]
            angles = (position[..., None].double() * frequencies).repeat(1, 1, 1, 2).flatten(2)
            rest = angles.new_zeros(*angles.shape[:2], self.head_width - 3 * self.part)
            angles = torch.cat([angles, rest], dim=-1)
        return Turn(angles.cos().float().unsqueeze(1), angles.sin().float().unsqueeze(1), self.kind == "space")
