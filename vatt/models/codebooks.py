"""Pictures as discrete codes, and a tokenizer of them (Toto, section 3.1)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.io import atomic_path, short_hash
from vatt.models.part import Part
from vatt.models.positions import PositionKind, check_positions, make_positions, places
from vatt.models.tokenizers import Tokenizer
from vatt.structures import ClipFormat, Patches

DALLE_SQUEEZE = 0.1  # pixels of the DALL-E autoencoder lie in [0.1, 0.9]


class Codebook(Part, ABC):
    """What turns pictures into codes; it is never trained with a model.

    Attributes:
        codes: how many there are.
        stride: pixels along each side of a code.
    """

    codes: int
    stride: int

    def check(self) -> None:
        """See that it can be used.

        Raises:
            InputError: it was not learned.
        """

    @property
    def hash(self) -> str | None:
        """Hash of the weights as 16 hexadecimal digits; None before the codebook has weights."""
        tensors = sorted(self.state_dict().items())
        if any(tensor.is_meta for _, tensor in tensors) or not any(bool(tensor.any()) for _, tensor in tensors):
            return None
        parts = [type(self).__name__.encode()]
        for name, tensor in tensors:
            parts += [name.encode(), tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()]
        return short_hash(*parts)

    @abstractmethod
    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, H / stride, W / stride) int64."""


class PretrainedCodes(Codebook):
    """What an autoencoder of Hugging Face's calls its pictures.

    Args:
        pretrained: name on the Hub, or folder, of the weights. A saved model holds the weights itself and keeps
            ``config`` instead.
        config: configuration of the autoencoder, with random weights.

    Raises:
        ImportError: transformers is not installed.
        InputError: weights of it are missing.
    """

    def __init__(self, pretrained: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        try:
            model_class, config_class = self._classes()
        except ImportError as error:
            raise ImportError(f'{type(self).__name__} needs transformers: pip install "vatt[transformers]"') from error
        if (pretrained is None) == (config is None):
            raise ValueError("give either pretrained (a name or a folder) or config (a dict)")
        if pretrained is not None:
            model, told = model_class.from_pretrained(pretrained, output_loading_info=True)
            if missing := sorted(told["missing_keys"]):
                what = f"{len(missing)} weights, the first {missing[0]}"
                raise InputError(f"{pretrained} is no {model_class.__name__}: it lacks {what}")
        else:
            model = model_class(config_class(**copy.deepcopy(config)))
        self.init_args = {"pretrained": None, "config": model.config.to_dict()}
        self.model = model.requires_grad_(False)

    @staticmethod
    @abstractmethod
    def _classes() -> tuple[type, type]:
        """Of the autoencoder, and of its configuration."""


class DalleCodes(PretrainedCodes):
    """The encoder of DALL-E's discrete autoencoder, as Hugging Face has it with FLAVA: 8,192 codes of 8 x 8 pixels.

    Args:
        pretrained: see `PretrainedCodes` ("facebook/flava-image-codebook").
        config: of a `FlavaImageCodebook`.
    """

    def __init__(self, pretrained: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__(pretrained, config)
        self.codes, self.stride = self.model.config.vocab_size, 2 ** (self.model.config.num_groups - 1)

    @staticmethod
    def _classes() -> tuple[type, type]:
        from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

        return FlavaImageCodebook, FlavaImageCodebookConfig

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        squeezed = (pictures + 1) / 2 * (1 - 2 * DALLE_SQUEEZE) + DALLE_SQUEEZE
        return self.model.get_codebook_indices(squeezed.to(next(self.model.parameters()).dtype))


class VqganCodes(PretrainedCodes):
    """A VQGAN (Esser et al. 2021), as Hugging Face has it with Chameleon: 8,192 codes of 16 x 16 pixels.

    Chameleon's weights are its ``model.vqmodel``: save that by itself, and give the folder.

    Args:
        pretrained: see `PretrainedCodes`.
        config: of a `ChameleonVQVAE`.
    """

    def __init__(self, pretrained: str | None = None, config: dict[str, Any] | None = None) -> None:
        super().__init__(pretrained, config)
        settings = self.model.config
        self.codes, self.stride = settings.num_embeddings, 2 ** (len(settings.channel_multiplier) - 1)

    @staticmethod
    def _classes() -> tuple[type, type]:
        from transformers import ChameleonVQVAE, ChameleonVQVAEConfig

        return ChameleonVQVAE, ChameleonVQVAEConfig

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        found = self.model.encoder(pictures.to(next(self.model.parameters()).dtype))
        codes = self.model.quantize(self.model.quant_conv(found))[2]
        return codes.view(len(pictures), pictures.shape[2] // self.stride, -1)


class PatchCodes(Codebook):
    """The nearest of learned patches: a codebook for who has no DALL-E at hand.

    Args:
        codes: how many.
        stride: pixels along each side.
        pretrained: file of ``vatt codes``, which says how many and how large. A saved model holds them itself.

    Attributes:
        centres: (codes, stride * stride * 3); zeros until `fit`.

    Raises:
        InputError: the file holds something else.
    """

    def __init__(self, codes: int = 512, stride: int = 8, pretrained: str | None = None) -> None:
        super().__init__()
        centres = torch.zeros(codes, 3 * stride**2)
        if pretrained is not None:
            centres = load_file(pretrained).get("centres", centres.flatten())
            codes, stride = len(centres), math.isqrt(centres[0].numel() // 3)
            if centres.shape != (codes, 3 * stride**2):
                raise InputError(f"{pretrained} holds no patches: write it with vatt codes")
        self.init_args = {"codes": codes, "stride": stride, "pretrained": None}
        self.codes, self.stride = codes, stride
        self.register_buffer("centres", centres)

    def save(self, path: str | Path) -> None:
        """Save the codebook to a file that ``pretrained`` may refer to.

        Raises:
            WriteError: The disk is full or read-only.
        """
        with atomic_path(path) as unfinished:
            save_file({"centres": self.centres}, unfinished)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        x = self.cut(pictures).to(self.centres.dtype)
        distance = self.centres.square().sum(dim=1) - 2 * x @ self.centres.T
        return distance.argmin(dim=-1)

    def check(self) -> None:
        if not self.centres.is_meta and not self.centres.any():
            raise InputError("the codes were not learned: give PatchCodes the file of vatt codes as pretrained")

    def cut(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, h, w, stride * stride * 3)."""
        side = self.stride
        return pictures.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 4, 5, 1).flatten(3)

    @torch.no_grad()
    def fit(self, pictures: Tensor, rounds: int = 10, generator: torch.Generator | None = None) -> None:
        """Lloyd's k-means on the patches of pictures (B, 3, H, W); codes that nothing is near to begin anew.

        Raises:
            InputError: fewer patches than codes.
        """
        x = self.cut(pictures).flatten(0, 2).to(self.centres.dtype)
        if len(x) < self.codes:
            raise InputError(f"{len(x)} patches are too few for {self.codes} codes")

        def some(count: int) -> Tensor:
            return x[torch.randperm(len(x), generator=generator)[:count].to(x.device)]

        self.centres.copy_(some(self.codes))
        for _ in range(rounds):
            nearest = (self.centres.square().sum(dim=1) - 2 * x @ self.centres.T).argmin(dim=-1)
            count = torch.bincount(nearest, minlength=self.codes)
            total = torch.zeros_like(self.centres).index_add_(0, nearest, x)
            self.centres.copy_(total / count.clamp(min=1)[:, None])
            empty = count == 0
            self.centres[empty] = some(int(empty.sum()))


class CodeTokenizer(Tokenizer):
    """Frames as codes, frame by frame, row by row, each an embedding.

    Args:
        width: D.
        codebook: what makes codes.
        grid: places along time, height and width; (16, 16, 16) for 16 frames of 128 x 128 with DALL-E's codes.
        positions: see `vatt.models.positions.make_positions`; a transformer with rotary positions needs none.
    """

    def __init__(
        self,
        width: int,
        codebook: Codebook,
        grid: tuple[int, int, int] = (16, 16, 16),
        positions: PositionKind = "none",
    ) -> None:
        super().__init__()
        self.width, self.grid, self.codebook = width, tuple(grid), codebook
        # One more than codes: the end of a sequence, which is predicted but never read.
        self.codes = nn.Embedding(codebook.codes + 1, width)
        nn.init.normal_(self.codes.weight, std=0.02)
        self.positions = make_positions(positions, self.grid, width)

    def patchify(self, raw: Tensor) -> Patches:
        """Video (B, T, 3, H, W) to codes (B, N, 1).

        Raises:
            ValueError: another shape, whole numbers for pixels, or sides that codes do not fill.
        """
        if not raw.is_floating_point() or raw.ndim != 5 or raw.shape[2] != 3:
            raise ValueError(f"a video is (B, T, 3, H, W), float in [-1, 1], not {tuple(raw.shape)} {raw.dtype}")
        frames, _, height, width = raw.shape[1:]
        grid = self._grid(frames, height, width)
        codes = self.codebook(raw.flatten(0, 1))
        return Patches(codes.reshape(len(raw), -1, 1), places(raw, grid), grid)

    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        grid = self._grid(format.num_frames, format.size, format.size)
        check_positions(self.positions, grid)
        return grid

    def _grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        side = self.codebook.stride
        if height % side or width % side or 0 in (frames, height, width):
            raise ValueError(f"frames of {height} x {width} cannot be cut into codes of {side} x {side}")
        return frames, height // side, width // side

    def embed(self, patches: Patches) -> Tensor:
        x = self.codes(patches.x.squeeze(-1))
        return x if self.positions is None else (x + self.positions(patches.position, patches.grid)).to(x.dtype)
