"""Checkpoints: the last one to resume from, the best one to keep, and the model that is exported in the end."""

from __future__ import annotations

import inspect
import json
import os
import platform
import shutil
import signal
import threading
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from vatt.errors import VattError
from vatt.structures import Batch
from vatt.training.callbacks import Throughput
from vatt.training.history import HISTORY, OBJECTIVE

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
TERMINATED = 143  # exit status of a process that SIGTERM ended


class DamagedCheckpoint(VattError, RuntimeError):
    """A checkpoint that cannot be read, and no other one to take."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name first: a run that is killed leaves a whole one behind.

    Of ``last.ckpt`` the one before is kept, and read where the last one is damaged.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path, unfinished = Path(path), Path(f"{path}.part")
        super().save_checkpoint(checkpoint, unfinished, storage_options)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        if path.name == LAST and path.is_file():
            before = Path(f"{path.with_name(PREVIOUS)}.part")
            before.unlink(missing_ok=True)
            try:
                os.link(path, before)  # so that there is a last one at every moment
            except OSError:  # not on every file system
                shutil.copyfile(path, before)
            os.replace(before, path.with_name(PREVIOUS))
        os.replace(unfinished, path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, or the one before the last. Raises as `whole`."""
        return super().load_checkpoint(whole(path), *args, **kwargs)


def whole(path: str | Path) -> Path:
    """A checkpoint that was written to its end: this one, or in place of the last one the one before.

    Raises:
        FileNotFoundError: it is not there.
        DamagedCheckpoint: it was cut off, and there is no other.
    """
    path, previous = Path(path), Path(path).with_name(PREVIOUS)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if zipfile.is_zipfile(path):  # whose table of contents is at its end
        return path
    said = f"{path} cannot be read: it was cut off, or is no checkpoint"
    if path.name != LAST or not previous.is_file():
        raise DamagedCheckpoint(f"{said}. Choose another with --ckpt_path, or begin anew")
    rank_zero_warn(f"{said}. The one before it is taken: {previous}")
    return whole(previous)


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` every so many steps, and after the step in which the process is told to end by SIGTERM.

    It then ends with status 143. All processes of a training end together, whichever is told. Where validation follows
    a step, the checkpoint is written after it, so that a training that is resumed has validated as often as one that
    was never stopped; told to end in a validation, or right before one, it writes none.

    Args:
        folder: of the checkpoint.
        every: steps.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        super().__init__(folder, filename=Path(LAST).stem, every_n_train_steps=every, enable_version_counter=False)
        self.every, self._due, self._told, self._ends = every, False, False, False
        self._handler: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._tell)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._ends = trainer.strategy.reduce_boolean_decision(self._told, all=False)
        self._due = self._due or self._ends or trainer.global_step % self.every == 0
        steps, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
        if steps.val_loop.skip or not steps._should_check_val_fx(fetcher):
            self._save(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._ends:  # not in the step before, whose values are logged at its very end
            self._end(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.sanity_checking and trainer.strategy.reduce_boolean_decision(self._told, all=False):
            self._end(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._let_go()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._let_go()

    def _save(self, trainer: L.Trainer) -> None:
        if self._due:
            self._due = False
            trainer.save_checkpoint(Path(self.dirpath) / LAST)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _end(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            print(f"\nSIGTERM: ended after step {trainer.global_step}; --ckpt_path last goes on from {self.dirpath}")
        raise SystemExit(TERMINATED)

    def _let_go(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
            self._handler = None


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
        chosen: dict[str, Any] = {"weights": "of the last step"}
        average = next((c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging)), None)
        if average is not None:  # a run that is resumed after its last step has not got it yet
            average._copy_average_to_current(pl_module)
            chosen["weights"] += ", moving average"
        kept = pl_module.state_dict(keep_vars=True)
        best = next((c for c in trainer.checkpoint_callbacks if c.monitor and c.best_model_path), None)
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
            chosen["weights"] += ", moving average" if average is not None else ""
            chosen[best.monitor] = float(best.best_model_score)
        # The model has some of the module's tensors, under names of its own.
        model, names = pl_module.export(trainer.datamodule.format), {id(value): name for name, value in kept.items()}
        own = {name: weights[names[id(value)]] for name, value in model.state_dict(keep_vars=True).items()}
        made = type(model).assemble(model.config(), own)
        made.save_pretrained(self.folder)
        used = {names[id(value)] for value in model.state_dict(keep_vars=True).values()}
        rest = {name: x for name, x in weights.items() if name.startswith("objective.") and name not in used}
        if rest:  # predictors and decoders, with which a further training begins
            parts = {name.removeprefix("objective."): x.contiguous() for name, x in rest.items()}
            save_file(parts, self.folder / OBJECTIVE)
        if trainer.datamodule.vocabulary is not None:
            trainer.datamodule.vocabulary.save(self.folder / "vocabulary")
        facts = chosen | self._circumstances(trainer, pl_module)
        if getattr(pl_module, "origin", None):
            facts["finetuning"] = pl_module.origin
        (self.folder / HISTORY).write_text(json.dumps(facts, indent=1))
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


def gathered(value: torch.Tensor) -> torch.Tensor:
    """A tensor that may be shared, whole and on the CPU; all processes must ask for it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
