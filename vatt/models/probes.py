"""Small classifiers on frozen features: low-rank, and by attention over all tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.part import Part


class LowRankClassifier(Part):
    """C = U V: a linear layer to a few components, most of which are dropped while training, and a linear layer.

    The paper's LRC (VATT, appendix A.3.2): 128 components, of which a tenth is sampled.

    Args:
        width: D.
        classes: C.
        rank: components.
        dropout: share of them that is dropped.
    """

    def __init__(self, width: int, classes: int, rank: int = 128, dropout: float = 0.9) -> None:
        super().__init__()
        self.classes = classes
        self.down, self.dropout, self.up = nn.Linear(width, rank), nn.Dropout(dropout), nn.Linear(rank, classes)
        for layer in (self.down, self.up):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) to logits (B, C)."""
        return self.up(self.dropout(self.down(pooled)))


class AttentiveClassifier(Part):
    """One learned query looks at all tokens, passes an MLP, and is classified (Bardes et al. 2024, "V-JEPA", 2.5).

    As in the released code of V-JEPA, attention has no layer after it.

    Args:
        width: D.
        classes: C.
        heads: of the attention.
    """

    def __init__(self, width: int, classes: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.classes, self.heads = classes, heads
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.norm, self.q, self.kv = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mlp_norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in (self.q, self.kv, self.up, self.down, self.linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.down.weight /= math.sqrt(2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to logits (B, C)."""
        b, _, d = tokens.shape
        x = self.norm(tokens)

        def split(y: Tensor) -> Tensor:
            return y.view(b, -1, self.heads, d // self.heads).transpose(1, 2)

        k, v = self.kv(x).split(d, dim=-1)
        found = F.scaled_dot_product_attention(split(self.q(self.query).expand(b, -1, -1)), split(k), split(v))
        pooled = self.query + found.transpose(1, 2).reshape(b, 1, d)
        pooled = pooled + self.down(F.gelu(self.up(self.mlp_norm(pooled))))
        return self.linear(pooled[:, 0])
