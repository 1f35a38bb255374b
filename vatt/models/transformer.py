"""The pre-norm transformer encoder that every modality uses (VATT, section 3.1.2 and equations 2 to 5)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.part import Part

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: heads of D / heads each.
        dropout: on the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        for part in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, valid: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, N, D) to (B, N, D); tokens that are not ``valid`` (B, N) are not looked at."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        visible = None if valid is None else valid[:, None, None, :]
        if visible is not None and causal:
            visible = visible & visible.new_ones(n, n).tril()
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and visible is None,
        )
        return self.out(y.transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: D.
        heads: of the attention.
        mlp_width: hidden width of the MLP.
        dropout: on attention weights and after every layer.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.up, self.down):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, valid: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), valid, causal))
        hidden = self.dropout(F.gelu(self.up(self.mlp_norm(x))))
        return x + self.dropout(self.down(hidden))


class Transformer(Part):
    """A stack of blocks and a final norm.

    Args:
        width: D.
        depth: blocks.
        heads: of the attention.
        mlp_width: hidden width of the MLPs; 4 D where it is not given.
        dropout: everywhere (the paper: 0.1).
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width or 4 * width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, causal: bool = False, layers: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode a sequence.

        Args:
            x: (B, N, D).
            valid: (B, N) bool, False on padding.
            causal: a token looks only at itself and the ones before it.
            layers: return the output of every block too.

        Returns:
            (B, N, D) after the final norm, and the blocks' outputs (empty unless asked for).
        """
        outputs: list[Tensor] = []
        for block in self.blocks:
            x = block(x, valid, causal)
            if layers:
                outputs.append(x)
        return self.dropout(self.norm(x)), tuple(outputs)
