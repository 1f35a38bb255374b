"""Frozen features of one modality, of every layer, for classifiers on top of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vatt.datasets.batches import collate, finish
from vatt.datasets.clips import ClipDataset, ClipReader, Views
from vatt.datasets.table import ClipTable
from vatt.models.backbone import Backbone
from vatt.structures import Event

FINAL = "final"  # the pooled feature, after the last norm


@dataclass
class FrozenFeatures:
    """Features of clips, each in several windows.

    Attributes:
        ids: of the N clips that could be read.
        layers: by name, (N, V, D) float32: the AGG token behind block "1", "2", …, and the pooled feature, `FINAL`.
        tokens: (N, V, T, D) float32, all tokens after the last norm, AGG first; None unless they were asked for.
        events: what went wrong, file by file.
    """

    ids: list[str]
    layers: dict[str, Tensor]
    tokens: Tensor | None = None
    events: list[Event] = field(default_factory=list)


def extract(
    backbone: Backbone,
    clips: ClipTable,
    reader: ClipReader,
    windows: int,
    tokens: bool = False,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str | None = None,
) -> FrozenFeatures:
    """Read every clip in some windows, and encode them. A clip of which a window cannot be read is left out.

    Args:
        backbone: of one modality (see `Backbone.tower`).
        clips: rows of a manifest.
        reader: of that modality.
        windows: of each clip, spread from its beginning to its end; one lies in the middle.
        tokens: keep all tokens too.
        batch_size: windows at a time.
        num_workers: processes that read.
        device: "cpu", "cuda", …; a GPU is used if there is one.
    """
    (modality,) = backbone.modalities
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    backbone = backbone.to(target).eval()
    loader = DataLoader(
        ClipDataset(clips, reader, views=Views(windows)),
        batch_size=max(1, batch_size // windows),
        num_workers=num_workers,
        collate_fn=collate,
    )
    found, parts, every = FrozenFeatures([], {}), {}, []
    with torch.inference_mode(), tqdm(total=len(clips), desc="features", unit="clip", disable=None) as bar:
        for batch in loader:
            whole = batch[f"{modality}_valid"].view(-1, windows).all(dim=1)
            names = batch["id"][::windows]
            found.events += batch["events"]
            found.ids += [name for name, is_whole in zip(names, whole.tolist(), strict=True) if is_whole]
            ready = finish({k: x.to(target) if isinstance(x, Tensor) else x for k, x in batch.items()})
            features = backbone.encode(modality, backbone.tokenize(modality, ready[modality]), layers=True)
            outputs = {str(i): x[:, 0] for i, x in enumerate(features.layers, start=1)} | {FINAL: features.pooled}

            def keep(x: Tensor, whole: Tensor = whole) -> Tensor:
                return x.float().cpu().view(-1, windows, *x.shape[1:])[whole]

            for name, x in outputs.items():
                parts.setdefault(name, []).append(keep(x))
            if tokens:
                every.append(keep(torch.cat([features.pooled[:, None], features.tokens], dim=1)))
            bar.update(len(names))
    found.layers = {name: torch.cat(x) for name, x in parts.items()}
    found.tokens = torch.cat(every) if tokens else None
    return found
