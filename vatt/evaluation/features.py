"""Frozen features of one modality, of every layer, for classifiers on top of them."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, Views
from vatt.datasets.loading.batches import collate, finish
from vatt.datasets.loading.crashes import SequentialLoader
from vatt.datasets.loading.workers import leave_interrupts_to_main
from vatt.datasets.table import ClipTable
from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.device import resolve_device
from vatt.models.transformer import Encoder
from vatt.structures import Event

FINAL = "final"  # the pooled feature, after the last norm


@dataclass
class FrozenFeatures:
    """Features of clips, each in several views.

    Attributes:
        ids: of the N clips that could be read.
        layers: by name, (N, V, D) float32: the AGG token behind block "1", "2", …, or the mean of the tokens where
            there is none that has seen them, and the pooled feature, `FINAL`.
        tokens: by the name of a layer, (N, V, T, D) float16, all tokens, if they were asked for; the AGG token is the
            first of them, where there is one that has seen the others.
        events: what went wrong, file by file.
    """

    ids: list[str]
    layers: dict[str, Tensor]
    tokens: dict[str, Tensor] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


def extract(
    backbone: Backbone,
    clips: ClipTable,
    reader: ClipReader,
    views: Views,
    tokens: Collection[str] = (),
    batch_size: int = 32,
    num_workers: int = 2,
    device: str | None = None,
) -> FrozenFeatures:
    """Read some views of every clip, and encode them. A clip of which a view cannot be read is left out.

    Args:
        backbone: of one modality (see `Backbone.tower`).
        clips: rows of a manifest.
        reader: of that modality.
        views: of each clip; the squares of a window follow each other.
        tokens: layers of which all tokens are kept too.
        batch_size: views at a time.
        num_workers: processes that read.
        device: "cpu", "cuda", …; a GPU is used if there is one.

    Raises:
        InputError: the tokens do not fit into the memory.
    """
    (modality,) = backbone.modalities
    target = resolve_device(device)
    backbone, encoder = backbone.to(target).eval(), backbone.encoder(modality)
    loader = SequentialLoader(
        ClipDataset(clips, reader, views=views),
        max(1, batch_size // len(views)),
        {},
        leave_interrupts_to_main,
        num_workers=num_workers,
        collate_fn=collate,
    )
    found, parts = FrozenFeatures([], {}), {}
    with torch.inference_mode(), tqdm(total=len(clips), desc="features", unit="clip", disable=None) as bar:
        for batch in loader:
            whole = batch[f"{modality}_valid"].view(-1, len(views)).all(dim=1)
            names = batch["id"][:: len(views)]
            found.events += batch["events"]
            found.ids += [name for name, is_whole in zip(names, whole.tolist(), strict=True) if is_whole]
            ready = finish({k: x.to(target) if isinstance(x, Tensor) else x for k, x in batch.items()})
            features = backbone.encode(modality, backbone.tokenize(modality, ready[modality]), layers=True)
            outputs = {str(i): _with_pooled(encoder, x) for i, x in enumerate(features.layers, start=1)}
            last = [features.pooled[:, None]] if _has_seen(encoder) else []
            outputs[FINAL] = features.pooled, torch.cat([*last, features.tokens], dim=1)
            if not parts:
                wanted = sum(outputs[name][1][0].numel() for name in tokens)
                _check_memory(wanted * 2 * len(views) * len(clips), tokens)
            for name, both in outputs.items():
                pooled, every = (x.view(-1, len(views), *x.shape[1:])[whole.to(x.device)] for x in both)
                parts.setdefault((name, False), []).append(pooled.float().cpu())
                if name in tokens:
                    parts.setdefault((name, True), []).append(every.half().cpu())
            bar.update(len(names))
    for (name, every), x in parts.items():
        (found.tokens if every else found.layers)[name] = torch.cat(x)
        x.clear()
    return found


def _has_seen(encoder: Encoder) -> bool:
    """Whether there is an AGG token that has seen the others; the start of a causal sequence has seen nothing."""
    return encoder.agg and not encoder.causal


def _with_pooled(encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the outputs of a block the AGG token, or the mean where none has seen the others, and all tokens."""
    if _has_seen(encoder):
        return x[:, 0], x
    rest = x[:, 1:] if encoder.agg else x
    return rest.mean(dim=1), rest


def _check_memory(wanted: int, tokens: Collection[str]) -> None:
    """See that so many bytes can be held, twice while they are put together."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():  # not Linux
        return
    free = 1024 * int(re.search(r"MemAvailable:\s*(\d+)", meminfo.read_text())[1])
    if 2 * wanted > free:
        raise InputError(
            f"all tokens of {', '.join(tokens)} need {2 * wanted / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} are free: take fewer windows or clips, or leave out the attentive probe"
        )
