"""Attention readouts: queries look at frozen tokens and say what stands where (Carreira et al. 2024, "4DS")."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.part import Part


class AttentionReadout(Part):
    """One layer of cross-attention and an MLP, as in the released code: token = q + Dense(attention), + MLP(LN(token)).

    Learned queries go in as they are; given ones pass a linear layer. Features have a learned vector for each time.

    Args:
        width: D of the tokens.
        times: T, of the tokens along time.
        out: numbers that each query says.
        queries: how many are learned; None where queries are given.
        query_width: of those that are given.
        inner: its own width.
        heads: of the attention.
    """

    def __init__(
        self,
        width: int,
        times: int,
        out: int,
        queries: int | None = None,
        query_width: int | None = None,
        inner: int = 128,
        heads: int = 8,
    ) -> None:
        super().__init__()
        if (queries is None) == (query_width is None):
            raise ValueError("queries are learned (queries) or given (query_width), one of both")
        if heads < 1 or inner % heads:
            raise ValueError(f"{heads} heads do not divide a width of {inner}")
        self.heads = heads
        self.norm, self.time = nn.LayerNorm(width, eps=1e-6), nn.Parameter(torch.zeros(times, 1, width))
        self.queries = None if queries is None else nn.Parameter(torch.randn(queries, inner) * 0.02)
        self.ask = None if query_width is None else nn.Linear(query_width, inner)
        self.kv, self.out = nn.Linear(width, 2 * inner), nn.Linear(inner, inner)
        self.mlp_norm, self.up = nn.LayerNorm(inner, eps=1e-6), nn.Linear(inner, 4 * inner)
        self.down, self.say = nn.Linear(4 * inner, inner), nn.Linear(inner, out)
        nn.init.trunc_normal_(self.time, std=0.02)

    def forward(self, tokens: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read out.

        Args:
            tokens: (B, N, D), places of a picture within times.
            queries: (B, Q, query_width), where they are given.

        Returns:
            (B, Q, out).
        """
        b, n, d = tokens.shape
        x = self.norm(tokens).view(b, len(self.time), -1, d) + self.time
        q = self.queries.expand(b, -1, -1) if self.ask is None else self.ask(queries)
        k, v = self.kv(x.view(b, n, d)).chunk(2, dim=-1)
        parts = (y.view(b, y.shape[1], self.heads, -1).transpose(1, 2) for y in (q, k, v))
        found = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(q.shape)
        y = q + self.out(found)
        y = y + self.down(F.gelu(self.up(self.mlp_norm(y)), approximate="tanh"))
        return self.say(y)


class ReadoutClassifier(Part):
    """One learned query looks at all tokens, and says the class: 4DS's readout of actions.

    Args:
        width: D.
        classes: C.
        times, inner, heads: see `AttentionReadout`.
    """

    def __init__(self, width: int, classes: int, times: int = 1, inner: int = 128, heads: int = 8) -> None:
        super().__init__()
        self.readout = AttentionReadout(width, times, classes, queries=1, inner=inner, heads=heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to logits (B, C)."""
        return self.readout(tokens)[:, 0]


def released_layer(depth: int) -> int:
    """Number, from 1, of the block whose output 4DS's released code reads at "0.95" of the depth.

    Its list of features begins with the tokens, twice, and has no output of the last block: 10 of 12, 52 of 56.
    """
    return max(1, int((depth + 1) * 0.95) - 2)


def fourier(x: Tensor, bands: int = 6) -> Tensor:
    """(…, C) places in [0, 1] to (…, C (1 + 2 bands)): themselves, and sines and cosines of them."""
    angles = x.unsqueeze(-1) * 2.0 ** torch.arange(bands, device=x.device) * torch.pi
    return torch.cat([x, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)
