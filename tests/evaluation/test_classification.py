"""Metrics of classifiers against definitions written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from vatt.errors import InputError
from vatt.evaluation.classification import ClassificationMetrics, accuracy, chance_levels, multi_label_metrics


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mann and Whitney: the share of pairs that are in order, ties counted by half."""
    ranks = rankdata(scores)
    n, m = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Σ (R_n - R_(n-1)) P_n over the thresholds, from the highest score down."""
    found, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = scores >= threshold
        recall = positive[chosen].sum() / positive.sum()
        found += (recall - before) * positive[chosen].mean()
        before = recall
    return float(found)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 6), st.booleans(), st.sampled_from([1, 3, 40]))
@example(611, 10, 4, True, 40)  # an area of 1 that single precision does not sum to 1
def test_map_auc_and_dprime_are_their_definitions(
    seed: int, clips: int, classes: int, coarse: bool, scale: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(clips, classes)) * scale
    scores = scores.round() if coarse else scores  # ties
    target = rng.random((clips, classes)) < rng.random(classes)
    usable = [c for c in range(classes) if 0 < target[:, c].sum() < clips]
    found = multi_label_metrics(torch.from_numpy(scores), torch.from_numpy(target))
    areas = {c: auc(scores[:, c], target[:, c]) for c in usable}
    precisions = {c: average_precision(scores[:, c], target[:, c]) for c in usable}
    if usable:
        assert found["AUC"] == pytest.approx(100 * np.mean(list(areas.values())), abs=1e-10)
        assert found["mAP"] == pytest.approx(100 * np.mean(list(precisions.values())), abs=1e-4)
    else:  # reported, not raised
        assert not {"mAP", "AUC", "dprime"} & set(found)
    finite = [math.sqrt(2) * norm.ppf(a) for a in areas.values() if 0 < a < 1]
    assert found["dprime_infinite"] == sum(a == 1 for a in areas.values())
    assert found["dprime_minus_infinite"] == sum(a == 0 for a in areas.values())
    assert found.get("dprime") == (pytest.approx(np.mean(finite), abs=1e-4) if finite else None)
    assert found["classes"] == len(usable)
    assert found["without_positives"] == (~target.any(axis=0)).sum()
    assert found["without_negatives"] == target.all(axis=0).sum()
    for c in range(classes):
        value = found["per_class"]["AP"][c]
        assert value == (pytest.approx(100 * precisions[c], abs=1e-4) if c in usable else None)


def test_classes_without_positives_are_reported_and_left_out() -> None:
    scores = torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    target = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 1]])
    found = multi_label_metrics(scores, target)
    assert (found["classes"], found["without_positives"], found["without_negatives"]) == (1, 1, 1)
    assert found["mAP"] == found["AUC"] == 100.0
    assert found["per_class"]["AUC"] == [100.0, None, None]
    assert found["dprime_infinite"] == 1


def test_top_1_and_top_5() -> None:
    logits = torch.randn(50, 8)
    right = torch.randint(8, (50,))
    order = logits.argsort(dim=1, descending=True)
    place = (order == right[:, None]).float().argmax(dim=1)
    assert accuracy(logits, right) == pytest.approx(
        {"top1": 100 * (place < 1).float().mean().item(), "top5": 100 * (place < 5).float().mean().item()}, abs=1e-3
    )
    assert set(accuracy(logits[:, :5], right % 5)) == {"top1"}


@given(st.permutations(range(12)), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=20)
def test_neither_order_nor_batches_matter(order: list[int], batch: int, multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(12, 4, generator=generator)
    target = torch.nn.functional.one_hot(torch.arange(12) % 4, 4).float()
    whole = ClassificationMetrics(list("abcd"), multi_label)
    whole.update(scores, target)
    parts = ClassificationMetrics(list("abcd"), multi_label)
    for begin in range(0, 12, batch):
        rows = order[begin : begin + batch]
        parts.update(scores[rows], target[rows])
    found, expected = parts.compute(), whole.compute()
    assert found.pop("per_class") == expected.pop("per_class")
    assert found.pop("chance", None) == expected.pop("chance", None)
    assert found == pytest.approx(expected)


def test_scores_that_are_not_finite_are_refused() -> None:
    metrics = ClassificationMetrics(["a", "b"], False)
    metrics.update(torch.tensor([[float("nan"), 0.0]]), torch.tensor([[1.0, 0.0]]))
    with pytest.raises(InputError, match="NaN"):
        metrics.compute()


def test_chance_levels_are_those_of_blind_predictions() -> None:
    """The best constant prediction, and the mean of all constant predictions, which is that of random ones."""
    folds = [torch.tensor([0, 0, 0, 1]), torch.tensor([2, 1, 2])]
    constant = [[accuracy(torch.eye(4)[[c] * len(f)], f)["top1"] for c in range(4)] for f in folds]
    levels = chance_levels(*folds, classes=4)
    assert levels["majority class (%)"] == pytest.approx(np.mean([max(values) for values in constant]), abs=0.01)
    assert levels["1 / classes (%)"] == pytest.approx(np.mean(constant), abs=0.01)
    metrics = ClassificationMetrics("abcd", multi_label=False)
    metrics.update(torch.eye(4), torch.eye(4)[folds[0]])
    assert metrics.compute()["chance"] == {"majority class (%)": 75.0, "1 / classes (%)": 25.0}
