"""Where a token stands: learned tables for positions, read on any grid, and biases for distances."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.selection import to_device

POSITION_EPS = 1e-6
PositionKind = Literal["learned", "fixed", "flat", "joint", "none"]


def places(raw: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Every place of a grid in order, (B, N, 3) int64, one view for all clips; axes beyond the grid's are 0."""
    axes = [torch.arange(size, device=raw.device) for size in grid] + [
        torch.zeros(1, dtype=torch.int64, device=raw.device)
    ] * (3 - len(grid))
    return torch.cartesian_prod(*axes).expand(raw.shape[0], -1, -1)


class Positions(nn.Module):
    """Learned positions, one table per axis, summed and layer-normed: p(t, h, w) = LN(E_t[t] + E_h[h] + E_w[w]).

    The paper's equation 1; the layer norm is the released code's. A grid of another size than the tables reads them
    as a natural cubic spline (see `spline_matrix`), so that one model takes other lengths and resolutions.

    Args:
        sizes: entries of each axis' table.
        width: D.
        norm: False leaves the layer norm out, as the paper's equation does.
    """

    def __init__(self, sizes: Sequence[int], width: int, norm: bool = True) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.empty(size, width)) for size in sizes])
        for table in self.tables:
            nn.init.trunc_normal_(table, std=width**-0.5)
        self.norm = nn.LayerNorm(width, eps=POSITION_EPS) if norm else nn.Identity()

    def forward(self, position: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """(B, N, 3) int64 places on a grid to (B, N, D), or (1, N, D) where the places of all clips are one view.

        Axes without a table are not looked at. Without ``grid`` the places are those of the tables.
        """
        if position.stride(0) == 0:  # expanded: the same places in every clip
            position = position[:1]
        tables = [self._on(table, None if grid is None else grid[axis]) for axis, table in enumerate(self.tables)]
        # An embedding's gradient is summed in one order; that of indexing is not, on several threads.
        return self.norm(sum(F.embedding(position[..., axis], table) for axis, table in enumerate(tables)))

    @staticmethod
    def _on(table: Tensor, size: int | None) -> Tensor:
        if size is None or size == len(table):
            return table
        return _spline_at(len(table), size, table.dtype, table.device) @ table


class SinCos3D(nn.Module):
    """Sines and cosines of the places themselves, nothing learned (V-JEPA's ``uniform_power``; MAE's in three axes).

    Each axis has 2 ceil(D / 2A) of the D numbers, of A axes: sin(p w_k) for all k and then cos(p w_k), where
    w_k = 10000^(-2 k / D_a). What is more than D in the end is cut off the last axis. A larger grid goes on counting.

    Args:
        axes: A; places have three, of which these are the first.
        width: D.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.axes, self.width = axes, width
        half = math.ceil(width / (2 * axes))
        self.frequencies = [10_000.0 ** (-k / half) for k in range(half)]

    def forward(self, position: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """(B, N, 3) int64 places to (B, N, D) float32, or (1, N, D) where those of all clips are one view."""
        if position.stride(0) == 0:
            position = position[:1]
        omega = to_device(torch.tensor(self.frequencies, dtype=torch.float64), position.device)
        angles = position[..., : self.axes, None].double() * omega
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)[..., : self.width].float()


class SinCos1D(nn.Module):
    """Sines and cosines of the number of a place, counted along rows, rows along pictures, nothing learned (VideoMAE).

    Dimensions 2i and 2i + 1 are sine and cosine of n / 10000^(2i / D).

    Args:
        grid: places along each axis, where `forward` is not told.
        width: D.
    """

    def __init__(self, grid: Sequence[int], width: int) -> None:
        super().__init__()
        self.grid, self.width = tuple(grid), width

    def forward(self, position: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """(B, N, 3) int64 places to (B, N, D) float32, or (1, N, D) where those of all clips are one view."""
        if position.stride(0) == 0:
            position = position[:1]
        number = torch.zeros_like(position[..., 0])
        for axis, size in enumerate(self.grid if grid is None else grid):
            number = number * size + position[..., axis]
        half = torch.arange((self.width + 1) // 2, dtype=torch.float64, device=position.device)
        angles = number.unsqueeze(-1) * 10_000.0 ** (-2 * half / self.width)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)[..., : self.width].float()


class LearnedPositions(nn.Module):
    """A learned vector for every place of a grid (4DS). Other heights and widths are read bicubically from it.

    Args:
        grid: places along each axis.
        width: D.
    """

    def __init__(self, grid: Sequence[int], width: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.table = nn.Parameter(torch.empty(*grid, width))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, position: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """(B, N, 3) int64 places to (B, N, D), or (1, N, D) where the places of all clips are one view.

        Raises:
            ValueError: another number of axes, or more or fewer pictures than the table has.
        """
        if position.stride(0) == 0:
            position = position[:1]
        table, wanted = self.table, self.grid if grid is None else tuple(grid)
        check_positions(self, wanted)
        if wanted != self.grid:
            pictures = F.interpolate(table.movedim(-1, 1), wanted[1:], mode="bicubic", align_corners=False)
            table = pictures.movedim(1, -1)
        number = torch.zeros_like(position[..., 0])
        for axis, size in enumerate(wanted):
            number = number * size + position[..., axis]
        return F.embedding(number, table.flatten(0, -2))


def check_positions(positions: nn.Module | None, grid: tuple[int, ...]) -> None:
    """Check that positions can be computed for a grid.

    Raises:
        ValueError: A joint table has another number of axes or frames.
    """
    if not isinstance(positions, LearnedPositions) or grid == positions.grid:
        return
    if len(grid) != 3 or len(positions.grid) != 3 or grid[0] != positions.grid[0]:
        raise ValueError(f"a table of positions for {positions.grid} places cannot be read at {grid}")


def make_positions(kind: PositionKind, grid: Sequence[int], width: int, norm: bool = True) -> nn.Module | None:
    """The positions of a kind, for a grid, to be called with places and their grid; None for "none".

    Args:
        kind: "learned", a table for each axis (`Positions`); "fixed" (`SinCos3D`); "flat" (`SinCos1D`);
            "joint", a table of all places (`LearnedPositions`); or "none".
        grid: places along each axis.
        width: D.
        norm: of learned tables.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in get_args(PositionKind):
        raise ValueError(f"positions are {', '.join(get_args(PositionKind))}, not {kind!r}")
    if kind == "learned":
        return Positions(grid, width, norm)
    if kind == "fixed":
        return SinCos3D(len(grid), width)
    if kind == "flat":
        return SinCos1D(grid, width)
    return LearnedPositions(grid, width) if kind == "joint" else None


@functools.lru_cache(maxsize=64)
def _spline_at(known: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve a training too
        return spline_matrix(known, wanted).to(dtype=dtype, device=device)


def spline_matrix(known: int, wanted: int) -> Tensor:
    """The matrix (M, N) that reads N values, at i / N, as a natural cubic spline at the M places j / M.

    Right of the last known place the spline goes on as a straight line. Both together are the polyharmonic spline of
    order 3 by which the official code resizes its tables; the paper calls it bi-cubic (appendix A.2.5).

    Args:
        known: N.
        wanted: M.

    Returns:
        (M, N) float64, on the CPU.
    """
    with torch.device("cpu"):
        at = torch.arange(wanted, dtype=torch.float64) / wanted * known  # in units of the known distance
        if known == 1:
            return torch.ones(wanted, 1, dtype=torch.float64)
        # Second derivatives at the knots: C = A^-1 D, zero at both ends.
        second = torch.zeros(known, known, dtype=torch.float64)
        inner = known - 2
        if inner > 0:
            one, off = torch.ones(inner, dtype=torch.float64), torch.ones(inner - 1, dtype=torch.float64)
            system = torch.diag(4 * one) + torch.diag(off, 1) + torch.diag(off, -1)
            difference = torch.zeros(inner, known, dtype=torch.float64)
            rows = torch.arange(inner)
            difference[rows, rows], difference[rows, rows + 1], difference[rows, rows + 2] = 6.0, -12.0, 6.0
            second[1:-1] = torch.linalg.solve(system, difference)
        value = torch.eye(known, dtype=torch.float64)
    left = at.floor().long().clamp(max=known - 2)
    u = (at - left).unsqueeze(1)
    inside = (
        (1 - u) * value[left]
        + u * value[left + 1]
        + ((1 - u) ** 3 - (1 - u)) / 6 * second[left]
        + (u**3 - u) / 6 * second[left + 1]
    )
    slope = value[-1] - value[-2] + second[-2] / 6  # at the last knot, where the second derivative is 0
    beyond = value[-1] + (u - 1) * slope
    return torch.where(u > 1, beyond, inside)


class RelativeBias(nn.Module):
    """A learned number for every head and distance, which is added to the scores of attention (T5).

    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.1:
    half of the buckets are for keys before the query and half for keys after it; of each half one half are exact
    distances and the others grow logarithmically up to ``max_distance``.

    Args:
        heads: heads of the attention.
        buckets: distances told apart.
        max_distance: from which all distances are one.
    """

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 64) -> None:
        super().__init__()
        self.buckets, self.max_distance = buckets, max_distance
        self.table = nn.Embedding(buckets, heads)
        nn.init.uniform_(self.table.weight, -0.05, 0.05)

    def forward(self, length: int) -> Tensor:
        """(1, heads, N, N) for N tokens: rows are queries, columns keys."""
        place = torch.arange(length, device=self.table.weight.device)
        return self.table(self.bucket(place[None, :] - place[:, None])).permute(2, 0, 1).unsqueeze(0)

    def bucket(self, distance: Tensor) -> Tensor:
        """int64 places of the key minus places of the query, to buckets."""
        half = self.buckets // 2
        exact = half // 2
        n = distance.abs()
        far = torch.log(n.clamp(min=1) / exact) / math.log(self.max_distance / exact) * (half - exact)
        n = torch.where(n < exact, n, (exact + far.to(n.dtype)).clamp(max=half - 1))
        return n + half * (distance > 0)
