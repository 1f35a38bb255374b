"""The pre-norm transformer encoder (VATT, section 3.1.2 and equations 2 to 5), and what every encoder offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vatt.models.part import Part
from vatt.models.positions import RelativeBias

NORM_EPS = 1e-6
Norm = Literal["layer", "rms", "mixed"]


class Encoder(Part, ABC):
    """Tokens of one modality to features.

    Attributes:
        width: D of the tokens that go in.
        out_width: D of the features that come out.
        agg: whether an aggregation (AGG) token is put in front of the tokens, whose feature is the pooled one.
    """

    width: int
    out_width: int
    agg: bool = True

    @abstractmethod
    def forward(
        self, x: Tensor, valid: Tensor | None = None, causal: bool = False, layers: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, N, D) tokens, of which ``valid`` (B, N) are real, to features and the outputs of every block."""

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) features to (B, D), for an encoder without an AGG token."""
        raise TypeError(f"{type(self).__name__} pools with its AGG token")


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: heads.
        dropout: on the attention weights.
        head_width: of each head; D / heads unless given.
        bias: on the four linear layers.
        scaled: divide the scores by the root of the head's width; T5 does not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        head_width: int | None = None,
        bias: bool = True,
        scaled: bool = True,
    ) -> None:
        super().__init__()
        if head_width is None and width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        self.heads, self.head_width, self.dropout = heads, head_width or width // heads, dropout
        self.scale = None if scaled else 1.0
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
        self, x: Tensor, valid: Tensor | None = None, causal: bool = False, added: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) to (B, N, D); tokens that are not ``valid`` (B, N) are not looked at.

        ``added`` (1, heads, N, N) goes on top of the scores.
        """
        b, n, _ = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)  # of a split the gradient is put together in one piece
        q, k, v = (part.view(b, n, self.heads, self.head_width).transpose(1, 2) for part in parts)
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
        norm: see `Transformer`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        dropout: float = 0.0,
        head_width: int | None = None,
        bias: bool = True,
        scaled: bool = True,
        norm: Norm = "layer",
    ) -> None:
        super().__init__()
        self.attention_norm = _norm(width, norm != "layer")
        self.attention = Attention(width, heads, dropout, head_width, bias, scaled)
        self.mlp_norm = _norm(width, norm == "rms")
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.down = nn.Linear(mlp_width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.up, self.down):
            nn.init.xavier_uniform_(layer.weight)
            if bias:
                nn.init.zeros_(layer.bias)

    def forward(
        self, x: Tensor, valid: Tensor | None = None, causal: bool = False, added: Tensor | None = None
    ) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), valid, causal, added))
        hidden = self.dropout(F.gelu(self.up(self.mlp_norm(x))))
        return x + self.dropout(self.down(hidden))


class Transformer(Encoder):
    """A stack of blocks and a final norm.

    The defaults are the encoder of video, audio and the modality-agnostic backbone. The released text encoder
    (T5-style) is ``bias=False, scaled=False, norm="mixed", relative=(32, 64)``.

    Args:
        width: D.
        depth: blocks.
        heads: of the attention.
        mlp_width: hidden width of the MLPs; 4 D where it is not given.
        dropout: everywhere (the paper: 0.1).
        head_width: of each head; D / heads unless given.
        bias: on the linear layers of attention and MLPs.
        scaled: divide the scores by the root of the head's width.
        norm: "layer" norms everywhere; "rms" norms everywhere, as T5 has them; "mixed": RMS norm before attention and
            in the end, layer norm before the MLPs, as the released text encoder has them.
        relative: buckets and largest distance of a `RelativeBias`, which the first block owns and all blocks use;
            None has none.
        agg: whether an aggregation (AGG) token is put in front of the tokens; without one the pooled feature is their
            mean.

    Attributes:
        checkpointing: blocks keep their input only, and are computed again for their gradient.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_width: int | None = None,
        dropout: float = 0.0,
        head_width: int | None = None,
        bias: bool = True,
        scaled: bool = True,
        norm: Norm = "layer",
        relative: tuple[int, int] | None = None,
        agg: bool = True,
    ) -> None:
        super().__init__()
        self.agg = agg
        if norm not in ("layer", "rms", "mixed"):
            raise ValueError(f"norm must be layer, rms or mixed, not {norm!r}")
        self.width = self.out_width = width
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_width or 4 * width, dropout, head_width, bias, scaled, norm) for _ in range(depth)
        )
        self.relative = None if relative is None else RelativeBias(heads, *relative)
        self.norm = _norm(width, norm != "layer")
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = False

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
        added = None if self.relative is None else self.relative(x.shape[1])
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, valid, causal, added, use_reentrant=False)
            else:
                x = block(x, valid, causal, added)
            if layers:
                outputs.append(x)
        return self.dropout(self.norm(x)), tuple(outputs)

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The mean of the valid tokens, where there is no AGG token."""
        if self.agg:
            return super().pool(x, valid)
        if valid is None:
            return x.mean(dim=1)
        weight = valid.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm, with its statistics in single precision whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps).to(x.dtype)


def _norm(width: int, rms: bool) -> nn.Module:
    return RMSNorm(width, eps=NORM_EPS) if rms else nn.LayerNorm(width, eps=NORM_EPS)
