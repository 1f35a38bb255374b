"""The pre-norm transformer encoder (VATT, section 3.1.2 and equations 2 to 5), and what every encoder offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vatt.models.attention import NORM_EPS, Activation, Block, Norm, make_norm
from vatt.models.part import Part
from vatt.models.positions import RelativeBias
from vatt.models.rope import Rotary, Rotation


class Encoder(Part, ABC):
    """Tokens of one modality to features.

    Attributes:
        width: D of the tokens that go in.
        out_width: D of the features that come out.
        agg: whether an aggregation (AGG) token is put in front of the tokens, whose feature is the pooled one.
        causal: tokens never see later ones.
    """

    width: int
    out_width: int
    agg: bool = True
    causal: bool = False

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        layers: bool = False,
        position: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, N, D) tokens, of which ``valid`` (B, N) are real, to features and the outputs of every block.

        ``position`` (B, N, 3) are their places, for an encoder that asks for them.
        """

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) features to (B, D), for an encoder without an AGG token."""
        raise TypeError(f"{type(self).__name__} pools with its AGG token")


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
        scaled: divide the scores by the root of the head's width. A number is what they are multiplied by: with muP,
            and heads that become wider, the root of the first width over the present one.
        norm: "layer" norms everywhere; "rms" norms everywhere, as T5 has them; "mixed": RMS norm before attention and
            in the end, layer norm before the MLPs, as the released text encoder has them.
        relative: buckets and largest distance of a `RelativeBias`, which the first block owns and all blocks use;
            None has none.
        agg: whether an aggregation (AGG) token is put in front of the tokens; without one the pooled feature is their
            mean.
        activation: of the MLPs: "gelu" by the error function, "gelu_tanh" by its approximation, or "swiglu", which has
            a third matrix.
        rotary: turn queries and keys by their places in the "sequence" or in "space" (see `Rotary`).
        rotary_base: see there.
        causal: tokens never see later ones. An AGG token is the start of the sequence then, which sees nothing but
            itself, and the pooled feature is the mean of the others.
        norm_eps: of all norms.
        final_norm: False leaves out the norm in the end, as 4DS does.
        init_std: linear layers begin as normal numbers of this deviation (V-JEPA: 0.02); None begins them as the
            released VATT does, by Glorot & Bengio.
        init_by_depth: the last layers of the i-th block's attention and MLP begin divided by the root of 2 i (V-JEPA 2;
            the released V-JEPA means to, and does not).

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
        scaled: bool | float = True,
        norm: Norm = "layer",
        relative: tuple[int, int] | None = None,
        agg: bool = True,
        activation: Activation = "gelu",
        rotary: Rotation | None = None,
        rotary_base: float = 10_000.0,
        causal: bool = False,
        norm_eps: float = NORM_EPS,
        final_norm: bool = True,
        init_std: float | None = None,
        init_by_depth: bool = False,
    ) -> None:
        super().__init__()
        for name, given, known in (("norm", norm, Norm), ("activation", activation, Activation)):
            if given not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, not {given!r}")
        positive = {"width": width, "heads": heads, "mlp_width": mlp_width, "head_width": head_width}
        positive |= {"rotary_base": rotary_base, "norm_eps": norm_eps, "init_std": init_std}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        if depth < 0 or not 0 <= dropout < 1:
            raise ValueError(f"depth must be at least 0 and dropout in [0, 1), not {depth} and {dropout}")
        if agg and rotary == "space":
            raise ValueError("an AGG token has no place in space: rotary='space' goes with agg=False")
        self.agg, self.causal = agg, causal
        self.width = self.out_width = width
        mlp_width, how = mlp_width or 4 * width, (norm, norm_eps, activation)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_width, dropout, head_width, bias, scaled, *how) for _ in range(depth)
        )
        self.rotary = None if rotary is None else Rotary(rotary, head_width or width // heads, rotary_base)
        self.relative = None if relative is None else RelativeBias(heads, *relative)
        self.norm = make_norm(width, norm != "layer", norm_eps) if final_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.checkpointing = False
        if init_std is not None:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.trunc_normal_(layer.weight, std=init_std)
        if init_by_depth:
            with torch.no_grad():
                for number, block in enumerate(self.blocks, start=1):
                    for layer in (block.attention.out, block.down):
                        layer.weight /= math.sqrt(2 * number)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        layers: bool = False,
        position: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode a sequence.

        Args:
            x: (B, N, D).
            valid: (B, N) bool, False on padding.
            causal: a token looks only at itself and the ones before it.
            layers: return the output of every block too.
            position: (B, N, 3) places, where positions turn by space.

        Returns:
            (B, N, D) after the final norm, and the blocks' outputs (empty unless asked for).
        """
        x, outputs = self.run(x, valid, causal, layers, position)
        return self.dropout(self.norm(x)), outputs

    def run(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        layers: bool = False,
        position: Tensor | None = None,
        begin: int = 0,
        end: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Some of the blocks, from ``begin`` to before ``end``, without the final norm; see `forward`."""
        outputs: list[Tensor] = []
        causal = causal or self.causal
        added = None if self.relative is None else self.relative(x.shape[1])
        turn = None if self.rotary is None else self.rotary(x.shape[1], position, x.device)
        for block in self.blocks[begin:end]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, valid, causal, added, turn, use_reentrant=False)
            else:
                x = block(x, valid, causal, added, turn)
            if layers:
                outputs.append(x)
        return x, tuple(outputs)

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """The mean of the valid tokens, where there is no AGG token, or one that is the start of a sequence."""
        if self.agg and not self.causal:
            return super().pool(x, valid)
        if valid is None:
            return x.mean(dim=1)
        weight = valid.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
