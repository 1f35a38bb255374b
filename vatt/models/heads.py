"""Projection heads: from pooled features into the common spaces (VATT, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from vatt.models.part import Part

BN_EPS = 1e-5


class HierarchicalProjection(Part):
    """Fine and coarse common spaces: video meets audio in the fine one, and goes on from there to meet text.

    As the released code has it: video passes two layers with batch norm into the video-audio space, and one more
    with batch norm (after a ReLU) into the video-text space; audio and text enter by one linear layer with bias and
    without batch norm.

    Args:
        widths: D of the pooled features by modality; "video" is needed, "audio" and "text" as the model has them.
        video_audio: E of the fine space.
        video_text: E of the coarse space.
    """

    def __init__(self, widths: dict[str, int], video_audio: int = 512, video_text: int = 256) -> None:
        super().__init__()
        self.video_to_va = nn.Sequential(
            nn.Linear(widths["video"], video_audio, bias=False),
            nn.BatchNorm1d(video_audio, eps=BN_EPS),
            nn.ReLU(),
            nn.Linear(video_audio, video_audio, bias=False),
            nn.BatchNorm1d(video_audio, eps=BN_EPS),
        )
        self.va_to_vt = nn.Sequential(
            nn.ReLU(),
            nn.Linear(video_audio, video_text, bias=False),
            nn.BatchNorm1d(video_text, eps=BN_EPS),
        )
        self.audio_to_va = nn.Linear(widths["audio"], video_audio) if "audio" in widths else None
        self.text_to_vt = nn.Linear(widths["text"], video_text) if "text" in widths else None
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        """Project what is there; vectors are not normalised.

        Args:
            pooled: (B, D) features by modality. Text may have any number of rows.

        Returns:
            ``video_va`` and ``audio_va`` (B, E) in the video-audio space, ``video_vt`` and ``text_vt`` (B, E) in
            the video-text space, as far as ``pooled`` has the modality.

        Raises:
            ValueError: a modality that the head was not made for.
        """
        out: dict[str, Tensor] = {}
        if "video" in pooled:
            out["video_va"] = self.video_to_va(pooled["video"])
            out["video_vt"] = self.va_to_vt(out["video_va"])
        for modality, layer, space in (("audio", self.audio_to_va, "va"), ("text", self.text_to_vt, "vt")):
            if modality not in pooled:
                continue
            if layer is None:
                raise ValueError(f"this projection has no {modality} branch")
            out[f"{modality}_{space}"] = layer(pooled[modality])
        return out
