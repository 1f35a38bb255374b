"""Raw signal to token embeddings, one tokenizer per modality (VATT, section 3.1).

Each tokenizer is ``patchify`` (a pure rearrangement) and ``embed`` (a linear layer and positions that are looked up
by id), so that an objective can use the raw patches as targets and can embed places whose patches it hides. The
tokenizer of spectrograms is in `vatt.models.spectrogram`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.part import Part
from vatt.models.positions import PositionKind, Positions, check_positions, make_positions, places
from vatt.structures import ClipFormat, Patches, Tokens


class Tokenizer(Part, ABC):
    """What every tokenizer offers.

    Attributes:
        width: D of the tokens.
        grid: places along each axis that its position tables have.
        sample_rate: that it is made for, in Hz; training refuses others. None is for every rate.
        agg_width: D of the AGG token before `embed_agg`.
    """

    width: int
    grid: tuple[int, ...]
    sample_rate: int | None = None

    @property
    def agg_width(self) -> int:
        return self.width

    @abstractmethod
    def patchify(self, raw: Tensor) -> Patches:
        """Cut the raw signal."""

    @abstractmethod
    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        """Return the number of positions along each axis of a clip.

        Raises:
            ValueError: Clips of this format cannot be cut into patches, or have no positions.
        """

    @abstractmethod
    def embed(self, patches: Patches) -> Tensor:
        """Patches to (B, N, D), positions added."""

    def embed_agg(self, agg: Tensor, batch: int) -> Tensor:
        """The AGG token (agg_width,) as it enters the encoder, (B, 1, D). It has no position."""
        return agg.expand(batch, 1, -1)

    def forward(self, raw: Tensor) -> Tokens:
        """The whole signal as tokens."""
        patches = self.patchify(raw)
        return Tokens(self.embed(patches), patches.position, patches.valid, patches.grid)


class PatchTokenizer(Tokenizer):
    """A tokenizer whose patches pass a linear layer: x = dropout([GELU(W'] W patch + b [)] + position).

    Args:
        width: D.
        grid: places along each axis.
        patch_size: P, the raw values of a patch.
        dropout: on the embedded tokens.
        scale: what raw values are multiplied by.
        pre_projection: a second linear layer and a GELU before positions are added, as in the modality-agnostic
            backbone.
        position_norm, positions: see `vatt.models.positions.make_positions`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, ...],
        patch_size: int,
        dropout: float,
        scale: float,
        pre_projection: bool,
        position_norm: bool,
        positions: PositionKind = "learned",
    ) -> None:
        super().__init__()
        self.width, self.grid, self.scale = width, tuple(grid), scale
        self.project = nn.Linear(patch_size, width)
        self.pre_projection = nn.Linear(width, width) if pre_projection else None
        self.positions = make_positions(positions, self.grid, width, position_norm)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.project, self.pre_projection):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embed(self, patches: Patches) -> Tensor:
        x = patches.x if self.scale == 1 else patches.x * self.scale
        x = self.project(x.to(self.project.weight.dtype))
        if self.pre_projection is not None:
            x = F.gelu(self.pre_projection(x))
        if self.positions is not None:
            # Sines and cosines are in single precision, which later layers do not take if their weights are not.
            x = (x + self.positions(patches.position, patches.grid)).to(self.project.weight.dtype)
        return self.dropout(x)


class VideoTokenizer(PatchTokenizer):
    """RGB patches with factorised time, height and width positions.

    Args:
        width: D.
        grid: patches along time, height and width; (8, 14, 14) for 32 frames of 224 x 224. Videos of another length
            or size are taken too, on interpolated positions.
        patch: frames, rows and columns of a patch.
        dropout: on the embedded tokens.
        scale: what pixels are multiplied by; see `AudioTokenizer`.
        pre_projection, position_norm, positions: see `PatchTokenizer`.
        init_std: see `vatt.models.transformer.Transformer`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int, int] = (8, 14, 14),
        patch: tuple[int, int, int] = (4, 16, 16),
        dropout: float = 0.0,
        scale: float = 1.0,
        pre_projection: bool = False,
        position_norm: bool = True,
        positions: PositionKind = "learned",
        init_std: float | None = None,
    ) -> None:
        size = 3 * patch[0] * patch[1] * patch[2]
        super().__init__(width, grid, size, dropout, scale, pre_projection, position_norm, positions)
        self.patch = tuple(patch)
        if init_std is not None:
            if not init_std > 0:
                raise ValueError(f"init_std must be positive, not {init_std!r}")
            nn.init.trunc_normal_(self.project.weight, std=init_std)

    def patchify(self, raw: Tensor) -> Patches:
        """Cut video (B, T, 3, H, W) into patches; inside a patch the order is time, row, column, channel.

        Raises:
            ValueError: another shape, a length or size that patches do not fill, or whole numbers for pixels.
        """
        if not raw.is_floating_point():
            raise ValueError(f"pixels are float in [-1, 1], not {raw.dtype}: see vatt.datasets.transforms.to_float")
        if raw.ndim != 5 or raw.shape[2] != 3:
            raise ValueError(f"a video is (B, T, 3, H, W), not {tuple(raw.shape)}")
        b, frames, _, height, width = raw.shape
        (pt, ph, pw), grid = self.patch, self._grid(frames, height, width)
        gt, gh, gw = grid
        x = raw.reshape(b, gt, pt, 3, gh, ph, gw, pw).permute(0, 1, 4, 6, 2, 5, 7, 3)
        return Patches(x.reshape(b, gt * gh * gw, pt * ph * pw * 3), places(raw, grid), grid)

    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        grid = self._grid(format.num_frames, format.size, format.size)
        check_positions(self.positions, grid)
        return grid

    def _grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        pt, ph, pw = self.patch
        if frames % pt or height % ph or width % pw or 0 in (frames, height, width):
            raise ValueError(
                f"{frames} frames of {height} x {width} cannot be cut into patches of {pt} frames of {ph} x {pw}: "
                "give whole multiples"
            )
        return frames // pt, height // ph, width // pw


class AudioTokenizer(PatchTokenizer):
    """Segments of a raw waveform.

    Args:
        width: D.
        length: segments; 1200 for 3.2 s at 48 kHz. Waveforms of another length are taken too, on interpolated
            positions.
        segment: samples of a segment.
        dropout: on the embedded tokens.
        scale: what samples are multiplied by. Quiet sound makes tokens that are small beside their positions, which
            the layer norm brings to unit variance; a short training then learns little from it. 1 is the paper's.
        pre_projection, position_norm: see `PatchTokenizer`.
    """

    def __init__(
        self,
        width: int,
        length: int = 1200,
        segment: int = 128,
        dropout: float = 0.0,
        scale: float = 1.0,
        pre_projection: bool = False,
        position_norm: bool = True,
    ) -> None:
        super().__init__(width, (length,), segment, dropout, scale, pre_projection, position_norm)
        self.length, self.segment = length, segment

    def patchify(self, raw: Tensor) -> Patches:
        """Cut a waveform (B, S) into segments.

        Raises:
            ValueError: another shape, or a length that segments do not fill.
        """
        if raw.ndim != 2:
            raise ValueError(f"a waveform is (B, S), not {tuple(raw.shape)}")
        grid = self._grid(raw.shape[1])
        return Patches(raw.reshape(raw.shape[0], *grid, self.segment), places(raw, grid), grid)

    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        return self._grid(format.num_samples)

    def _grid(self, samples: int) -> tuple[int]:
        if samples % self.segment or samples == 0:
            raise ValueError(
                f"a waveform is (B, S) with S a multiple of the {self.segment} samples of a segment, not {samples}"
            )
        return (samples // self.segment,)


class WordTokenizer(Tokenizer):
    """A tokenizer of ids.

    Attributes:
        words: their embeddings.
        length: most words of a text, L.
        pad_id: the id of padding, whose tokens are not valid.
    """

    words: nn.Embedding
    length: int
    pad_id: int

    @property
    def vocabulary_size(self) -> int:
        """Ids run from 0 to one less."""
        return self.words.num_embeddings

    def patchify(self, raw: Tensor) -> Patches:
        """Ids (B, L) become patches (B, L, 1).

        Raises:
            ValueError: the text is longer than ``length``, or an id is not of the vocabulary.
        """
        if raw.ndim != 2 or raw.shape[1] > self.length:
            raise ValueError(f"a text is (B, L) with L up to {self.length}, not {tuple(raw.shape)}")
        # Not on a GPU, which would have to be waited for, nor in a graph, which does not depend on values.
        if (
            raw.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and raw.numel()
            and not 0 <= int(raw.min()) <= int(raw.max()) < self.vocabulary_size
        ):
            raise ValueError(f"ids run from 0 to {self.vocabulary_size - 1}, not from {raw.min()} to {raw.max()}")
        return Patches(raw.unsqueeze(-1), places(raw, raw.shape[1:]), self.grid, raw != self.pad_id)

    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        if format.num_words > self.length:
            raise ValueError(f"a text has up to {self.length} words, not {format.num_words}")
        return self.grid


class TextTokenizer(WordTokenizer):
    """Word ids as learned embeddings.

    Positions are those of the words' own order, never resampled: a short text uses the first of them.

    Args:
        width: D.
        vocabulary_size: ids run from 0 to one less; may be larger than the vocabulary.
        length: most words of a text, L.
        pad_id: the id of padding, whose tokens are not valid.
        dropout: on the embedded tokens.
        embedding_width: E; embeddings of that width pass a linear layer and a GELU. The released code: 300. None
            embeds straight into D.
        projection_bias: of that layer; the modality-agnostic backbone has it, the text towers have not.
        positions: whether positions are added; a transformer with a relative bias needs none.
        position_norm: see `vatt.models.positions.Positions`.
        agg_in_embedding: the AGG token stands among the word embeddings and passes the same layer and dropout, as in
            the released T5-style encoder.
        frozen: embeddings are not trained. The released code freezes word2vec vectors; freeze nothing that was not
            trained before.
    """

    def __init__(
        self,
        width: int,
        vocabulary_size: int,
        length: int = 16,
        pad_id: int = 0,
        dropout: float = 0.0,
        embedding_width: int | None = None,
        projection_bias: bool = True,
        positions: bool = True,
        position_norm: bool = True,
        agg_in_embedding: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.length, self.pad_id = width, length, pad_id
        self.grid, self.agg_in_embedding = (length,), agg_in_embedding
        self.words = nn.Embedding(vocabulary_size, embedding_width or width)
        self.positions = Positions(self.grid, width, position_norm) if positions else None
        nn.init.trunc_normal_(self.words.weight, std=1.0)
        self.words.weight.requires_grad_(not frozen)
        self.project = None
        if embedding_width is not None:
            self.project = nn.Linear(embedding_width, width, bias=projection_bias)
            nn.init.xavier_uniform_(self.project.weight)
            if projection_bias:
                nn.init.zeros_(self.project.bias)
        self.dropout = nn.Dropout(dropout)

    @property
    def agg_width(self) -> int:
        return self.words.embedding_dim if self.agg_in_embedding else self.width

    def embed(self, patches: Patches) -> Tensor:
        x = self._projected(self.words(patches.x.squeeze(-1)))
        return self.dropout(x if self.positions is None else x + self.positions(patches.position))

    def embed_agg(self, agg: Tensor, batch: int) -> Tensor:
        agg = super().embed_agg(agg, batch)
        return self.dropout(self._projected(agg)) if self.agg_in_embedding else agg

    def _projected(self, x: Tensor) -> Tensor:
        return x if self.project is None else F.gelu(self.project(x))
