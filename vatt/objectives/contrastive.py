"""VATT's objective: NCE between video and audio, MIL-NCE between video and text (section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection
from vatt.models.part import Part
from vatt.models.selection import random_keep
from vatt.objectives.base import Objective
from vatt.objectives.distributed import gather
from vatt.objectives.losses import Form, mil_nce, nce
from vatt.structures import MODALITIES, Batch


class Contrastive(Objective):
    """L = (w_va * NCE(video, audio) + w_vt * MIL-NCE(video, text)) / (w_va + w_vt).

    Args:
        video_audio: E of the video-audio space.
        video_text: E of the video-text space.
        temperature: of both losses.
        video_audio_weight: w_va; 0 leaves the term out.
        video_text_weight: w_vt; 0 leaves the term out.
        drop_video: share of the video tokens that training drops (DropToken); the paper drops a half.
        drop_audio: the same for audio. Text tokens are never dropped.
        per_sample: drop other tokens in every clip; False drops the same places in the whole batch.
        form: see `vatt.objectives.losses`.

    A term whose modality the batch does not have, or has nowhere valid, counts 0 and leaves the other's weight as it
    is.
    """

    def __init__(
        self,
        video_audio: int = 512,
        video_text: int = 256,
        temperature: float = 0.07,
        video_audio_weight: float = 1.0,
        video_text_weight: float = 1.0,
        drop_video: float = 0.5,
        drop_audio: float = 0.5,
        per_sample: bool = False,
        form: Form = "asymmetric",
    ) -> None:
        super().__init__()
        if not video_audio_weight + video_text_weight > 0:
            raise ValueError("one of video_audio_weight and video_text_weight must be above 0")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.video_audio, self.video_text, self.temperature = video_audio, video_text, temperature
        self.video_audio_weight, self.video_text_weight = video_audio_weight, video_text_weight
        self.drop = {"video": drop_video, "audio": drop_audio, "text": 0.0}
        self.per_sample, self.form = per_sample, form

    def build(self, backbone: Backbone) -> None:
        widths = {modality: backbone.width(modality) for modality in backbone.modalities}
        self.projection = HierarchicalProjection(widths, self.video_audio, self.video_text)

    def head(self) -> Part:
        return self.projection

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss``, ``video_audio``, ``video_text`` and the number of ``tokens`` that were encoded."""
        pooled, valid, tokens = self._features(backbone, batch)
        # Heads and losses see the batch of all processes: its negatives and its batch statistics.
        pooled = {modality: gather(x) for modality, x in pooled.items()}
        valid = {modality: gather(x) for modality, x in valid.items()}
        z = self._project(pooled, valid)
        zero = pooled["video"].sum() * 0.0
        terms = {"video_audio": zero, "video_text": zero}
        if "audio" in pooled and self.video_audio_weight:
            terms["video_audio"] = nce(
                z["video_va"], z["audio_va"], self.temperature, valid["video"], valid["audio"], self.form
            )
        if "text" in pooled and self.video_text_weight:
            rows, texts = valid["text"].shape
            text = z["text_vt"].view(rows, texts, -1)
            terms["video_text"] = mil_nce(
                z["video_vt"], text, self.temperature, valid["video"], valid["text"], self.form
            )
        weights = {"video_audio": self.video_audio_weight, "video_text": self.video_text_weight}
        loss = sum(weights[name] * term for name, term in terms.items()) / sum(weights.values())
        return {"loss": loss, **terms, "tokens": loss.new_tensor(tokens)}

    @torch.no_grad()
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``video_va``, ``audio_va``, ``video_vt`` and ``text_vt``, the last one of each clip's first text."""
        pooled, _, _ = self._features(backbone, batch, texts=1)
        return self.projection(pooled)

    def _features(
        self, backbone: Backbone, batch: Batch, texts: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        """Pooled features (text: (B K, D)), validity, and how many tokens went through the transformers."""
        pooled: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        tokens = 0
        for modality in MODALITIES:
            if modality not in batch or modality not in backbone.modalities:
                continue
            raw, valid[modality] = batch[modality], batch[f"{modality}_valid"]  # type: ignore[literal-required]
            if modality == "text":
                raw, valid[modality] = raw[:, :texts].flatten(0, 1), valid[modality][:, :texts]
            parts = backbone.tokenize(modality, raw)
            if self.training and self.drop[modality]:
                b, n, _ = parts.x.shape
                keep = random_keep(b, n, self.drop[modality], per_sample=self.per_sample, device=parts.x.device)
                parts = parts.take(keep)
            pooled[modality] = backbone.encode(modality, parts).pooled
            tokens += pooled[modality].shape[0] * (parts.x.shape[1] + 1)
        return pooled, valid, tokens

    def _project(self, pooled: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        """Project; clips without a picture do not enter the batch statistics, and get zeros."""
        if bool(valid["video"].all()) or int(valid["video"].sum()) < 2:
            return self.projection(pooled)
        z = self.projection({**pooled, "video": pooled["video"][valid["video"]]})
        for name in ("video_va", "video_vt"):
            z[name] = z[name].new_zeros(len(valid["video"]), z[name].shape[1]).index_put((valid["video"],), z[name])
        return z
