"""Metrics of scenes against slow or known answers, and labels that are carried along."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vatt.evaluation.tracking import (
    THRESHOLDS,
    absolute_relative_error,
    average_jaccard,
    boundary_f,
    end_point_error,
    jaccard,
    mean_iou,
    propagate,
)


def slow_average_jaccard(points, visible, true_points, true_visible) -> float:
    """Counted one by one, as TAP-Vid's definition has it: of each clip."""
    clips = []
    for b in range(points.shape[0]):
        found = []
        for threshold in THRESHOLDS:
            right = false_positive = false_negative = 0
            for t in range(1, points.shape[1]):
                for p in range(points.shape[2]):
                    near = math.dist(points[b, t, p].tolist(), true_points[b, t, p].tolist()) * 256 < threshold
                    said, seen = bool(visible[b, t, p]), bool(true_visible[b, t, p])
                    right += said and seen and near
                    false_positive += said and not (seen and near)
                    false_negative += seen and not (said and near)
            # A visible point that is told at a wrong place is both.
            found.append(right / max(1, right + false_positive + false_negative))
        clips.append(sum(found) / len(found))
    return sum(clips) / len(clips)


@given(seed=st.integers(0, 1000), spread=st.floats(0.001, 0.05))
def test_average_jaccard_is_as_it_is_defined(seed: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    true_points = torch.rand(2, 3, 4, 2, generator=generator)
    points = true_points + spread * torch.randn(2, 3, 4, 2, generator=generator)
    visible, true_visible = (torch.rand(2, 3, 4, generator=generator) > 0.4 for _ in range(2))
    found = average_jaccard(points, visible, true_points, true_visible)
    assert float(found) == pytest.approx(slow_average_jaccard(points, visible, true_points, true_visible), abs=1e-6)


def test_what_is_right_is_perfect_and_what_is_far_is_nothing() -> None:
    torch.manual_seed(0)
    points, visible = torch.rand(1, 4, 5, 2), torch.ones(1, 4, 5, dtype=torch.bool)
    assert average_jaccard(points, visible, points, visible) == 1
    assert average_jaccard(points + 0.5, visible, points, visible) == 0
    boxes = torch.tensor([0.1, 0.1, 0.5, 0.5]).expand(1, 3, 2, 4)
    assert mean_iou(boxes, boxes) == pytest.approx(1)
    half = boxes.clone()
    half[:, 1:, :, 2] = 0.3  # half as wide after the first frame
    assert mean_iou(half, boxes) == pytest.approx(0.5)
    assert mean_iou(boxes + 0.5, boxes) == 0
    depth = torch.rand(2, 3, 4, 4) + 1
    assert absolute_relative_error(1.1 * depth, depth) == pytest.approx(0.1)
    camera = torch.randn(2, 5, 3)
    moved = camera + torch.tensor([0.0, 3.0, 4.0])
    moved[:, 0] = 100  # the first frame does not count
    assert end_point_error(moved, camera) == pytest.approx(5)


def test_masks_overlap_and_have_boundaries() -> None:
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 10:30, 10:30] = True
    moved, empty = mask.roll(10, dims=2), torch.zeros_like(mask)
    assert jaccard(mask, mask) == 1
    assert jaccard(mask, moved) == pytest.approx(1 / 3)
    assert jaccard(mask, empty) == 0
    assert jaccard(empty, empty) == 1
    assert boundary_f(mask, mask) == 1
    assert boundary_f(empty, empty) == 1
    assert boundary_f(mask, empty) == 0
    assert boundary_f(mask, mask.roll(1, dims=2)) == pytest.approx(1)  # 0.008 of the diagonal, rounded up, is a pixel
    # Ten to the right: the upper and lower edges still lie on each other for half of their length.
    assert 0.2 < float(boundary_f(mask, moved)) < 0.4


def test_labels_go_where_their_features_go() -> None:
    """Four regions, each with a feature of its own, move right by a place each frame."""
    torch.manual_seed(0)
    marks = torch.nn.functional.normalize(torch.randn(8, 8, 16), dim=-1)
    features = torch.stack([marks.roll(t, dims=1) for t in range(5)])
    labels = torch.nn.functional.one_hot(torch.randint(3, (8, 8)), 3)
    found = propagate(features, labels, nearest=1)
    for t in range(5):
        assert torch.equal(found[t].argmax(-1), labels.roll(t, dims=1).argmax(-1))
    assert torch.equal(found[0], labels.float())
    # Within so small a radius only the first frame shows where they came from.
    near = propagate(features, labels, nearest=1, radius=0.5, context=3)
    assert torch.equal(near[4].argmax(-1), labels.roll(4, dims=1).argmax(-1))
    assert torch.allclose(propagate(features, labels).sum(dim=-1), torch.ones(5, 8, 8))
