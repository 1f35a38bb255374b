"""The Lightning module that trains a backbone with an objective."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vatt.directories import current_directory, lock_directory
from vatt.errors import InputError
from vatt.evaluation.metrics import PairedRetrieval
from vatt.models.backbone import Backbone
from vatt.models.codebooks import CodeTokenizer
from vatt.models.flops import count_flops, without_weights
from vatt.models.vatt import VATT, load_model
from vatt.objectives.base import Objective
from vatt.objectives.flops import step_flops
from vatt.structures import MODALITIES, Batch, ClipFormat
from vatt.training.compute import Compute
from vatt.training.history import OBJECTIVE, ConfigMismatch, check_shapes
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization
from vatt.training.resume import check_ids
from vatt.training.sharding import is_empty

# Retrieval that validation reports: queries, gallery, and the vectors of both.
PAIRS = {
    "text_video": ("text_vt", "video_vt", "text", "video"),
    "audio_video": ("audio_va", "video_va", "audio", "video"),
}
SHARED = 4_098  # the stream of random numbers that is the same in all processes
SHOWN = ("text_to_video", "R@1")  # beside the progress bar
RECALLS = ("R@1", "R@5", "R@10")


class PretrainModule(TrainingModule):
    """Pretraining.

    Args:
        backbone: tokenizers and transformers.
        objective: what is learned; see `vatt.objectives`.
        optimization: optimizer and schedule.
        pretrained: folder of a saved or converted model, whose backbone the training begins with, and with its head,
            predictor or decoder where they are there and fit; that they do not is said. None begins anew.
        seed, compute: see `vatt.training.module.TrainingModule`. What DropToken draws does not depend on the number of
            processes.

    Raises:
        ConfigMismatch: ``pretrained`` is of another backbone.
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: Objective,
        optimization: Optimization = Optimization(),  # noqa: B008 (frozen)
        seed: int = 0,
        compute: Compute = Compute(),  # noqa: B008 (frozen)
        pretrained: str | None = None,
    ) -> None:
        super().__init__(optimization, seed, compute)
        self.backbone, self.objective = backbone, objective
        empty = is_empty(backbone)  # weights come from another process, those of the objective too
        model = None if pretrained is None or empty else load_model(pretrained)
        self.pretrained, configured = pretrained, codebook_hash(backbone)
        self._pretrained_vocabulary: str | None = None
        if model is not None:
            weights = model.backbone.state_dict()
            check_shapes(weights, backbone, pretrained)
            remedy = "Remove the codebook file from the configuration, or set model.pretrained to null"
            check_ids({"codebook": codebook_hash(model.backbone)}, {"codebook": configured}, pretrained, remedy)
            self._pretrained_vocabulary = model.vocabulary_hash
            backbone.load_state_dict(weights)
        self._codebook = codebook_hash(backbone)
        with torch.device("meta") if empty else nullcontext():
            self.objective.build(backbone)
        if model is not None:
            with lock_directory(pretrained, shared=True):
                load_objective(self.objective, model, current_directory(pretrained))
        self._retrieved: dict[str, dict[str, Any]] = {}  # metrics of the last validation, by direction
        self.retrieval = nn.ModuleDict({name: PairedRetrieval(pair[2:]) for name, pair in PAIRS.items()})

    def setup(self, stage: str) -> None:
        """See, before anything is read, whether the data fit the model.

        Raises:
            ConfigMismatch: clips of another shape, or a larger vocabulary, than the tokenizers are for.
        """
        data = self.trainer.datamodule
        if data is not None:
            check_fit(self.backbone, data.format, data.vocabulary)
        if stage == "fit":
            remedy = f"Set data.vocabulary to {self.pretrained}/vocabulary, or model.pretrained to null"
            check_ids({"vocabulary": self._pretrained_vocabulary}, self.ids(), str(self.pretrained), remedy)
        super().setup(stage)

    def ids(self) -> dict[str, str | None]:
        vocabulary = getattr(self.trainer.datamodule, "vocabulary", None)
        has_text = vocabulary is not None and "text" in self.backbone.modalities
        return {"vocabulary": vocabulary.hash if has_text else None, "codebook": self._codebook}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint is of this model.

        Raises:
            ConfigMismatch: it is not.
        """
        check_shapes(checkpoint["state_dict"], self, "the checkpoint")
        super().on_load_checkpoint(checkpoint)

    def on_fit_start(self) -> None:
        parts = self.trainer.accumulate_grad_batches
        if parts > 1 and self.objective.compares_clips:
            rank_zero_warn(
                f"trainer.accumulate_grad_batches={parts}: each part is compared with its own clips only, so this is "
                f"not the loss of a batch {parts} times as large, which has {parts} times as many negatives. For that, "
                "raise data.batch_size, and set model.objective.micro_batch to what fits in memory"
            )

    def flops_per_clip(self) -> float | None:
        data = self.trainer.datamodule
        if data is None:
            return None
        if not self.objective.compares_clips:  # text encoders may depend on values, which meta tensors do not have
            shared = any(isinstance(parameter, DTensor) for parameter in self.parameters())  # cannot be copied
            return (
                None
                if shared
                else step_flops(self.objective, self.backbone, data.format, data.batch_size * data.windows) / 3
            )
        counted = count_flops(without_weights(self.backbone), data.format, getattr(self.objective, "drop", None))
        there = ("video", "audio") if data.vocabulary is None else MODALITIES
        texts = {"text": data.format.num_texts}
        return float(sum(part.all * texts.get(part.modality, 1) for part in counted if part.modality in there))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.objective.draws = torch.Generator().manual_seed(self.draws(batch_idx, SHARED))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One batch: the losses by name, and the sum that is minimised."""
        losses = self.guard.watch(self.objective(self.backbone, batch), batch)
        self.log_dict({f"train/{name}": x.detach() for name, x in losses.items() if isinstance(x, Tensor)})
        self.log("loss", losses["loss"].detach(), prog_bar=True, logger=False)
        return losses

    def clipped_parts(self) -> list[tuple[nn.Module, float]]:
        """Return backbone and objective with ``optimization.clip_each``, if it is set and the warm-up is over."""
        how = self.optimization
        if how.clip_each is None or self.trainer.global_step < how.warmup_steps:
            return []
        return [(self.backbone, how.clip_each), (self.objective, how.clip_each)]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.objective.progress = self.trainer.global_step / max(1, self.trainer.max_steps)
        self.objective.after_step(self.backbone)  # before anything is written to a checkpoint

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Embed the clips that both sides of a pair have. All texts of a batch are queries."""
        vectors = self.objective.embed(self.backbone, batch)
        for name, (first, second, a, b) in PAIRS.items():
            if first in vectors and second in vectors:
                valid, other = batch[f"{a}_valid"], batch[f"{b}_valid"]  # type: ignore[literal-required]
                valid = valid & (other[:, None] if valid.ndim == 2 else other)
                self.retrieval[name].update(vectors[first], vectors[second], valid)

    def on_validation_epoch_end(self) -> None:
        """Log retrieval metrics and the sum of all recalls, unless no clip has both modalities of a pair."""
        self._retrieved = {}
        for metric in self.retrieval.values():
            self._retrieved |= metric.compute() if metric.update_called else {}
            metric.reset()
        for direction, values in self._retrieved.items():
            self.log_dict({f"val/{direction}_{key}": float(values[key]) for key in ("MedR", "gallery")})
            for key in RECALLS:
                self.log(f"val/{direction}_{key}", values[key], prog_bar=(direction, key) == SHOWN)
        if self._retrieved:
            self.log("val/rsum", float(sum(values[key] for values in self._retrieved.values() for key in RECALLS)))
        elif self.objective.compares_clips:
            rank_zero_warn(
                "validation has nothing to compare: no validation clip has video and audio, or video and text. Set "
                "run.best_by to null, or validate on other clips"
            )

    def validation_metrics(self) -> list[str]:
        branches = self.objective.head().branches.values()
        vectors = {name for steps in branches for name, _ in steps}
        names = [
            f"val/{query}_to_{gallery}_{key}"
            for first, second, a, b in PAIRS.values()
            if {first, second} <= vectors
            for query, gallery in ((a, b), (b, a))
            for key in (*RECALLS, "MedR", "gallery")
        ]
        return ["val/rsum", *names] if names else []

    def validation_summary(self) -> list[str]:
        """Return lines with the metrics of the last validation, one for each direction of retrieval."""
        return [
            f"{direction.replace('_', ' ')}: {', '.join(f'{key} {values[key]:.1f}' for key in RECALLS)} % "
            f"(chance {', '.join(format(values['chance'][key], '.1f') for key in RECALLS)} %), "
            f"median rank {values['MedR']:g} of {values['gallery']} {'texts' if direction[-4:] == 'text' else 'clips'}"
            for direction, values in self._retrieved.items()
        ]

    def export(self, format: ClipFormat) -> VATT:
        """The model as it is saved."""
        return VATT(self.objective.exported(self.backbone), self.objective.head(), format)


def codebook_hash(backbone: Backbone) -> str | None:
    """Return the hash of the codebook of the video tokenizer, or None if it has no codebook."""
    tokenizer = backbone.tokenizers["video"] if "video" in backbone.modalities else None
    return tokenizer.codebook.hash if isinstance(tokenizer, CodeTokenizer) else None


def load_objective(objective: Objective, model: VATT, folder: Path) -> None:
    """Load the head of a model, and what was saved with it of its objective. Warn where they do not fit.

    Raises:
        InputError: The file of the objective is damaged.
    """
    head, theirs, kept = objective.head(), getattr(model, "projection", None), folder / OBJECTIVE
    parts = [] if theirs is None else [("head", head, theirs.state_dict())]
    if kept.is_file():
        try:
            parts.append(("objective", objective, load_file(kept)))
        except (ValueError, OSError, SafetensorError) as error:
            raise InputError(f"{kept} is damaged: {error}. Delete it to begin with a new objective") from error
    for name, part, weights in parts:
        own = {key: value.shape for key, value in part.state_dict().items()}
        other = sorted(key for key, value in weights.items() if own.get(key) != value.shape)
        if other or (name == "head" and own.keys() != weights.keys()):
            what = other[0] if other else sorted(own.keys() ^ weights.keys())[0]
            rank_zero_warn(f"{folder}: its {name} does not fit ({what}), and begins anew")
        else:
            part.load_state_dict(weights, strict=False)


def check_fit(backbone: Backbone, format: ClipFormat, vocabulary: Any | None) -> None:
    """Try clips of a format, and the ids of a vocabulary (or None), on the tokenizers of a backbone.

    Raises:
        ConfigMismatch: they do not fit.
    """
    for modality in backbone.modalities:
        tokenizer = backbone.tokenizers[modality]
        where = f"data.format does not fit model.backbone.init_args.tokenizers.{modality}"
        try:
            grid = tokenizer.grid_of(format)
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
