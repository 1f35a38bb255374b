"""The whole model: backbone and projection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.backbone import Backbone, check_format
from vatt.models.directories import read_saved
from vatt.models.heads import Projection
from vatt.models.precision import single_precision
from vatt.models.saving import HubModel
from vatt.models.selection import KeepRule, drop_token, same_keep
from vatt.structures import ClipFormat

Space = Literal["video_audio", "video_text"]
Files = str | Path | Sequence[str | Path]
SPACES: dict[str, str] = {"video_audio": "va", "video_text": "vt"}  # space -> suffix of the projection's outputs


class VATT(HubModel):
    """Video, audio and text into common spaces.

    Args:
        backbone: tokenizers and transformers.
        projection: pooled features to common spaces, for example `HierarchicalProjection`.
        format: how clips must be read for this model.
    """

    parts = ("backbone", "projection", "format")

    def __init__(self, backbone: Backbone, projection: Projection, format: ClipFormat) -> None:
        super().__init__()
        check_format(backbone, format)
        self.backbone, self.projection, self.format = backbone, projection, format

    def forward(
        self, video: Tensor | None = None, audio: Tensor | None = None, text: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Pooled features and common-space vectors of what is given.

        Lengths and sizes may be others than those of ``format``; positions are interpolated then.

        Args:
            video: (B, T, 3, H, W) float in [-1, 1].
            audio: (B, S) float in [-1, 1].
            text: (B, L) int64 ids.

        Returns:
            ``video``, ``audio``, ``text`` (B, D) and ``video_va``, ``audio_va``, ``video_vt``, ``text_vt`` (B, E),
            not normalised, as far as the input has the modality.

        Raises:
            InputError: a modality that the model does not have.
        """
        raw = {m: x for m, x in (("video", video), ("audio", audio), ("text", text)) if x is not None}
        unknown = [modality for modality in raw if modality not in self.backbone.modalities]
        if unknown:
            raise InputError(f"this model takes {', '.join(self.backbone.modalities)}, not {', '.join(unknown)}")
        pooled = {m: self.backbone(m, x).pooled for m, x in raw.items()}
        return {**pooled, **self.projection(pooled)}

    def encode_video(self, video: Tensor | Files, space: Space = "video_text") -> Tensor:
        """Video to unit vectors (B, E) in a common space.

        Args:
            video: (B, T, 3, H, W) float in [-1, 1]; or one or several files, each of which gives one vector, the mean
                of its windows, as `vatt.embed` pools them.
            space: "video_text" or "video_audio".

        Raises:
            InputError: the model has no such vector, or a file cannot be read or has no picture.
        """
        return self._encode(video, "video", space)

    def encode_audio(self, audio: Tensor | Files, space: Space = "video_audio") -> Tensor:
        """Audio (B, S) float in [-1, 1], or files, to unit vectors (B, E). See `encode_video`."""
        return self._encode(audio, "audio", space)

    def encode_text(self, text: Tensor | str | Sequence[str], space: Space = "video_text") -> Tensor:
        """Texts, or ids (B, L), to unit vectors (B, E).

        Raises:
            InputError: the model has no such vector, or a text has no word that its vocabulary knows.
            FileNotFoundError: words are given, and the model has no vocabulary.
        """
        if not isinstance(text, Tensor):
            from vatt.models.encoding import to_ids

            with torch.inference_mode():  # as of files: words are not trained on here
                ids = to_ids(self, [text] if isinstance(text, str) else list(text))
                return self._encode(ids, "text", space)
        return self._encode(text, "text", space)

    def _encode(self, given: Tensor | Files, modality: str, space: Space) -> Tensor:
        if not isinstance(given, Tensor):
            from vatt.models.encoding import encode_files

            return encode_files(self, [given] if isinstance(given, str | Path) else list(given), modality, space)
        return self._unit(self(**{modality: given}), modality, space)

    def _unit(self, outputs: dict[str, Tensor], modality: str, space: Space) -> Tensor:
        name = f"{modality}_{SPACES[space]}"
        if name not in outputs:
            raise InputError(f"this model has no {modality} in the {space} space")
        return F.normalize(outputs[name], dim=-1)


class Classifier(HubModel):
    """One modality into classes: what fine-tuning makes of a pretrained tower.

    Args:
        backbone: with the modality that is classified, and no other.
        head: pooled features to logits, for example `LinearClassifier`.
        format: how clips must be read for this model.
        classes: names of the classes in order of the logits; None where they are not known.
        drop_token: share of the tokens that training drops. The paper fine-tunes with all of them, 0; the released
            code goes on dropping a half.
        per_sample, keep_rule: see `vatt.models.selection.drop_token`.
        drop_in_use: drop them out of training too, always the same places, for less work: the inference GFLOPs of the
            paper's table 6.
    """

    parts = ("backbone", "head", "format", "classes", "drop_token", "per_sample", "keep_rule", "drop_in_use")

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        format: ClipFormat,
        classes: list[str] | None = None,
        drop_token: float = 0.0,
        per_sample: bool = False,
        keep_rule: KeepRule = "tokens",
        drop_in_use: bool = False,
    ) -> None:
        super().__init__()
        if len(backbone.modalities) != 1:
            raise ValueError(f"a classifier has one modality, not {', '.join(backbone.modalities)}")
        if classes is not None and len(classes) != head.classes:
            raise ValueError(f"{len(classes)} names for {head.classes} classes")
        if not 0 <= drop_token < 1:
            raise ValueError(f"drop_token must lie in [0, 1), not {drop_token!r}")
        check_format(backbone, format)
        self.backbone, self.head, self.format, self.classes = backbone, head, format, classes
        self.drop_token, self.per_sample, self.keep_rule = drop_token, per_sample, keep_rule
        self.drop_in_use = drop_in_use

    @property
    def modality(self) -> str:
        """What is classified."""
        return self.backbone.modalities[0]

    def forward(self, video: Tensor | None = None, audio: Tensor | None = None) -> dict[str, Tensor]:
        """Classify one input.

        Args:
            video: (B, T, 3, H, W) float in [-1, 1]; an image is one patch of equal frames.
            audio: (B, S) float in [-1, 1].

        Returns:
            The pooled feature under the modality's name (B, D), ``logits`` and ``probabilities`` (B, C).

        Raises:
            InputError: not the modality that it was made for.
        """
        raw = {name: x for name, x in {"video": video, "audio": audio}.items() if x is not None}
        if list(raw) != [self.modality]:
            raise InputError(f"this classifier takes {self.modality}, not {' and '.join(raw) or 'nothing'}")
        tokens = self.backbone.tokenize(self.modality, raw[self.modality])
        table = self.backbone.tokenizers[self.modality].grid
        if self.training:
            tokens = drop_token(tokens, self.drop_token, table, per_sample=self.per_sample, rule=self.keep_rule)
        elif self.drop_in_use and self.drop_token:
            b, n, _ = tokens.x.shape
            keep = same_keep(n, self.drop_token, table, self.keep_rule)  # what a clip comes to depends on no other
            tokens = tokens.take(keep.to(tokens.x.device).expand(b, -1))
        pooled = self.backbone.encode(self.modality, tokens).pooled
        # Scores that are ranked need all their digits.
        with single_precision(pooled):
            logits = self.head(pooled.to(next(self.head.parameters()).dtype))
        return {self.modality: pooled, "logits": logits, "probabilities": self.head.probabilities(logits)}


def load_model(name: str | Path) -> VATT | Classifier:
    """A saved model, whatever it is.

    Args:
        name: folder, or name on the Hugging Face Hub.

    Raises:
        FileNotFoundError, InputError: see `HubModel.from_pretrained`.
    """
    kinds = {kind.__name__: kind for kind in (VATT, Classifier)}
    kind = read_saved(name)[1]["model"]
    if kind not in kinds:
        raise InputError(f"{name} holds a {kind}, which this version of vatt does not know")
    return kinds[kind].from_pretrained(name)
