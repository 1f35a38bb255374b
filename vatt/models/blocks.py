"""Blocks of hidden places, for objectives that predict what they do not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vatt.models.selection import RowSelection

Truncate = Literal["first", "random"]
TRIES = 1000


@dataclass(frozen=True)
class BlockMask:
    """Several blocks that reach through time, whose union is hidden (V-JEPA, section 3.3, "3D multi-block masking").

    Args:
        blocks: how many, at places of their own in every clip.
        area: share of the picture that each has.
        time: share of the time that each has.
        aspect: smallest and largest height over width, drawn once for a batch.
    """

    blocks: int
    area: float
    time: float = 1.0
    aspect: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        if self.blocks < 1 or not (0 < self.area <= 1 and 0 < self.time <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise ValueError(f"blocks of these sizes cannot be: {self}")


SHORT_RANGE, LONG_RANGE = BlockMask(8, 0.15), BlockMask(2, 0.7)


def draw_blocks(
    batch: int,
    grid: Sequence[int],
    mask: BlockMask,
    *,
    truncate: Truncate = "first",
    generator: torch.Generator | None = None,
    part: RowSelection | None = None,
) -> tuple[Tensor, Tensor]:
    """Which places are seen, and which are hidden and to be predicted.

    All clips have as many of each as the one with the fewest. How many these are depends on what is drawn, so this is
    done on the CPU: a GPU would have to be waited for.

    Args:
        batch: B.
        grid: places along time, height and width.
        mask: the blocks.
        truncate: which of them are kept: the "first", in the order of time, row and column, as the released code has
            it, so that late frames and low rows are rarely seen and rarely asked for; or "random" ones.
        generator: of the CPU, in place of PyTorch's random state.
        part: chooses rows of the batch, to which alone all this applies; the others are drawn, and left away.

    Returns:
        (B, N) seen and (B, M) hidden, int64, ascending. The rest is neither.

    Raises:
        ValueError: blocks hide everything, however they are placed.
    """
    time, height, width = grid
    aspect = mask.aspect[0] + (mask.aspect[1] - mask.aspect[0]) * float(torch.rand(1, generator=generator))
    area = int(height * width * mask.area)
    h = min(max(1, round(math.sqrt(area * aspect))), height)
    w = min(max(1, round(math.sqrt(area / aspect))), width)
    t = max(1, int(time * mask.time))
    hidden = _place(batch, (time, height, width), (t, h, w), mask.blocks, generator)
    for _ in range(TRIES):
        full = hidden.all(dim=1)
        if not full.any():
            break
        hidden[full] = _place(int(full.sum()), (time, height, width), (t, h, w), mask.blocks, generator)
    else:
        raise ValueError(f"{mask} hides all of {tuple(grid)} places")
    return tuple(_cut(places, truncate, generator, part) for places in (~hidden, hidden))


def _place(
    batch: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    count: int,
    generator: torch.Generator | None,
) -> Tensor:
    """(B, T H W) bool: the union of blocks at random places."""
    hidden = torch.ones((batch, count, *grid), dtype=torch.bool)
    for axis, (size, length) in enumerate(zip(grid, block, strict=True)):
        begin = (torch.rand((batch, count, 1), generator=generator) * (size - length + 1)).long()
        place = torch.arange(size)
        inside = (place >= begin) & (place < begin + length)
        shape = [batch, count, 1, 1, 1]
        shape[2 + axis] = size
        hidden &= inside.view(shape)
    return hidden.any(dim=1).flatten(1)


def _cut(
    chosen: Tensor,
    truncate: Truncate,
    generator: torch.Generator | None,
    part: RowSelection | None,
) -> Tensor:
    """(B, N) bool to (B, M) places, M of the row with the fewest."""
    order = torch.arange(chosen.shape[1], 0, -1).expand(chosen.shape).float()
    if truncate == "random":
        order = torch.rand(chosen.shape, generator=generator) + 1
    if part is not None:
        chosen, order = part(chosen), part(order)
    fewest = int(chosen.sum(dim=1).min())
    best = (order * chosen).topk(fewest, dim=1).indices
    return best.sort(dim=1).values
