"""The Lightning module that trains a backbone with an objective."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from vatt.errors import InputError, VattError
from vatt.evaluation.metrics import PairedRetrieval
from vatt.models.backbone import Backbone, grid_of
from vatt.models.vatt import VATT
from vatt.objectives.base import Objective
from vatt.structures import Batch, ClipFormat
from vatt.training.history import ConfigMismatch, check_shapes
from vatt.training.optim import Optimization, make_optimizer

# Retrieval that validation reports: queries, gallery, and the vectors of both.
PAIRS = {
    "text_video": ("text_vt", "video_vt", "text", "video"),
    "audio_video": ("audio_va", "video_va", "audio", "video"),
}
SHOWN = ("text_to_video", "R@1")  # beside the progress bar


class NonFiniteLoss(VattError, RuntimeError):
    """A loss became NaN or infinite; the message names the terms and the clips."""


class PretrainModule(L.LightningModule):
    """Pretraining.

    Args:
        backbone: tokenizers and transformers.
        objective: what is learned; see `vatt.objectives`.
        optimization: optimizer and schedule.
        seed: of DropToken and dropout. What is drawn depends on it, the step and the process alone, so that a
            resumed run draws what an uninterrupted one would have drawn.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimization: Optimization = Optimization(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.backbone, self.objective, self.optimization, self.seed = backbone, objective, optimization, seed
        self.objective.build(backbone)
        self.retrieval = torch.nn.ModuleDict({name: PairedRetrieval(pair[2:]) for name, pair in PAIRS.items()})

    def setup(self, stage: str) -> None:
        """See, before anything is read, whether the data fit the model.

        Raises:
            ConfigMismatch: clips of another shape, or a larger vocabulary, than the tokenizers are for.
        """
        data = self.trainer.datamodule
        if data is not None:
            check_fit(self.backbone, data.format, data.vocabulary)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint is of this model.

        Raises:
            ConfigMismatch: it is not.
        """
        check_shapes(checkpoint["state_dict"], self, "the checkpoint")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_step(self, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch: the losses by name, and the sum that is minimised."""
        losses = self.objective(self.backbone, batch)
        check_finite(self, losses, batch)
        self.log_dict({f"train/{name}": value.detach() for name, value in losses.items() if name != "tokens"})
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.objective.after_step(self.backbone)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed the clips that both sides of a pair have."""
        vectors = self.objective.embed(self.backbone, batch)
        for name, (first, second, a, b) in PAIRS.items():
            if first in vectors and second in vectors:
                valid = _valid(batch, a) & _valid(batch, b)
                self.retrieval[name].update(vectors[first][valid], vectors[second][valid])

    def on_validation_epoch_end(self) -> None:
        rsum = 0.0
        for metric in self.retrieval.values():
            found = metric.compute() if metric.update_called else {}
            for direction, values in found.items():
                self.log_dict({f"val/{direction}_{key}": float(values[key]) for key in ("MedR", "gallery")})
                for key in ("R@1", "R@5", "R@10"):
                    self.log(f"val/{direction}_{key}", values[key], prog_bar=(direction, key) == SHOWN)
                    rsum += values[key]
            metric.reset()
        self.log("val/rsum", rsum)

    def configure_optimizers(self) -> dict[str, Any]:
        return optimizers_of(self)

    def export(self, format: ClipFormat) -> VATT:
        """The model as it is saved."""
        return VATT(self.backbone, self.objective.head(), format)


def seed_step(module: L.LightningModule, batch_idx: int) -> None:
    """Make what a batch draws depend on its step, its number in the step, the process and ``module.seed`` alone."""
    part = batch_idx % module.trainer.accumulate_grad_batches
    drawn = (module.seed * 1_000_003 + module.global_step) * 4_099 + module.global_rank
    torch.manual_seed(drawn + part * 1_073_741_827)  # of a seed 32 bits count


def check_finite(module: L.LightningModule, losses: dict[str, Tensor], batch: Batch) -> None:
    """Raise `NonFiniteLoss` if one of the losses is not finite."""
    broken = [f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value)]
    if broken:
        raise NonFiniteLoss(
            f"step {module.global_step}: {', '.join(broken)}; clips: {', '.join(batch['id'])}. "
            "Lower model.optimization.lr, or set trainer.gradient_clip_val"
        )


def optimizers_of(module: L.LightningModule) -> dict[str, Any]:
    """Optimizer and schedule of a module's ``optimization``, as Lightning wants them.

    Raises:
        InputError: ``trainer.max_steps`` is not set.
    """
    steps = module.trainer.max_steps
    if steps < 1:
        raise InputError("set trainer.max_steps: the learning-rate schedule is counted in steps")
    optimizer, schedule = make_optimizer(module, module.optimization, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def check_fit(backbone: Backbone, format: ClipFormat, vocabulary: Any | None) -> None:
    """Try clips of a format, and the ids of a vocabulary (or None), on the tokenizers of a backbone.

    Raises:
        ConfigMismatch: they do not fit.
    """
    for modality in backbone.modalities:
        tokenizer = backbone.tokenizers[modality]
        where = f"data.format does not fit model.backbone.init_args.tokenizers.{modality}"
        try:
            grid = grid_of(tokenizer, modality, format)
        except ValueError as error:
            raise ConfigMismatch(f"{where}: {error}") from error
        if modality == "audio" and tokenizer.sample_rate not in (None, format.sample_rate):
            raise ConfigMismatch(
                f"{where}: sound at {format.sample_rate} Hz, and it is made for {tokenizer.sample_rate}"
            )
        # A model takes other sizes than its tables', on interpolated positions; to train one so is a mistake.
        if grid != tokenizer.grid:
            raise ConfigMismatch(f"{where}: it gives {grid} places, and the positions are for {tokenizer.grid}")
    if vocabulary is None or "text" not in backbone.modalities:
        return
    text = backbone.tokenizers["text"]
    if len(vocabulary) > text.vocabulary_size or vocabulary.pad_id != text.pad_id:
        raise ConfigMismatch(
            f"data.vocabulary has {len(vocabulary)} ids and pads with {vocabulary.pad_id}; "
            f"model.backbone.init_args.tokenizers.text is for {text.vocabulary_size} (vocabulary_size) "
            f"and {text.pad_id} (pad_id)"
        )


def _valid(batch: Batch, modality: str) -> Tensor:
    """(B,) bool; a text counts when the clip's first one is valid."""
    valid: Tensor = batch[f"{modality}_valid"]  # type: ignore[literal-required]
    return valid[:, 0] if valid.ndim == 2 else valid
