"""The export of a trained model: weights, configuration, vocabulary, and how they came about."""

from __future__ import annotations

import inspect
import json
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from vatt.training.callbacks import Throughput
from vatt.training.checkpoint import BestCheckpoint
from vatt.training.checkpoint_io import is_intact
from vatt.training.history import HISTORY, OBJECTIVE
from vatt.training.private import export_averaged_weights
from vatt.training.resume import has_average


class ExportModel(Callback):
    """When a training ends by itself, writes ``model/``: the best weights, configuration, vocabulary, and how they
    came about.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "model"

    # Not at the end of the training: a run that was killed after its last step has none when it is resumed.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        chosen: dict[str, Any] = {"weights": "of the last step"}
        average = next((c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)), None)
        if average is not None:  # a run that is resumed after its last step has not got it yet
            export_averaged_weights(average, pl_module)
            chosen["weights"] += ", moving average"
        kept = pl_module.state_dict(keep_vars=True)
        best = _best(trainer)
        if best is None:
            weights = {}
            for name, value in kept.items():
                found = gathered(value)  # one after the other: only the first process keeps them all
                if trainer.is_global_zero:
                    weights[name] = found
        if not trainer.is_global_zero:
            return
        if best is not None:
            checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            weights = checkpoint["state_dict"]
            chosen = {"weights": f"of step {checkpoint['global_step']}, best by {best.monitor}"}
            chosen["weights"] += ", moving average" if has_average(checkpoint) else ""
            chosen[best.monitor] = float(best.best_model_score)
        # The model has some of the module's tensors, under names of its own.
        model, names = pl_module.export(trainer.datamodule.format), {id(value): name for name, value in kept.items()}
        own = {name: weights[names[id(value)]] for name, value in model.state_dict(keep_vars=True).items()}
        made = type(model).assemble(model.config(), own)
        vocabulary = trainer.datamodule.vocabulary
        made.vocabulary_hash = None if vocabulary is None else vocabulary.hash
        used = {names[id(value)] for value in model.state_dict(keep_vars=True).values()}
        rest = {name: x for name, x in weights.items() if name.startswith("objective.") and name not in used}
        facts = chosen | self._circumstances(trainer, pl_module)
        if getattr(pl_module, "origin", None):
            facts["finetuning"] = pl_module.origin
        files = {HISTORY: lambda path: path.write_text(json.dumps(facts, indent=1), encoding="utf-8")}
        if rest:  # predictors and decoders, with which a further training begins
            parts = {name.removeprefix("objective."): x.contiguous() for name, x in rest.items()}
            files[OBJECTIVE] = partial(save_file, parts)
        made.save_pretrained(self.folder, vocabulary=vocabulary, extra_files=files)
        made.write_card(self.folder)

    @staticmethod
    def _circumstances(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        clock = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        data, device = trainer.datamodule, trainer.strategy.root_device
        objective = getattr(pl_module, "objective", None)
        said = (inspect.getdoc(objective) or "").partition("\n")[0]
        splits = {str(clip.split) for train, _ in data.parts.values() for clip in train.heads() if clip.split}
        clips = data.batch_size * data.windows * trainer.world_size * trainer.accumulate_grad_batches
        return {
            "objective": objective and f"{type(objective).__name__}: {said}",
            "data": [source.manifest for source in data.sources.values()],
            "splits": sorted(splits),
            "steps": trainer.global_step,
            "batch": clips,
            "minutes": round(clock.train_s / 60, 2) if clock else None,
            "train_clips": len(data.train_clips),
            "val_clips": len(data.val_clips),
            "seed": data.seed,
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {trainer.world_size} processes",
            "torch": torch.__version__,
        }


def _best(trainer: L.Trainer) -> BestCheckpoint | None:
    """The callback that has kept the best checkpoint; None if there is no such file. All processes must ask."""
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
    if best is None or not best.best_model_path:
        return None
    if not trainer.strategy.broadcast(is_intact(best.best_model_path)):
        rank_zero_warn(f"{best.best_model_path} is missing or damaged: the weights of the last step are exported")
        return None
    return best


def gathered(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may be shared, whole and on the CPU; all processes must ask for it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
