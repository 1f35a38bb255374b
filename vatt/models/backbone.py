"""Tokenizers and transformers as one backbone, modality-specific or modality-agnostic (VATT, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.models.part import Part
from vatt.models.tokenizers import Tokenizer
from vatt.models.transformer import Transformer
from vatt.structures import MODALITIES, Features, Tokens


class Backbone(Part):
    """One transformer for all modalities is modality-agnostic; a dict with one each is modality-specific.

    Every modality has its own aggregation (AGG) token, which is put in front of its tokens, without a position.

    Args:
        tokenizers: by modality: "video", "audio", "text".
        transformers: one shared transformer, or one for each of the tokenizers.

    Raises:
        ValueError: an unknown modality, a modality without a transformer, or widths that differ.
    """

    def __init__(self, tokenizers: dict[str, Tokenizer], transformers: Transformer | dict[str, Transformer]) -> None:
        super().__init__()
        unknown = sorted(set(tokenizers) - set(MODALITIES))
        if unknown:
            raise ValueError(f"unknown modality {unknown[0]!r}; known: {', '.join(MODALITIES)}")
        self.shared = isinstance(transformers, Transformer)
        if not self.shared and set(transformers) != set(tokenizers):
            raise ValueError(
                f"tokenizers are for {sorted(tokenizers)} and transformers for {sorted(transformers)}; "
                "give each tokenizer one"
            )
        self.tokenizers = nn.ModuleDict(tokenizers)
        self.transformers = nn.ModuleDict({"shared": transformers} if self.shared else transformers)
        self.agg = nn.ParameterDict()
        for modality, tokenizer in tokenizers.items():
            width = self._transformer(modality).width
            if tokenizer.width != width:
                raise ValueError(
                    f"{modality}: the tokenizer is {tokenizer.width} wide and the transformer {width}; make them equal"
                )
            self.agg[modality] = nn.Parameter(torch.randn(width) * width**-0.5)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it has, in the order video, audio, text."""
        return tuple(m for m in MODALITIES if m in self.tokenizers)

    def width(self, modality: str) -> int:
        """D of the features of a modality."""
        return self._transformer(modality).width

    def tokenize(self, modality: str, raw: Tensor) -> Tokens:
        """Raw signal to tokens: video (B, T, 3, H, W), audio (B, S) or text (B, L)."""
        return self.tokenizers[modality](raw)

    def encode(self, modality: str, tokens: Tokens, causal: bool = False, layers: bool = False) -> Features:
        """Tokens, all or a part of them, to features.

        Args:
            modality: which AGG token and transformer.
            tokens: x (B, N, D).
            causal: see `Transformer.forward`; the AGG token comes first and then sees nothing but itself.
            layers: fill `Features.layers`.
        """
        b = tokens.x.shape[0]
        x = torch.cat([self.agg[modality].to(tokens.x.dtype).expand(b, 1, -1), tokens.x], dim=1)
        valid = tokens.valid
        if valid is not None:
            valid = torch.cat([valid.new_ones(b, 1), valid], dim=1)
        x, outputs = self._transformer(modality)(x, valid, causal, layers)
        return Features(tokens=x[:, 1:], pooled=x[:, 0], layers=outputs)

    def forward(self, modality: str, raw: Tensor) -> Features:
        """Features of a whole raw signal."""
        return self.encode(modality, self.tokenize(modality, raw))

    def _transformer(self, modality: str) -> Transformer:
        return self.transformers["shared" if self.shared else modality]
