"""Raw signal to token embeddings, one tokenizer per modality (VATT, section 3.1).

Each tokenizer is ``patchify`` (a pure rearrangement) and ``embed`` (a linear layer and positions that are looked up
by id), so that an objective can use the raw patches as targets and can embed places whose patches it hides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.part import Part
from vatt.structures import Tokens

POSITION_EPS = 1e-6


class Positions(nn.Module):
    """Learned positions, one table per axis, summed and layer-normed: p(t, h, w) = LN(E_t[t] + E_h[h] + E_w[w]).

    The paper's equation 1; the layer norm is the released code's.

    Args:
        sizes: entries of each axis' table.
        width: D.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.empty(size, width)) for size in sizes])
        for table in self.tables:
            nn.init.trunc_normal_(table, std=width**-0.5)
        self.norm = nn.LayerNorm(width, eps=POSITION_EPS)

    def forward(self, position: Tensor) -> Tensor:
        """(B, N, 3) int64 places to (B, N, D); axes without a table are not looked at."""
        # An embedding's gradient is summed in one order; that of indexing is not, on several threads.
        return self.norm(sum(F.embedding(position[..., axis], table) for axis, table in enumerate(self.tables)))


class Tokenizer(Part, ABC):
    """What every tokenizer offers.

    Attributes:
        width: D of the tokens.
    """

    width: int

    @abstractmethod
    def patchify(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cut the raw signal: patches (B, N, P), their places (B, N, 3) int64, validity (B, N) or None."""

    @abstractmethod
    def embed(self, patches: Tensor, position: Tensor) -> Tensor:
        """(B, N, P) patches at (B, N, 3) places to (B, N, D)."""

    def forward(self, raw: Tensor) -> Tokens:
        """The whole signal as tokens."""
        patches, position, valid = self.patchify(raw)
        return Tokens(self.embed(patches, position), position, valid)


class VideoTokenizer(Tokenizer):
    """RGB patches with factorised time, height and width positions.

    Args:
        width: D.
        grid: patches along time, height and width; (8, 14, 14) for 32 frames of 224 x 224.
        patch: frames, rows and columns of a patch.
        dropout: on the embedded tokens.
        scale: what pixels are multiplied by; see `AudioTokenizer`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int, int] = (8, 14, 14),
        patch: tuple[int, int, int] = (4, 16, 16),
        dropout: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.width, self.grid, self.patch, self.scale = width, tuple(grid), tuple(patch), scale
        self.project = nn.Linear(3 * patch[0] * patch[1] * patch[2], width)
        self.positions = Positions(self.grid, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def patchify(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cut video (B, T, 3, H, W) into patches; inside a patch the order is time, row, column, channel.

        Raises:
            ValueError: the video is not the grid of patches that the positions are for.
        """
        if raw.ndim != 5 or raw.shape[2] != 3:
            raise ValueError(f"a video is (B, T, 3, H, W), not {tuple(raw.shape)}")
        b, frames, _, height, width = raw.shape
        (gt, gh, gw), (pt, ph, pw) = self.grid, self.patch
        if (frames, height, width) != (gt * pt, gh * ph, gw * pw):
            raise ValueError(
                f"{frames} frames of {height} x {width} do not fit: patches of {self.patch} on a grid of {self.grid} "
                f"make {gt * pt} frames of {gh * ph} x {gw * pw}"
            )
        x = raw.reshape(b, gt, pt, 3, gh, ph, gw, pw).permute(0, 1, 4, 6, 2, 5, 7, 3)
        axes = [torch.arange(size, device=raw.device) for size in self.grid]
        position = torch.cartesian_prod(*axes).expand(b, -1, -1)
        return x.reshape(b, gt * gh * gw, pt * ph * pw * 3), position, None

    def embed(self, patches: Tensor, position: Tensor) -> Tensor:
        return self.dropout(self.project(patches * self.scale) + self.positions(position))


class AudioTokenizer(Tokenizer):
    """Segments of a raw waveform.

    Args:
        width: D.
        length: segments; 1200 for 3.2 s at 48 kHz.
        segment: samples of a segment.
        dropout: on the embedded tokens.
        scale: what samples are multiplied by. Quiet sound makes tokens that are small beside their positions, which
            the layer norm brings to unit variance; a short training then learns little from it. 1 is the paper's.
    """

    def __init__(
        self, width: int, length: int = 1200, segment: int = 128, dropout: float = 0.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.width, self.length, self.segment, self.scale = width, length, segment, scale
        self.project = nn.Linear(segment, width)
        self.positions = Positions([length], width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def patchify(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cut a waveform (B, S) into segments.

        Raises:
            ValueError: the waveform is not ``length`` segments long.
        """
        if raw.ndim != 2 or raw.shape[1] != self.length * self.segment:
            raise ValueError(
                f"a waveform is (B, {self.length * self.segment}) ({self.length} segments of {self.segment} samples), "
                f"not {tuple(raw.shape)}"
            )
        return raw.reshape(raw.shape[0], self.length, self.segment), _sequence(raw, self.length), None

    def embed(self, patches: Tensor, position: Tensor) -> Tensor:
        return self.dropout(self.project(patches * self.scale) + self.positions(position))


class TextTokenizer(Tokenizer):
    """Word ids as learned embeddings.

    Args:
        width: D.
        vocabulary_size: ids run from 0 to one less; may be larger than the vocabulary.
        length: most words of a text, L.
        pad_id: the id of padding, whose tokens are not valid.
        dropout: on the embedded tokens.
    """

    def __init__(
        self, width: int, vocabulary_size: int, length: int = 16, pad_id: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.width, self.vocabulary_size, self.length, self.pad_id = width, vocabulary_size, length, pad_id
        self.words = nn.Embedding(vocabulary_size, width)
        self.positions = Positions([length], width)
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.words.weight, std=1.0)

    def patchify(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids (B, L) become patches (B, L, 1).

        Raises:
            ValueError: the text is longer than ``length``.
        """
        if raw.ndim != 2 or raw.shape[1] > self.length:
            raise ValueError(f"a text is (B, L) with L up to {self.length}, not {tuple(raw.shape)}")
        return raw.unsqueeze(-1), _sequence(raw, raw.shape[1]), raw != self.pad_id

    def embed(self, patches: Tensor, position: Tensor) -> Tensor:
        return self.dropout(self.words(patches.squeeze(-1)) + self.positions(position))


def _sequence(raw: Tensor, length: int) -> Tensor:
    """Places (i, 0, 0) of a sequence: (B, N, 3)."""
    places = torch.zeros(length, 3, dtype=torch.int64, device=raw.device)
    places[:, 0] = torch.arange(length, device=raw.device)
    return places.expand(raw.shape[0], -1, -1)
