"""Heads on pooled features: into the common spaces (VATT, section 3.3), or into classes (appendix A.2.5)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from vatt.models.masked_norm import apply_to_valid
from vatt.models.part import Part

BN_EPS = 1e-5


class Projection(Part):
    """Pooled features to common spaces: ``forward`` gives ``video_va``, ``audio_va``, ``video_vt``, ``text_vt``.

    Subclasses fill ``self.branches``: by modality, its outputs' names and the layers that lead from one to the next.
    """

    branches: dict[str, list[tuple[str, nn.Module]]]

    def forward(self, pooled: dict[str, Tensor], valid: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Project what is there; vectors are not normalised.

        Args:
            pooled: (B, D) features by modality. Text may have any number of rows.
            valid: (B,) bool by modality. Invalid rows are excluded from batch statistics and become zeros. None: all
                rows are valid.

        Returns:
            ``video_va`` and ``audio_va`` (B, E) in the video-audio space, ``video_vt`` and ``text_vt`` (B, E) in
            the video-text space, as far as ``pooled`` has the modality.

        Raises:
            ValueError: a modality that the head was not made for.
        """
        out: dict[str, Tensor] = {}
        for modality, x in pooled.items():
            if modality not in self.branches:
                raise ValueError(f"this projection has no {modality} branch")
            for name, layer in self.branches[modality]:
                if valid is None:
                    x = out[name] = layer(x)
                else:
                    x = apply_to_valid(layer, x, valid[modality])
                    out[name] = x.where(valid[modality][:, None], 0.0)
        return out

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class NoProjection(Projection):
    """No common space: what objectives that compare no modalities leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = {}

    def forward(self, pooled: dict[str, Tensor], valid: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        return {}


class HierarchicalProjection(Projection):
    """Fine and coarse common spaces (FAC): video meets audio in the fine one, and goes on to meet text.

    As the released code has it: video passes two layers with batch norm into the video-audio space, and one more
    with batch norm (after a ReLU) into the video-text space; audio and text enter by one linear layer with bias and
    without batch norm. As the paper's section 3.3 says it: batch norm after every linear layer, and no ReLU between
    the spaces.

    Args:
        widths: D of the pooled features by modality; "video" is needed, "audio" and "text" as the model has them.
        video_audio: E of the fine space.
        video_text: E of the coarse space.
        paper: the paper's form instead of the released code's.
    """

    def __init__(
        self, widths: dict[str, int], video_audio: int = 512, video_text: int = 256, paper: bool = False
    ) -> None:
        super().__init__()
        self.video_to_va = nn.Sequential(
            nn.Linear(widths["video"], video_audio, bias=False),
            nn.BatchNorm1d(video_audio, eps=BN_EPS),
            nn.ReLU(),
            nn.Linear(video_audio, video_audio, bias=False),
            nn.BatchNorm1d(video_audio, eps=BN_EPS),
        )
        self.va_to_vt = nn.Sequential(
            nn.Identity() if paper else nn.ReLU(),
            nn.Linear(video_audio, video_text, bias=False),
            nn.BatchNorm1d(video_text, eps=BN_EPS),
        )

        def enter(width: int, space: int) -> nn.Module:
            if paper:
                return nn.Sequential(nn.Linear(width, space, bias=False), nn.BatchNorm1d(space, eps=BN_EPS))
            return nn.Linear(width, space)

        self.audio_to_va = enter(widths["audio"], video_audio) if "audio" in widths else None
        self.text_to_vt = enter(widths["text"], video_text) if "text" in widths else None
        self._initialise()

    @property
    def branches(self) -> dict[str, list[tuple[str, nn.Module]]]:
        """See `Projection`."""
        all_of_them = {
            "video": [("video_va", self.video_to_va), ("video_vt", self.va_to_vt)],
            "audio": [("audio_va", self.audio_to_va)],
            "text": [("text_vt", self.text_to_vt)],
        }
        return {m: layers for m, layers in all_of_them.items() if layers[0][1] is not None}


class JointProjection(Projection):
    """One common space for all: BN(W ReLU(x)) for each modality, as the released code's joint head.

    Args:
        widths: D of the pooled features by modality.
        joint: E of the space.
    """

    def __init__(self, widths: dict[str, int], joint: int = 512) -> None:
        super().__init__()
        self.to_joint = nn.ModuleDict(
            {
                modality: nn.Sequential(
                    nn.ReLU(), nn.Linear(width, joint, bias=False), nn.BatchNorm1d(joint, eps=BN_EPS)
                )
                for modality, width in widths.items()
            }
        )
        self._initialise()

    @property
    def branches(self) -> dict[str, list[tuple[str, nn.Module]]]:
        """See `Projection`; the video's two vectors are one."""
        names = {"video": ("video_va", "video_vt"), "audio": ("audio_va",), "text": ("text_vt",)}
        return {
            modality: [(name, layer if i == 0 else nn.Identity()) for i, name in enumerate(names[modality])]
            for modality, layer in self.to_joint.items()
        }


class LinearClassifier(Part):
    """Dropout and one linear layer.

    Args:
        width: D.
        classes: C.
        dropout: before the layer (the released code: 0.5 for video, none for audio).
        multi_label: classes do not exclude each other; the bias then begins at -ln(C - 1), so that every class is
            rare at first (released code, AudioSet).
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.5, multi_label: bool = False) -> None:
        super().__init__()
        self.classes, self.multi_label = classes, multi_label
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)
        (nn.init.xavier_uniform_ if multi_label else nn.init.xavier_normal_)(self.linear.weight)
        nn.init.constant_(self.linear.bias, -math.log(max(classes - 1, 1)) if multi_label else 0.0)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) to logits (B, C)."""
        return self.linear(self.dropout(pooled))

    def probabilities(self, logits: Tensor) -> Tensor:
        """(…, C) logits to probabilities: softmax, or a sigmoid each where classes do not exclude each other."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
