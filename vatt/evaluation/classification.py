"""Metrics of classifiers: accuracy where classes exclude each other; mAP, AUC and d′ where they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_average_precision

from vatt.errors import InputError

PER_CLASS = ("AP", "AUC", "dprime")


def accuracy(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Top-1 and top-5 in per cent.

    Args:
        logits: (N, C).
        target: (N,) int64.

    Returns:
        ``top1`` and, of more than five classes, ``top5``.
    """
    classes = logits.shape[1]
    if classes == 1:
        return {"top1": 100.0}

    def top(k: int) -> float:
        return round(100 * multiclass_accuracy(logits, target, classes, average="micro", top_k=k).item(), 4)

    return {f"top{k}": top(k) for k in (1, 5) if k < classes}


def chance_levels(*targets: Tensor, classes: int) -> dict[str, float]:
    """Return the top-1 accuracies in percent that classifiers reach without looking at the clips.

    Args:
        targets: (N,) int64, the classes of the test clips, for one or several folds.
        classes: Number of classes.

    Returns:
        ``majority class (%)``, the fraction of clips of the most frequent class, averaged over the folds; and
        ``1 / classes (%)``, the expected accuracy of random predictions.

    Example:
        >>> chance_levels(torch.tensor([0, 2, 2, 2]), classes=4)
        {'majority class (%)': 75.0, '1 / classes (%)': 25.0}
    """
    majority = [100 * target.bincount().max().item() / len(target) for target in targets]
    return {
        "majority class (%)": round(sum(majority) / len(majority), 2),
        "1 / classes (%)": round(100 / classes, 2),
    }


def multi_label_metrics(scores: Tensor, target: Tensor) -> dict[str, Any]:
    """mAP, AUC and d′, each the mean over the classes (VATT, table 2; d′ = √2 Φ⁻¹(AUC) of each class).

    A class without positive or without negative clips has no such value: it is left out of the means and counted. An
    AUC of 1 makes an infinite d′, one of 0 a negative infinite; both are left out of its mean, and counted apart. A
    mean of nothing is left out.

    Args:
        scores: (N, C), the higher the likelier.
        target: (N, C), 1 where the clip has the class.

    Returns:
        ``mAP`` and ``AUC`` in percent; ``dprime``; ``prevalence``, the mean fraction of positive clips in percent,
        which is the mAP of random scores; ``classes``, the number of classes in these means; ``without_positives``,
        ``without_negatives``, ``dprime_infinite`` and ``dprime_minus_infinite``, numbers of classes; and ``per_class``
        with a list of C values or None for each of AP, AUC (in percent) and dprime.
    """
    target = target.long()
    positives = target.sum(dim=0)
    usable = ((positives > 0) & (positives < len(target))).nonzero()[:, 0]
    scores, target = scores[:, usable], target[:, usable]
    auc = _areas(scores, target)
    values = {
        "AP": _average_precisions(scores, target) * 100,
        "AUC": auc * 100,
        "dprime": math.sqrt(2) * torch.special.ndtri(auc),
    }
    finite = values["dprime"].isfinite()
    per_class = {name: [None] * len(positives) for name in PER_CLASS}
    for name, found in values.items():
        for place, value in zip(usable.tolist(), found.tolist(), strict=True):
            per_class[name][place] = value
    means = {"mAP": values["AP"], "AUC": values["AUC"], "dprime": values["dprime"][finite]}
    return {
        **{name: found.mean().item() for name, found in means.items() if len(found)},
        "prevalence": 100 * target.double().mean().item() if len(usable) else 0.0,
        "classes": len(usable),
        "without_positives": int((positives == 0).sum()),
        "without_negatives": int((positives == len(scores)).sum()),
        "dprime_infinite": int(values["dprime"].isposinf().sum()),
        "dprime_minus_infinite": int(values["dprime"].isneginf().sum()),
        "per_class": per_class,
    }


def _areas(scores: Tensor, target: Tensor) -> Tensor:
    """(C,) float64 areas under the ROC curves: the share of pairs in order, ties by half (Mann and Whitney).

    Exact, as torchmetrics' is not: summed in single precision, an area of 1 may come to less, and its d′ be finite.
    """
    areas = torch.zeros(scores.shape[1], dtype=torch.float64)
    for c, (column, is_positive) in enumerate(zip(scores.T, target.T.bool(), strict=True)):
        _, places, counts = torch.unique(column, return_inverse=True, return_counts=True)
        ranks = (counts.cumsum(0) - (counts.double() - 1) / 2)[places]
        n = int(is_positive.sum())
        areas[c] = (ranks[is_positive].sum() - n * (n + 1) / 2) / (n * (len(column) - n))
    return areas


def _average_precisions(scores: Tensor, target: Tensor) -> Tensor:
    """(C,) float64."""
    if scores.shape[1] == 0:
        return torch.zeros(0, dtype=torch.float64)
    # Ranks in place of scores: torchmetrics would squeeze those by a sigmoid, in which large ones become equal.
    places = [torch.unique(column, return_inverse=True)[1].double() / len(column) for column in scores.T]
    ranks = torch.stack(places, dim=1)
    # A single class counts as binary for torchmetrics' shapes only with two columns or more; its own copy changes none.
    if ranks.shape[1] == 1:
        return multilabel_average_precision(ranks.repeat(1, 2), target.repeat(1, 2), 2, average=None)[:1].double()
    return multilabel_average_precision(ranks, target, ranks.shape[1], average=None).double()


class ClassificationMetrics(Metric):
    """Scores gathered over batches, and what they come to.

    Of several processes each sees all clips and has the whole result: it does not depend on their number.

    Args:
        classes: names.
        multi_label: see `multi_label_metrics`; otherwise `accuracy`.
    """

    full_state_update = False

    def __init__(self, classes: Sequence[str], multi_label: bool) -> None:
        super().__init__(sync_on_compute=False)
        self.classes, self.multi_label = tuple(classes), multi_label
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add (B, C) logits and (B, C) targets."""
        self.scores.append(logits.detach().float().cpu())
        self.targets.append(target.detach().cpu())

    def compute(self) -> dict[str, Any]:
        """The metrics, with ``clips``; empty when none came.

        Raises:
            InputError: a score is not finite.
        """
        if not self.scores:
            return {}
        scores, targets = torch.cat(list(self.scores)), torch.cat(list(self.targets))
        if not scores.isfinite().all():
            raise InputError("scores hold NaN or infinity; the model is broken")
        if self.multi_label:
            found = multi_label_metrics(scores, targets)
        else:
            right = targets.argmax(dim=1)
            found = {**accuracy(scores, right), "chance": chance_levels(right, classes=len(self.classes))}
            hits = scores.argmax(dim=1) == right
            found["per_class"] = {
                "top1": [100 * hits[right == c].float().mean().item() if (right == c).any() else None
                         for c in range(len(self.classes))]
            }  # fmt: skip
        return {**found, "clips": len(scores)}
