"""Single files to vectors, without a store: what is asked for by example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.datasets.batches import collate, finish
from vatt.datasets.clips import ClipReader
from vatt.datasets.media.decoding import Decoder
from vatt.datasets.windows import Windows
from vatt.errors import InputError
from vatt.models.vatt import VATT
from vatt.structures import Clip

OUTPUTS = {  # of the model for a window: modality and space
    "video_va": ("video", "video_audio"),
    "video_vt": ("video", "video_text"),
    "audio_va": ("audio", "video_audio"),
}
BATCH = 16  # windows


@dataclass(frozen=True)
class FileVectors:
    """The windows of a file.

    Args:
        start_s, end_s: (W,) of each window, in seconds.
        vectors: (W, E) of length 1, by modality and space; of windows without the modality zeros.
    """

    start_s: list[float]
    end_s: list[float]
    vectors: dict[tuple[str, str], Tensor]

    def pooled(self, modality: str, space: str) -> Tensor:
        """(E,): one vector of length 1 for the whole file, the mean of its windows'."""
        return F.normalize(self.vectors[modality, space].mean(dim=0), dim=0)


@torch.inference_mode()
def encode_file(
    model: VATT, path: str | Path, hop_s: float | None = None, decoder: Decoder = "auto", windows: int | None = None
) -> FileVectors:
    """Read a file in windows, as `vatt.retrieval.embeddings.embed` does, and encode them.

    Args:
        model: on any device.
        path: of a video, a sound or a picture, or a URL.
        hop_s, decoder, windows: see there.

    Raises:
        InputError: it cannot be read, or has nothing that the model takes.
    """
    read = Windows(ClipReader(model.format, None, decoder), hop_s or model.format.duration_s, windows)
    samples = list(read.of(Clip(id=str(path), path=str(path))))
    for sample in samples:
        for event in sample["events"]:
            if event["kind"] == "unreadable":
                raise InputError(f"{path}: {event['reason']}")
    device = next(model.parameters()).device
    present = [
        m for m in ("video", "audio") if m in model.backbone.modalities and any(s[f"{m}_valid"] for s in samples)
    ]
    if not present:
        raise InputError(f"{path} has nothing that the model takes ({', '.join(model.backbone.modalities)})")
    found: dict[tuple[str, str], list[Tensor]] = {}
    for begin in range(0, len(samples), BATCH):
        batch = collate([[sample] for sample in samples[begin : begin + BATCH]])
        batch = finish({key: x.to(device) if isinstance(x, Tensor) else x for key, x in batch.items()})
        outputs = model(**{modality: batch[modality] for modality in present})
        for output, kind in OUTPUTS.items():
            if output in outputs:
                unit = F.normalize(outputs[output].float(), dim=-1) * batch[f"{kind[0]}_valid"][:, None]
                found.setdefault(kind, []).append(unit.cpu())
    vectors = {kind: torch.cat(parts) for kind, parts in found.items()}
    return FileVectors([s["start_s"] for s in samples], [s["end_s"] for s in samples], vectors)
