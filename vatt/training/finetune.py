"""The Lightning module that makes a classifier of a pretrained tower (VATT, appendices A.2.5 and A.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.evaluation.classification import ClassificationMetrics
from vatt.io import short_hash
from vatt.models.attention import Block
from vatt.models.backbone import Backbone
from vatt.models.flops import count_flops, without_weights
from vatt.models.heads import LinearClassifier
from vatt.models.selection import KeepRule
from vatt.models.vatt import VATT, Classifier, load_model
from vatt.objectives.classification import Weighting, classification_loss, mixup, rarity_weights
from vatt.ranges import check_range
from vatt.structures import Batch, ClipFormat
from vatt.training.compute import Compute
from vatt.training.history import (
    ConfigMismatch,
    check_classifier,
    check_clips,
    check_shapes,
    describe_difference,
    history_of,
)
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization, depth_of


@dataclass(frozen=True)
class Tuning:
    """How a tower is fine-tuned.

    Args:
        dropout: before the classifier (the released code: 0.5 for video, none for audio).
        drop_token: share of the tokens that training drops (the paper's table 6).
        per_sample, keep_rule: see `vatt.models.selection.drop_token`.
        drop_in_use: see `vatt.models.vatt.Classifier`.
        label_smoothing: share of every target that is spread over all classes.
        mixup: alpha of the Beta distribution by which clips are mixed; 0 mixes none.
        weighting: "rarity" weighs clips as `vatt.objectives.classification.rarity_weights` says.
        clip_backbone: largest norm of the gradient of the backbone (the released code: 0.75); None leaves it.
        clip_head: the same of the classifier.
        freeze: blocks that are not trained, counted from below, and the tokenizer with them; 0 freezes the tokenizer
            alone, -1 the whole backbone, None nothing.
    """

    dropout: float = 0.5
    drop_token: float = 0.0
    per_sample: bool = False
    keep_rule: KeepRule = "tokens"
    drop_in_use: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0
    weighting: Weighting = "none"
    clip_backbone: float | None = None
    clip_head: float | None = None
    freeze: int | None = None

    def __post_init__(self) -> None:
        intervals = dict.fromkeys(("dropout", "drop_token", "label_smoothing"), "[0, 1)") | {"mixup": "[0, inf)"}
        intervals |= dict.fromkeys(("clip_backbone", "clip_head"), "(0, inf)")
        for name, interval in intervals.items():
            check_range(f"model.tuning.{name}", getattr(self, name), interval)
        if self.freeze is not None and self.freeze < -1:
            raise InputError(f"model.tuning.freeze is -1, 0 or a number of blocks, not {self.freeze}")


class FinetuneModule(TrainingModule):
    """Fine-tuning.

    Args:
        classes: names, in the order of the logits.
        format: how clips are read.
        modality: "video" or "audio".
        pretrained: folder of a model, pretrained (`VATT`) or a `Classifier`; its classifier is kept if it is for the
            same classes. None begins from scratch, with ``backbone``.
        backbone: what to begin from scratch with; of its modalities one is used.
        multi_label: a clip has any number of classes.
        tuning: how.
        optimization: optimizer and schedule.
        seed, compute: see `vatt.training.module.TrainingModule`.

    Raises:
        InputError: both or neither of ``pretrained`` and ``backbone``, or a model without the modality.
        ConfigMismatch: clips that the model cannot take.
    """

    def __init__(
        self,
        classes: Sequence[str],
        format: ClipFormat,
        modality: str = "video",
        pretrained: str | None = None,
        backbone: Backbone | None = None,
        multi_label: bool = False,
        tuning: Tuning = Tuning(),
        optimization: Optimization = Optimization(),  # noqa: B008 (frozen)
        seed: int = 0,
        compute: Compute = Compute(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(optimization, seed, compute)
        if multi_label and tuning.label_smoothing:
            raise InputError("model.tuning.label_smoothing is for classes that exclude each other, not multi_label")
        self.tuning, self.multi_label, self.modality, self.pretrained = tuning, multi_label, modality, pretrained
        if (pretrained is None) == (backbone is None):
            raise InputError(
                "give model.pretrained, the folder of a model, or model.backbone to begin from scratch, and not both; "
                "if a configuration file sets the other: --model.backbone null"
            )
        head = None
        if backbone is None:
            backbone, head = _from_pretrained(pretrained, modality, list(classes), multi_label)
        try:
            tower = backbone.tower(modality)
        except ValueError as error:
            raise InputError(f"{pretrained or 'model.backbone'}: {error}") from error
        check_format(tower, modality, format)
        self.has_new_head = head is None
        if head is None:
            head = LinearClassifier(tower.width(modality), len(classes), tuning.dropout, multi_label)
        head.dropout.p = tuning.dropout
        drops = (tuning.drop_token, tuning.per_sample, tuning.keep_rule, tuning.drop_in_use)
        self.model = Classifier(tower, head, format, list(classes), *drops)
        self._frozen: list[nn.Module] = []
        self._freeze()
        self.train()  # a saved model is loaded for use, without dropout
        self.metrics = ClassificationMetrics(classes, multi_label)
        self.missing: list[str] = []  # clips of an evaluation of which nothing could be read,
        self.incomplete: list[str] = []  # and those of which not all views could
        self.found: dict[str, Any] = {}  # what the last evaluation came to
        self.configuration = ""  # hash of what the command was told
        self.origin: dict[str, Any] = {}  # how the weights came about; plain values

    def _freeze(self) -> None:
        freeze, backbone = self.tuning.freeze, self.model.backbone
        if freeze is None:
            return
        blocks = [module for module in backbone.modules() if isinstance(module, Block)]
        if freeze > len(blocks):
            raise InputError(f"model.tuning.freeze is {freeze}, and there are {len(blocks)} blocks")
        for name, parameter in backbone.named_parameters():
            depth = depth_of(name)
            if freeze < 0 or (depth is not None and depth <= freeze):
                parameter.requires_grad_(False)
        self._frozen = [backbone] if freeze < 0 else [*backbone.tokenizers.values(), *blocks[:freeze]]

    def train(self, mode: bool = True) -> FinetuneModule:
        """As in PyTorch, but what is frozen has no dropout either."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    @property
    def kind(self) -> dict[str, Any]:
        """What is told apart."""
        return {"classes": self.model.classes, "modality": self.modality, "multi_label": self.multi_label}

    def ids(self) -> dict[str, str | None]:
        return {"classes": short_hash(*self.model.classes)}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.origin = {
                **self.kind,
                "format": self.model.format.to_dict(),
                "data": self._clips(),
                "pretrained": self.pretrained,
                "pretraining": history_of(self.pretrained),
                "configuration": self.configuration,
                "seed": self.seed,
            }

    def _clips(self) -> dict[str, Any] | None:
        """`LabelledDataModule.origin`; None of batches that came without."""
        return getattr(self.trainer.datamodule, "origin", None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["finetuning"] = self.origin

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint is of this training, or, to be tested, of these classes.

        Raises:
            ConfigMismatch: it is not.
        """
        found: dict[str, Any] = checkpoint.get("finetuning", {})
        check_classifier(found, self.kind, "the checkpoint")
        check_shapes(checkpoint["state_dict"], self, "the checkpoint")
        super().on_load_checkpoint(checkpoint)
        check_clips(found["data"], self._clips(), "the checkpoint")
        self.origin = found | {"step": checkpoint["global_step"]}

    def export(self, format: ClipFormat) -> Classifier:
        """The model as it is saved."""
        return self.model

    def flops_per_clip(self) -> float | None:
        backbone, drop = without_weights(self.model.backbone), {self.modality: self.tuning.drop_token}
        return float(count_flops(backbone, self.model.format, drop)[0].all)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One batch: the loss."""
        how = self.tuning
        x, target = batch[self.modality], batch["target"]
        if how.mixup:
            x, target = mixup(x, target, how.mixup)
        weights = rarity_weights(target) if how.weighting == "rarity" else None
        logits = self.model(**{self.modality: x})["logits"]
        loss = classification_loss(logits, target, self.multi_label, how.label_smoothing, weights)
        losses = self.guard.watch({"loss": loss}, batch)
        self.log("train/loss", loss.detach())
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return losses

    def clipped_parts(self) -> list[tuple[nn.Module, float]]:
        """Return backbone and classifier with their maximum gradient norms, as in the released code."""
        parts = (self.model.backbone, self.tuning.clip_backbone), (self.model.head, self.tuning.clip_head)
        return [(part, max_norm) for part, max_norm in parts if max_norm is not None]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Average the logits over the views of each clip. The flags of valid views are read once per batch."""
        logits, ids = self.model(**{self.modality: batch[self.modality]})["logits"], batch["id"]
        valid = read_flags(batch[f"{self.modality}_valid"])
        means, first = [], []
        for rows in _clips_of(ids):
            chosen = [row for row in rows if valid[row]]
            if 0 < len(chosen) < len(rows):
                self.incomplete.append(ids[rows[0]])
            if chosen:
                means.append(logits[chosen].mean(dim=0))
                first.append(rows[0])
            else:
                self.missing.append(ids[rows[0]])
        if means:
            self.metrics.update(torch.stack(means), batch["target"][first])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """See `validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()
        self.missing, self.incomplete = [], []

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def validation_metrics(self) -> list[str]:
        return [f"val/{name}" for name in (*self._metric_names(), "missing")]

    def _metric_names(self) -> tuple[str, ...]:
        if self.multi_label:
            return ("mAP", "AUC", "dprime")
        return ("top1", "top5") if len(self.model.classes) > 5 else ("top1",)

    def on_validation_epoch_end(self) -> None:
        self.on_test_epoch_end()
        for name in self._metric_names():
            if name in self.found:
                self.log(f"val/{name}", self.found[name], prog_bar=name in ("mAP", "top1"))
        self.log("val/missing", float(len(self.missing)))

    def validation_summary(self) -> list[str]:
        """Return one line with the metrics of the last validation and the chance levels."""
        metrics, classes = self.found, len(self.model.classes)
        if not metrics:
            return ["none of the validation clips could be read"]
        names = {"top1": "top-1", "top5": "top-5", "mAP": "mAP", "AUC": "AUC"}
        chance = {"top1": 100 / classes, "top5": 500 / classes, "mAP": metrics.get("prevalence", 0.0), "AUC": 50.0}
        values = [f"{text} {metrics[k]:.1f} % (chance {chance[k]:.1f} %)" for k, text in names.items() if k in metrics]
        return [f"{', '.join(values)}; {metrics['clips']} clips, {classes} classes"]

    def on_test_epoch_end(self) -> None:
        self.found = self.metrics.compute() if self.metrics.update_called else {}


def check_format(tower: Backbone, modality: str, format: ClipFormat) -> None:
    """See whether a tower takes clips of a format, of any length and size that its patches fill.

    Raises:
        ConfigMismatch: it does not.
    """
    tokenizer = tower.tokenizers[modality]
    try:
        tokenizer.grid_of(format)
    except ValueError as error:
        raise ConfigMismatch(f"data.format does not fit the {modality} tokenizer: {error}") from error
    if modality == "audio" and tokenizer.sample_rate not in (None, format.sample_rate):
        raise ConfigMismatch(
            f"data.format: sound at {format.sample_rate} Hz, and the tokenizer is made for {tokenizer.sample_rate}"
        )


def _from_pretrained(
    folder: str, modality: str, classes: list[str], multi_label: bool
) -> tuple[Backbone, LinearClassifier | None]:
    """The backbone of a saved model, and its classifier if that is for these classes."""
    model = load_model(folder)
    if isinstance(model, VATT):
        return model.backbone, None
    if model.classes is None:
        rank_zero_warn(f"the classes of {folder} have no names, so a new classifier takes the place of its own")
    elif difference := describe_difference(model.classes, classes):
        rank_zero_warn(f"a new classifier is trained, because the classifier of {folder} has {difference}")
    same = model.classes == classes and model.head.multi_label == multi_label
    return model.backbone, model.head if same else None


def read_flags(flags: Tensor) -> list[bool]:
    """Return flags (B,) as a list on the host."""
    return flags.tolist()


def _clips_of(ids: Sequence[str]) -> Iterator[range]:
    """Yield the rows of each clip. The views of a clip follow each other."""
    begin = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[begin]:
            yield range(begin, end)
            begin = end
