"""Tokenizers and encoders as one backbone, modality-specific or modality-agnostic (VATT, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.part import Part
from vatt.models.tokenizers import Tokenizer
from vatt.models.transformer import Encoder
from vatt.structures import MODALITIES, ClipFormat, Features, Tokens

KEYS = {  # of the format, that determine the size of an input
    "video": "format.num_frames or format.size",
    "audio": "format.sample_rate or format.audio_s",
    "text": "format.num_words",
}


class Backbone(Part):
    """One transformer for all modalities is modality-agnostic; a dict with one each is modality-specific.

    Every modality has its own aggregation (AGG) token, which is put in front of its tokens, without a position.

    Args:
        tokenizers: by modality: "video", "audio", "text".
        transformers: one shared encoder, or one for each of the tokenizers.
        post_width: features of every modality pass a linear layer of its own to this width, and a GELU; the released
            modality-agnostic backbone has 1,024. None leaves them as they are.

    Raises:
        ValueError: an unknown modality, a modality without a transformer, or widths that differ.
    """

    def __init__(
        self,
        tokenizers: dict[str, Tokenizer],
        transformers: Encoder | dict[str, Encoder],
        post_width: int | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(tokenizers) - set(MODALITIES))
        if unknown:
            raise ValueError(f"unknown modality {unknown[0]!r}; known: {', '.join(MODALITIES)}")
        self.shared = isinstance(transformers, Encoder)
        if not self.shared and set(transformers) != set(tokenizers):
            raise ValueError(
                f"tokenizers are for {sorted(tokenizers)} and transformers for {sorted(transformers)}; "
                "give each tokenizer one"
            )
        self.tokenizers = nn.ModuleDict(tokenizers)
        self.transformers = nn.ModuleDict({"shared": transformers} if self.shared else transformers)
        self.agg, self.post_projections = nn.ParameterDict(), nn.ModuleDict()
        for modality, tokenizer in tokenizers.items():
            encoder = self.encoder(modality)
            if tokenizer.width != encoder.width:
                raise ValueError(
                    f"{modality}: the tokenizer is {tokenizer.width} wide and the transformer {encoder.width}; "
                    "make them equal"
                )
            if encoder.agg:
                self.agg[modality] = nn.Parameter(torch.randn(tokenizer.agg_width) * tokenizer.agg_width**-0.5)
            if post_width is not None:
                self.post_projections[modality] = layer = nn.Linear(encoder.out_width, post_width)
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it has, in the order video, audio, text."""
        return tuple(m for m in MODALITIES if m in self.tokenizers)

    def width(self, modality: str) -> int:
        """D of the features of a modality."""
        if modality in self.post_projections:
            return self.post_projections[modality].out_features
        return self.encoder(modality).out_width

    def encoder(self, modality: str) -> Encoder:
        """The transformer that a modality goes through."""
        return self.transformers["shared" if self.shared else modality]

    def tower(self, modality: str) -> Backbone:
        """One modality of it, with the same weights: the shared transformer, or the modality's own.

        Raises:
            ValueError: it does not have the modality.
        """
        if modality not in self.tokenizers:
            raise ValueError(f"this backbone has {', '.join(self.modalities)}, not {modality}")
        encoder = self.encoder(modality)
        post_width = self.width(modality) if modality in self.post_projections else None
        alone = Backbone(
            {modality: self.tokenizers[modality]}, encoder if self.shared else {modality: encoder}, post_width
        )
        for mine, its in ((self.agg, alone.agg), (self.post_projections, alone.post_projections)):
            if modality in mine:
                its[modality] = mine[modality]
        return alone

    def tokenize(self, modality: str, raw: Tensor) -> Tokens:
        """Raw signal to tokens: video (B, T, 3, H, W), audio (B, S) or text (B, L)."""
        return self.tokenizers[modality](raw)

    def encode(
        self, modality: str, tokens: Tokens, causal: bool = False, layers: bool = False, start: Tensor | None = None
    ) -> Features:
        """Tokens, all or a part of them, to features.

        Args:
            modality: which AGG token and transformer.
            tokens: x (B, N, D).
            causal: see `Transformer.forward`; the AGG token comes first and then sees nothing but itself.
            layers: fill `Features.layers`.
            start: (B, D) in place of the AGG token, for sequences that begin in several ways.
        """
        encoder, x, valid = self.encoder(modality), tokens.x, tokens.valid
        if encoder.agg:
            clips = x.shape[0]  # not len(x), which would fix the batch of a graph that is exported
            own = start is None
            agg = self.tokenizers[modality].embed_agg(self.agg[modality], clips) if own else start.unsqueeze(1)
            x = torch.cat([agg.to(x.dtype), x], dim=1)
            valid = None if valid is None else torch.cat([valid.new_ones(clips, 1), valid], dim=1)
        x, outputs = encoder(x, valid, causal, layers, tokens.position)
        if modality in self.post_projections:
            x = F.gelu(self.post_projections[modality](x))
        if not encoder.agg:
            return Features(tokens=x, pooled=encoder.pool(x, valid), layers=outputs)
        agg, x = x[:, 0], x[:, 1:]
        pooled = encoder.pool(x, tokens.valid) if encoder.causal else agg  # which then saw nothing but itself
        return Features(tokens=x, pooled=pooled, layers=outputs, agg=agg)

    def forward(self, modality: str, raw: Tensor) -> Features:
        """Features of a whole raw signal."""
        return self.encode(modality, self.tokenize(modality, raw))


def check_format(backbone: Backbone, format: ClipFormat) -> None:
    """Check that a backbone takes clips of a format.

    Raises:
        InputError: It does not; the message names the keys.
    """
    for modality in backbone.modalities:
        try:
            backbone.tokenizers[modality].grid_of(format)
        except ValueError as error:
            raise InputError(f"{KEYS[modality]} does not fit the {modality} tokenizer: {error}") from error
