from __future__ import annotations

import math

import pytest
import torch

from vatt.objectives.classification import classification_loss, mixup, rarity_weights


def test_softmax_loss_is_the_definition() -> None:
    logits, right = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    target = torch.nn.functional.one_hot(right, 4).double()
    for smoothing in (0.0, 0.1):
        expected = 0.0
        for row, c in zip(logits.tolist(), right.tolist(), strict=True):
            total = sum(math.exp(x) for x in row)
            shares = [smoothing / 4 + (1 - smoothing) * (k == c) for k in range(4)]
            expected -= sum(share * (x - math.log(total)) for share, x in zip(shares, row, strict=True)) / 5
        assert classification_loss(logits, target, label_smoothing=smoothing).item() == pytest.approx(expected)


def test_sigmoid_loss_is_summed_over_classes() -> None:
    logits, target = torch.randn(3, 6, dtype=torch.float64), (torch.rand(3, 6) < 0.4).double()
    expected = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        for x, y in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-x))
            expected -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / 3
    assert classification_loss(logits, target, multi_label=True).item() == pytest.approx(expected)
    weights = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    alone = [classification_loss(logits[i : i + 1], target[i : i + 1], multi_label=True).item() for i in range(3)]
    weighed = classification_loss(logits, target, multi_label=True, weights=weights).item()
    assert weighed == pytest.approx((alone[0] + 2 * alone[2]) / 3)
    with pytest.raises(ValueError, match="label_smoothing"):
        classification_loss(logits, target, multi_label=True, label_smoothing=0.1)


def test_rare_classes_weigh_more() -> None:
    target = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    # The first class is in three clips, the second in one.
    assert rarity_weights(target).tolist() == pytest.approx([1 / 3, (1 / 3 + 1) / 2, 1 / 3, 0.0])
    # Of a mixed clip each class counts by its share, as it does in the batch.
    mixed = torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.25, 0.75]])
    assert rarity_weights(mixed).tolist() == pytest.approx([0.75 / 2 + 0.25, 1 / 2, 0.25 / 2 + 0.75])


def test_mixed_clips_and_targets_have_the_same_shares() -> None:
    x = torch.eye(64).reshape(64, 2, 32)
    target = torch.eye(64)
    mixed, wanted = mixup(x, target, 5.0)
    torch.testing.assert_close(mixed.reshape(64, 64), wanted)
    torch.testing.assert_close(wanted.sum(dim=1), torch.ones(64))
    largest = wanted.diagonal()
    assert 0.3 < largest.mean() < 0.7  # Beta(5, 5) lies around a half
    assert largest.unique().numel() > 50  # every clip has its own share
    assert (wanted > 0).sum(dim=1).max() == 2
