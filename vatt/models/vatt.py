"""The whole model: backbone and projection, saved to a folder and loaded from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.part import Part, from_config, to_config
from vatt.structures import ClipFormat

Space = Literal["video_audio", "video_text"]
SPACES: dict[str, str] = {"video_audio": "va", "video_text": "vt"}  # space -> suffix of the projection's outputs

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class VATT(nn.Module):
    """Video, audio and text into common spaces.

    Args:
        backbone: tokenizers and transformers.
        projection: pooled features to common spaces, for example `HierarchicalProjection`.
        format: how clips must be read for this model.

    Attributes:
        folder: where it was loaded from, or None.
    """

    def __init__(self, backbone: Backbone, projection: Part, format: ClipFormat) -> None:
        super().__init__()
        self.backbone, self.projection, self.format = backbone, projection, format
        self.folder: Path | None = None

    def forward(
        self, video: Tensor | None = None, audio: Tensor | None = None, text: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Pooled features and common-space vectors of what is given.

        Args:
            video: (B, T, 3, H, W) float in [-1, 1].
            audio: (B, S) float in [-1, 1].
            text: (B, L) int64 ids.

        Returns:
            ``video``, ``audio``, ``text`` (B, D) and ``video_va``, ``audio_va``, ``video_vt``, ``text_vt`` (B, E),
            not normalised, as far as the input has the modality.
        """
        raw = {"video": video, "audio": audio, "text": text}
        pooled = {m: self.backbone(m, x).pooled for m, x in raw.items() if x is not None}
        return {**pooled, **self.projection(pooled)}

    def encode_video(self, video: Tensor, space: Space = "video_text") -> Tensor:
        """Video (B, T, 3, H, W) to unit vectors (B, E) in a common space."""
        return self._unit(self(video=video), "video", space)

    def encode_audio(self, audio: Tensor, space: Space = "video_audio") -> Tensor:
        """Audio (B, S) to unit vectors (B, E)."""
        return self._unit(self(audio=audio), "audio", space)

    def encode_text(self, text: Tensor, space: Space = "video_text") -> Tensor:
        """Text ids (B, L) to unit vectors (B, E)."""
        return self._unit(self(text=text), "text", space)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any weight and any part of the configuration."""
        digest = hashlib.sha256(json.dumps(self._config(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        (folder / (WEIGHTS + ".part")).write_bytes(save(tensors, metadata={"format": "pt"}))
        os.replace(folder / (WEIGHTS + ".part"), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(self._config(), indent=1), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VATT:
        """Load a saved model, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: the folder holds no model.
            InputError: weights and configuration do not fit; the message names the tensors.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no model in {folder}: {name} is missing")
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model = cls(
            backbone=from_config(config["backbone"]),
            projection=from_config(config["projection"]),
            format=ClipFormat.from_dict(config["format"]),
        )
        try:
            model.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise InputError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {error}") from error
        model.folder = folder
        return model.eval()

    def _config(self) -> dict[str, Any]:
        return {
            "backbone": to_config(self.backbone),
            "projection": to_config(self.projection),
            "format": self.format.to_dict(),
        }

    def _unit(self, outputs: dict[str, Tensor], modality: str, space: Space) -> Tensor:
        name = f"{modality}_{SPACES[space]}"
        if name not in outputs:
            raise InputError(f"this model has no {modality} in the {space} space")
        return F.normalize(outputs[name], dim=-1)
