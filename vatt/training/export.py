"""Export of a trained model: weights, configuration, vocabulary and provenance."""

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
    """Writes ``model/`` at the end of training: the best weights, configuration, vocabulary and provenance.

    Args:
        folder: Directory of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "model"

    # Not `on_train_end`, which is not called if a training is resumed after its last step.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        chosen: dict[str, Any] = {"weights": "of the last step"}
        average = next((c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)), None)
        if average is not None:  # Lightning does not copy it if training is resumed after its last step
            export_averaged_weights(average, pl_module)
            chosen["weights"] += ", moving average"
        kept = pl_module.state_dict(keep_vars=True)
        best = _best(trainer)
        if best is None:
            weights = {}
            for name, value in kept.items():
                tensor = gathered(value)  # one at a time: only the first process keeps all of them
                if trainer.is_global_zero:
                    weights[name] = tensor
        if not trainer.is_global_zero:
            return
        if best is not None:
            checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            weights = checkpoint["state_dict"]
            chosen = {"weights": f"of step {checkpoint['global_step']}, best by {best.monitor}"}
            chosen["weights"] += ", moving average" if has_average(checkpoint) else ""
            chosen[best.monitor] = float(best.best_model_score)
        # The exported model has a subset of the module's tensors, under other names.
        model, names = pl_module.export(trainer.datamodule.format), {id(value): name for name, value in kept.items()}
        state = {name: weights[names[id(value)]] for name, value in model.state_dict(keep_vars=True).items()}
        exported = type(model).assemble(model.config(), state)
        vocabulary = trainer.datamodule.vocabulary
        exported.vocabulary_hash = None if vocabulary is None else vocabulary.hash
        used = {names[id(value)] for value in model.state_dict(keep_vars=True).values()}
        rest = {name: x for name, x in weights.items() if name.startswith("objective.") and name not in used}
        provenance = chosen | self._provenance(trainer, pl_module)
        if getattr(pl_module, "origin", None):
            provenance["finetuning"] = pl_module.origin
        files = {HISTORY: lambda path: path.write_text(json.dumps(provenance, indent=1), encoding="utf-8")}
        if rest:  # predictors and decoders, from which further training starts
            parts = {name.removeprefix("objective."): x.contiguous() for name, x in rest.items()}
            files[OBJECTIVE] = partial(save_file, parts)
        exported.save_pretrained(self.folder, vocabulary=vocabulary, extra_files=files)
        exported.write_card(self.folder)

    @staticmethod
    def _provenance(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        throughput = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        data, device = trainer.datamodule, trainer.strategy.root_device
        objective = getattr(pl_module, "objective", None)
        summary = (inspect.getdoc(objective) or "").partition("\n")[0]
        splits = {str(clip.split) for train, _ in data.parts.values() for clip in train.heads() if clip.split}
        clips = data.batch_size * data.windows * trainer.world_size * trainer.accumulate_grad_batches
        return {
            "objective": objective and f"{type(objective).__name__}: {summary}",
            "data": [source.manifest for source in data.sources.values()],
            "splits": sorted(splits),
            "steps": trainer.global_step,
            "batch": clips,
            "minutes": round(throughput.train_s / 60, 2) if throughput else None,
            "train_clips": len(data.train_clips),
            "val_clips": len(data.val_clips),
            "seed": data.seed,
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {trainer.world_size} processes",
            "torch": torch.__version__,
        }


def _best(trainer: L.Trainer) -> BestCheckpoint | None:
    """Return the callback with the best checkpoint, or None without an intact one. All processes must call this."""
    best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
    if best is None or not best.best_model_path:
        return None
    if not trainer.strategy.broadcast(is_intact(best.best_model_path)):
        rank_zero_warn(f"{best.best_model_path} is missing or damaged: the weights of the last step are exported")
        return None
    return best


def gathered(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, gathered if it is sharded. All processes must call this."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
