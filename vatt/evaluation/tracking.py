"""Metrics of what a scene is: depth, camera, points and boxes; and labels that are carried from frame to frame."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLDS = (1, 2, 4, 8, 16)  # pixels, of a picture of 256
BOUNDARY = 0.008  # of the picture's diagonal, by which boundaries may lie apart (DAVIS)


def absolute_relative_error(predicted: Tensor, depth: Tensor) -> Tensor:
    """AbsRel: mean of |d' - d| / d. Any shape, all of it valid."""
    return ((predicted - depth).abs() / depth).mean()


def end_point_error(predicted: Tensor, camera: Tensor) -> Tensor:
    """Mean distance of what is told of the camera (B, T, 3) from where it is, the first frame left out.

    Of a camera that does not turn that is how far any point, put into the camera's frame by the one, lies from where
    the other puts it.
    """
    return (predicted - camera)[:, 1:].norm(dim=-1).mean()


def average_jaccard(points: Tensor, visible: Tensor, true_points: Tensor, true_visible: Tensor) -> Tensor:
    """AJ of points that are asked for in the first frame (Doersch et al. 2022, "TAP-Vid", section 4).

    At each of 1, 2, 4, 8 and 16 pixels of a picture of 256: right are points that are said to be visible, are so, and
    are nearer than that; over right ones, visible ones that were not found, and ones wrongly said to be visible. The
    first frame does not count. Of each clip, then the mean of the clips in which a point is seen or said to be.

    Args:
        points, true_points: (B, T, P, 2) in [0, 1].
        visible, true_visible: (B, T, P) bool.
    """
    distance = 256 * (points - true_points).norm(dim=-1)[:, 1:]
    said, seen = visible[:, 1:], true_visible[:, 1:]
    found = []
    for threshold in THRESHOLDS:
        right = said & seen & (distance < threshold)
        wrong = said & ~right
        found.append(right.sum(dim=(1, 2)) / (seen.sum(dim=(1, 2)) + wrong.sum(dim=(1, 2))).clamp(min=1))
    counts = (said | seen).any(dim=2).any(dim=1)
    return torch.stack(found, dim=1)[counts].mean()


def mean_iou(boxes: Tensor, true_boxes: Tensor) -> Tensor:
    """Mean overlap over union of boxes (B, T, K, 4), left, top, right, bottom; the first frame does not count."""
    shared, union = overlap(boxes[:, 1:], true_boxes[:, 1:])
    return (shared / union).mean()


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of boxes (…, 4), left, top, right, bottom; the union is never quite 0."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(x[..., 2:] - x[..., :2]).clamp(min=0).prod(dim=-1) for x in (a, b)]
    return shared, (areas[0] + areas[1] - shared).clamp(min=1e-9)


@torch.no_grad()
def propagate(
    features: Tensor, first: Tensor, context: int = 20, radius: float = 20.0, nearest: int = 7, temperature: float = 0.7
) -> Tensor:
    """Carry labels of the first frame through a video by the nearest features of earlier frames; nothing is learned.

    Each place takes the labels of the places that are most like it, in the first frame and in the last ones, weighted
    by softmax(cosine / temperature). Earlier frames are looked at nearby only, the first one everywhere. Numbers are
    those of the released evaluation of 4DS; DINO's own are 7 frames, 5 places, radius 12 and 0.1.

    Args:
        features: (T, h, w, D).
        first: (h, w, C) labels of the first frame, one-hot or shares.
        context: frames before, besides the first.
        radius: in places, how far away places of these may be.
        nearest: places that are taken.
        temperature: of the softmax.

    Returns:
        (T, h, w, C), the first frame as it was given.
    """
    times, h, w, _ = features.shape
    x = F.normalize(features.flatten(1, 2).float(), dim=-1)
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).to(x.device).float()
    far = torch.cdist(places, places) > radius
    labels = [first.flatten(0, 1).float()]
    for t in range(1, times):
        known = [0, *range(max(1, t - context), t)]
        likeness = torch.stack([x[t] @ x[s].T for s in known], dim=1)  # (hw, frames, hw)
        likeness[:, 1:] = likeness[:, 1:].masked_fill(far[:, None], -math.inf)
        best, at = likeness.flatten(1).topk(min(nearest, likeness[0].numel()), dim=1)
        weight = (best / temperature).softmax(dim=1)
        table = torch.cat([labels[s] for s in known])
        labels.append((table[at] * weight.unsqueeze(-1)).sum(dim=1))
    return torch.stack(labels).view(times, h, w, -1)


def jaccard(mask: Tensor, true_mask: Tensor) -> Tensor:
    """J: overlap over union of masks (…, H, W) bool; 1 where both are empty."""
    shared, union = (mask & true_mask).sum(dim=(-2, -1)), (mask | true_mask).sum(dim=(-2, -1))
    return torch.where(union == 0, 1.0, shared / union.clamp(min=1))


def boundary_f(mask: Tensor, true_mask: Tensor) -> Tensor:
    """F: harmonic mean of precision and recall of boundaries, of masks (…, H, W) bool (Perazzi et al. 2016, "DAVIS").

    A boundary is right where one of the other lies within 0.008 of the picture's diagonal, rounded up. 1 where neither
    has one.
    """
    reach = math.ceil(BOUNDARY * math.hypot(*mask.shape[-2:]))
    edges = [_edge(x) for x in (mask, true_mask)]
    near = [_grown(x, reach) for x in edges]
    counts = [x.sum(dim=(-2, -1)) for x in edges]
    right = [(edges[i] & near[1 - i]).sum(dim=(-2, -1)) / counts[i].clamp(min=1) for i in (0, 1)]
    found = 2 * right[0] * right[1] / (right[0] + right[1]).clamp(min=1e-9)
    return torch.where((counts[0] == 0) & (counts[1] == 0), 1.0, found)


def _edge(mask: Tensor) -> Tensor:
    """Places of a mask that have one outside beside, below or across from them."""
    padded = F.pad(mask.float().reshape(-1, 1, *mask.shape[-2:]), (0, 1, 0, 1), mode="replicate")
    here = padded[..., :-1, :-1]
    others = (padded[..., 1:, :-1], padded[..., :-1, 1:], padded[..., 1:, 1:])
    different = torch.stack([here != other for other in others]).any(dim=0)
    return different.squeeze(1).view(mask.shape)


def _grown(mask: Tensor, reach: int) -> Tensor:
    """Everything within so many places of a mask."""
    steps = torch.arange(-reach, reach + 1, device=mask.device).float()
    disc = (torch.hypot(steps[:, None], steps[None, :]) <= reach).float()[None, None]
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])
    return (F.conv2d(flat, disc, padding=reach) > 0).squeeze(1).view(mask.shape)
