"""Samples to a batch, and a batch to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from vatt.datasets.transforms import to_float
from vatt.structures import Batch

Sample = dict[str, Any]


def collate(groups: Sequence[list[Sample]]) -> Batch:
    """Put samples, several for each opened file, into one batch, which `finish` makes ready for a model."""
    samples = [sample for group in groups for sample in group]
    batch: dict[str, Any] = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        # In a worker this stacks right into memory that the main process shares.
        batch[name] = default_collate(values) if isinstance(first, torch.Tensor) else values
    batch["events"] = [event for events in batch["events"] for event in events]
    return batch  # type: ignore[return-value]


def finish(batch: Batch) -> Batch:
    """The last step, on the device: pictures become float in [-1, 1], their colors changed as they were drawn."""
    color = batch.pop("video_color", None)  # type: ignore[misc]
    if "video" in batch and batch["video"].dtype == torch.uint8:
        batch["video"] = to_float(batch["video"], color)
        batch["video"][~batch["video_valid"]] = 0.0
    return batch
