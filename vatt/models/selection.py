"""Which tokens are kept: index tensors (B, M), applied with `vatt.structures.Tokens.take`."""

from __future__ import annotations

import functools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from vatt.structures import Tokens

KeepRule = Literal["tokens", "table"]


def drop_token(
    tokens: Tokens,
    drop: float,
    table: tuple[int, ...],
    *,
    per_sample: bool = False,
    rule: KeepRule = "tokens",
    generator: torch.Generator | None = None,
) -> Tokens:
    """DropToken (VATT, section 3.2): leave out a random part of the tokens.

    Args:
        tokens: all tokens of a modality.
        drop: share that is left out, in [0, 1).
        table: the sizes of its position tables.
        per_sample: other tokens in every clip; False drops the same places in the whole batch, as the released code.
        rule: "tokens" keeps a share of the tokens there are; "table" keeps as many as the share of the tables' places,
            as the released code does, which is another share where the clip is larger or longer than the tables.
        generator: in place of PyTorch's random state.
    """
    b, n, _ = tokens.x.shape
    how = {"per_sample": per_sample, "rule": rule, "device": tokens.x.device, "generator": generator}
    keep = draw_keep(b, n, drop, table, **how)
    return tokens if keep is None else tokens.take(keep)


def draw_keep(
    batch: int,
    num_tokens: int,
    drop: float,
    table: tuple[int, ...],
    *,
    per_sample: bool = False,
    rule: KeepRule = "tokens",
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """The places that DropToken keeps of ``num_tokens``, (B, M); None where nothing is dropped. See `drop_token`."""
    if drop == 0:
        return None
    kept = num_kept(math.prod(table) if rule == "table" else num_tokens, drop)
    kept = min(kept, num_tokens)
    return random_keep(batch, num_tokens, kept, per_sample=per_sample, device=device, generator=generator)


@functools.lru_cache(maxsize=64)
def same_keep(num_tokens: int, drop: float, table: tuple[int, ...], rule: KeepRule = "tokens") -> Tensor:
    """Places that are kept, (1, M), always the same ones, on the CPU; ``drop`` is above 0. See `drop_token`."""
    same = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):  # what is kept must serve a training too
        return draw_keep(1, num_tokens, drop, table, rule=rule, generator=same)


def num_kept(num_tokens: int, drop: float) -> int:
    """max(1, floor(N (1 - drop))).

    Raises:
        ValueError: ``drop`` is not in [0, 1).
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop must lie in [0, 1), not {drop}")
    return max(1, int(num_tokens * (1 - drop) + 1e-9))


def random_keep(
    batch: int,
    num_tokens: int,
    kept: int,
    *,
    per_sample: bool = False,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A random subset of the places.

    Args:
        batch: B.
        num_tokens: N.
        kept: M.
        per_sample: draw for every clip of the batch.
        device: where the indices live.
        generator: see `drop_token`.

    Returns:
        (B, M) int64, ascending within each row.
    """
    shape = (batch if per_sample else 1, num_tokens)
    if generator is None:
        scores = torch.rand(shape, device=device)
    else:
        scores = torch.rand(shape, generator=generator, device=generator.device).to(device)
    keep = scores.topk(kept, dim=1).indices.sort(dim=1).values
    return keep.expand(batch, -1)


MaskKind = Literal["tube", "random"]


def draw_masked(
    batch: int,
    grid: tuple[int, ...],
    hidden: float,
    kind: MaskKind = "tube",
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Places that a masked autoencoder sees, and those that are hidden from it, in every clip others.

    Args:
        batch: B.
        grid: places along each axis, of which the first is time.
        hidden: share of the places, rounded down.
        kind: "tube" hides the same places in every picture (Tong et al. 2022, "VideoMAE", section 3.3); "random" hides
            any.
        device: where the indices live.
        generator: in place of PyTorch's random state.

    Returns:
        (B, N) seen and (B, M) hidden, int64, ascending.

    Raises:
        ValueError: everything or nothing would be hidden, or an unknown kind.
    """
    if kind not in get_args(MaskKind):
        raise ValueError(f"a mask is {' or '.join(get_args(MaskKind))}, not {kind!r}")
    times, size = (grid[0], math.prod(grid[1:])) if kind == "tube" else (1, math.prod(grid))
    away = int(size * hidden + 1e-9)
    if not 0 < away < size:
        raise ValueError(f"of {size} places {away} would be hidden: some must be, and some must be seen")
    where = torch.device("cpu") if generator is None else generator.device
    order = torch.rand((batch, size), generator=generator, device=where).argsort(dim=1)
    begin = torch.arange(times, device=where)[:, None] * size
    chosen = (order[:, away:].sort(dim=1).values, order[:, :away].sort(dim=1).values)
    seen, gone = ((begin + places[:, None]).flatten(1).to(device) for places in chosen)
    return seen, gone
