"""Checkpoints: the last one to resume from, the best one to keep, and the model that is exported in the end."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from vatt.training.callbacks import Throughput
from vatt.training.history import HISTORY


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name first: a run that is killed leaves a whole one behind."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        unfinished = f"{path}.part"
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        os.replace(unfinished, path)


class ExportModel(Callback):
    """When a training ends by itself, writes ``model/``: the best weights, configuration, vocabulary, and how they
    came about.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / "model"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the model of an earlier training aside, lest it be taken for this one's should this be stopped."""
        if trainer.is_global_zero and trainer.ckpt_path is None and self.folder.is_dir():
            aside = self.folder.with_name("model.before")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(self.folder, aside)
            print(f"the model of an earlier training is now {aside}")

    # Not at the end of the training: a run that was killed after its last step has none when it is resumed.
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        chosen: dict[str, Any] = {"weights": "of the last step"}
        last = {name: value.clone() for name, value in pl_module.state_dict().items()}
        average = next((c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)), None)
        if average is not None:  # a run that is resumed after its last step has not got it yet
            average._copy_average_to_current(pl_module)
            chosen["weights"] += ", moving average"
        best = next((c for c in trainer.checkpoint_callbacks if c.monitor and c.best_model_path), None)
        if best is not None:
            checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
            pl_module.load_state_dict(checkpoint["state_dict"])
            chosen = {"weights": f"of step {checkpoint['global_step']}, best by {best.monitor}"}
            chosen["weights"] += ", moving average" if average is not None else ""
            chosen[best.monitor] = float(best.best_model_score)
        pl_module.export(trainer.datamodule.format).save_pretrained(self.folder)
        pl_module.load_state_dict(last)
        if trainer.datamodule.vocabulary is not None:
            trainer.datamodule.vocabulary.save(self.folder / "vocabulary")
        facts = chosen | self._circumstances(trainer)
        if getattr(pl_module, "origin", None):
            facts["finetuning"] = pl_module.origin
        (self.folder / HISTORY).write_text(json.dumps(facts, indent=1))

    @staticmethod
    def _circumstances(trainer: L.Trainer) -> dict[str, Any]:
        clock = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)
        return {
            "steps": trainer.global_step,
            "minutes": round(clock.train_s / 60, 2) if clock else None,
            "train_clips": len(trainer.datamodule.train_clips),
            "val_clips": len(trainer.datamodule.val_clips),
            "seed": trainer.datamodule.seed,
            "device": str(trainer.strategy.root_device),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {trainer.world_size} processes",
            "torch": torch.__version__,
        }
