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
    """Draw the visible (context) and the masked positions of each clip.

    All clips are cut to the smallest number of each in the batch. These numbers depend on the random draw, so
    everything is computed on the CPU to avoid synchronizing the GPU.

    Args:
        batch: B.
        grid: places along time, height and width.
        mask: the blocks.
        truncate: which of them are kept: the "first", in the order of time, row and column, as the released code has
            it, so that late frames and low rows are rarely seen and rarely asked for; or "random" ones.
        generator: CPU generator that replaces PyTorch's global random state.
        part: Selects rows of the batch. The other rows are drawn but not returned. None selects all.

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
    masked = _place(batch, (time, height, width), (t, h, w), mask.blocks, generator)
    for _ in range(TRIES):
        full = masked.all(dim=1)
        if not full.any():
            break
        masked[full] = _place(int(full.sum()), (time, height, width), (t, h, w), mask.blocks, generator)
    else:
        raise ValueError(f"{mask} masks all positions of a grid of {tuple(grid)}")
    return tuple(_cut(chosen, truncate, generator, part) for chosen in (~masked, masked))


def _place(
    batch: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    count: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Return (B, T H W) bool: the union of blocks at random positions."""
    masked = torch.ones((batch, count, *grid), dtype=torch.bool)
    for axis, (size, length) in enumerate(zip(grid, block, strict=True)):
        begin = (torch.rand((batch, count, 1), generator=generator) * (size - length + 1)).long()
        position = torch.arange(size)
        inside = (position >= begin) & (position < begin + length)
        shape = [batch, count, 1, 1, 1]
        shape[2 + axis] = size
        masked &= inside.view(shape)
    return masked.any(dim=1).flatten(1)


def _cut(
    chosen: Tensor,
    truncate: Truncate,
    generator: torch.Generator | None,
    part: RowSelection | None,
) -> Tensor:
    """Convert (B, N) bool to (B, M) positions, where M is the smallest number of True values in a row."""
    order = torch.arange(chosen.shape[1], 0, -1).expand(chosen.shape).float()
    if truncate == "random":
        order = torch.rand(chosen.shape, generator=generator) + 1
    if part is not None:
        chosen, order = part(chosen), part(order)
    fewest = int(chosen.sum(dim=1).min())
    best = (order * chosen).topk(fewest, dim=1).indices
    return best.sort(dim=1).values
