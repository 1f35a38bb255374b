"""Attention, the block it stands in, and norms."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.rope import Turn

NORM_EPS = 1e-6
Norm = Literal["layer", "rms", "mixed"]
Activation = Literal["gelu", "gelu_tanh", "swiglu"]


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: heads.
        dropout: on the attention weights.
        head_width: of each head; D / heads unless given.
        bias: on the four linear layers.
        scaled: divide the scores by the root of the head's width; T5 does not. A number is what they are multiplied by.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        head_width: int | None = None,
        bias: bool = True,
        scaled: bool | float = True,
    ) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads, self.head_width, self.dropout = heads, head_width or width // heads, dropout
        self.scale = None if scaled is True else float(scaled or 1.0)
        inner = heads * self.head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.out.weight)
        if bias:
            nn.init.zeros_(self.qkv.bias)
            nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        added: Tensor | None = None,
        turn: Turn | None = None,
    ) -> Tensor:
        """(B, N, D) to (B, N, D); tokens that are not ``valid`` (B, N) are not looked at.

        ``added`` (1, heads, N, N) goes on top of the scores; queries and keys are turned by ``turn``.
        """
        b, n, _ = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)  # of a split the gradient is put together in one piece
        q, k, v = (part.view(b, n, self.heads, self.head_width).transpose(1, 2) for part in parts)
        if turn is not None:
            q, k = turn(q), turn(k)
        seen = None if valid is None else valid[:, None, None, :]
        if causal and (seen is not None or added is not None):
            earlier = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
            seen = earlier if seen is None else seen & earlier
        if added is not None:
            added = added.to(q.dtype)
            seen = added if seen is None else added.masked_fill(~seen, float("-inf"))
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and seen is None,
            scale=self.scale,
        )
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: D.
        heads: of the attention.
        mlp_width: hidden width of the MLP.
        dropout: on attention weights and after every layer.
        head_width, bias, scaled: see `Attention`; ``bias`` is for the MLP's layers too.
        norm, norm_eps, activation: see `Transformer`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        dropout: float = 0.0,
        head_width: int | None = None,
        bias: bool = True,
        scaled: bool | float = True,
        norm: Norm = "layer",
        norm_eps: float = NORM_EPS,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(width, norm != "layer", norm_eps)
        self.attention = Attention(width, heads, dropout, head_width, bias, scaled)
        self.mlp_norm = make_norm(width, norm == "rms", norm_eps)
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(width, mlp_width, bias=bias) if activation == "swiglu" else None
        self.approximate = "tanh" if activation == "gelu_tanh" else "none"
        for layer in (self.up, self.down, self.gate):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                if bias:
                    nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        added: Tensor | None = None,
        turn: Turn | None = None,
    ) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), valid, causal, added, turn))
        hidden = self.mlp_norm(x)
        if self.gate is None:
            hidden = F.gelu(self.up(hidden), approximate=self.approximate)
        else:
            hidden = F.silu(self.gate(hidden)) * self.up(hidden)
        return x + self.dropout(self.down(self.dropout(hidden)))


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm, with its statistics in single precision whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


def make_norm(width: int, rms: bool, eps: float = NORM_EPS) -> nn.Module:
    """Root-mean-square norm, or layer norm."""
    return RMSNorm(width, eps=eps) if rms else nn.LayerNorm(width, eps=eps)
