"""Which tokens are kept: index tensors (B, M), applied with `vatt.structures.Tokens.take`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from vatt.errors import InputError
from vatt.structures import Tokens

KeepRule = Literal["tokens", "table"]
RowSelection = Callable[[Tensor], Tensor]


def to_device(x: Tensor, device: torch.device | None) -> Tensor:
    """Move a tensor without synchronizing a GPU: it is pinned first, and copied asynchronously.

    Args:
        x: Tensor.
        device: Target device; None leaves the tensor where it is.
    """
    if device is not None and device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


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
        generator: Generator that replaces PyTorch's global random state.
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
    part: RowSelection | None = None,
) -> Tensor | None:
    """Return the positions (B, M) of ``num_tokens`` that DropToken keeps; None if nothing is dropped.

    See `drop_token`, and `random_keep` for ``part``.
    """
    if drop == 0:
        return None
    kept = num_kept(math.prod(table) if rule == "table" else num_tokens, drop)
    kept = min(kept, num_tokens)
    kwargs = {"per_sample": per_sample, "device": device, "generator": generator, "part": part}
    return random_keep(batch, num_tokens, kept, **kwargs)


@functools.lru_cache(maxsize=64)
def same_keep(num_tokens: int, drop: float, table: tuple[int, ...], rule: KeepRule = "tokens") -> Tensor:
    """Places that are kept, (1, M), always the same ones, on the CPU; ``drop`` is above 0. See `drop_token`."""
    same = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):  # what is kept must serve a training too
        return draw_keep(1, num_tokens, drop, table, rule=rule, generator=same)


def check_drop(drop: float, name: str = "drop") -> None:
    """Check a fraction of dropped tokens.

    Args:
        drop: Fraction.
        name: Name of the option, for the message.

    Raises:
        InputError: The fraction is not in [0, 1).
    """
    if not 0 <= drop < 1:
        raise InputError(f"{name} must lie in [0, 1), not {drop}")


def num_kept(num_tokens: int, drop: float) -> int:
    """Return max(1, floor(N (1 - drop))).

    Raises:
        InputError: ``drop`` is not in [0, 1).
    """
    check_drop(drop)
    return max(1, int(num_tokens * (1 - drop) + 1e-9))


def random_keep(
    batch: int,
    num_tokens: int,
    kept: int,
    *,
    per_sample: bool = False,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
    part: RowSelection | None = None,
) -> Tensor:
    """Return a random subset of the positions.

    Everything is computed on the device of the generator, so that a generator on the CPU gives the same positions on
    every device.

    Args:
        batch: B.
        num_tokens: N.
        kept: M.
        per_sample: draw for every clip of the batch.
        device: where the indices live.
        generator: see `drop_token`.
        part: Selects rows of the batch. The other rows are drawn but not returned. None selects all.

    Returns:
        (B, M) int64, ascending within each row; fewer than B rows with ``part``.
    """
    shape = (batch if per_sample else 1, num_tokens)
    scores = torch.rand(shape, generator=generator, device=device if generator is None else generator.device)
    scores = scores.expand(batch, -1) if part is None else part(scores.expand(batch, -1))
    rows = scores if per_sample else scores[:1]
    keep = to_device(rows.topk(kept, dim=1).indices.sort(dim=1).values, device)
    return keep.expand(len(scores), -1)


MaskKind = Literal["tube", "random"]


def draw_masked(
    batch: int,
    grid: tuple[int, ...],
    hidden: float,
    kind: MaskKind = "tube",
    *,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
    part: RowSelection | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the visible and the masked positions of each clip for a masked autoencoder.

    Args:
        batch: B.
        grid: Positions along each axis, time first.
        hidden: Fraction of masked positions, rounded down.
        kind: "tube" masks the same positions in every frame (Tong et al. 2022, "VideoMAE", section 3.3); "random" masks
            any.
        device: where the indices live.
        generator: Generator that replaces PyTorch's global random state.
        part: see `random_keep`.

    Returns:
        (B, N) visible and (B, M) masked positions, int64, ascending; fewer than B rows with ``part``.

    Raises:
        InputError: All or no positions would be masked.
        ValueError: The kind is unknown.
    """
    if kind not in get_args(MaskKind):
        raise ValueError(f"a mask is {' or '.join(get_args(MaskKind))}, not {kind!r}")
    times, size = (grid[0], math.prod(grid[1:])) if kind == "tube" else (1, math.prod(grid))
    count = int(size * hidden + 1e-9)
    if not 0 < count < size:
        raise InputError(f"{count} of {size} positions would be masked: at least one must be masked, and one visible")
    rng_device = torch.device("cpu") if generator is None else generator.device
    scores = torch.rand((batch, size), generator=generator, device=rng_device)
    order = (scores if part is None else part(scores)).argsort(dim=1)
    begin = torch.arange(times, device=rng_device)[:, None] * size
    chosen = (order[:, count:].sort(dim=1).values, order[:, :count].sort(dim=1).values)
    visible, masked = (to_device((begin + position[:, None]).flatten(1), device) for position in chosen)
    return visible, masked
