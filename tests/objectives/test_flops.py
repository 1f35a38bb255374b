"""Operations of a training step, counted without computing."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.test_autoregressive import tower as causal
from tests.objectives.test_videomae import tower
from vatt.objectives.autoregressive import Autoregressive
from vatt.objectives.base import Objective
from vatt.objectives.flops import step_flops
from vatt.objectives.jepa import JEPA
from vatt.objectives.videomae import VideoMAE
from vatt.structures import ClipFormat

FORMAT = ClipFormat(num_frames=4, size=32, sample_rate=100)


def counted(objective: Objective, clips: int = 4) -> float:
    backbone = causal() if isinstance(objective, Autoregressive) else tower("fixed")
    objective.build(backbone)
    format = ClipFormat(num_frames=2, size=16, sample_rate=100) if isinstance(objective, Autoregressive) else FORMAT
    return step_flops(objective, backbone, format, clips)


@pytest.mark.parametrize("make", [lambda: VideoMAE(inner=12, depth=1, heads=2), Autoregressive])
def test_they_are_the_same_without_content(make) -> None:
    with_content = make()
    with_content.compares_clips = True  # which looks at values
    assert counted(make()) == counted(with_content) == counted(make(), clips=9) > 0


def test_of_many_clips_masks_leave_less() -> None:
    """All see as many places as the one with the fewest; the count is that of as many clips as are trained on."""
    few, many = (counted(JEPA(inner=12, depth=1, heads=2), clips) for clips in (2, 64))
    assert many < 0.97 * few


def test_what_is_hidden_is_not_computed() -> None:
    few, many = (counted(VideoMAE(hidden=share, inner=12, depth=1, heads=2)) for share in (0.9, 0.5))
    assert few < many
    predicted = counted(JEPA(inner=12, depth=1, heads=2))
    assert predicted > many  # all places pass the target encoder, and some the encoder, twice


def test_it_leaves_everything_as_it_was() -> None:
    objective, backbone = VideoMAE(inner=12, depth=1, heads=2), tower()
    objective.build(backbone)
    before = [p.clone() for p in backbone.parameters()]
    state = torch.get_rng_state()
    step_flops(objective, backbone, FORMAT)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, backbone.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert objective.draws is None


def test_an_encoder_of_known_size_has_known_operations() -> None:
    """Of autoregression, three times the forward pass: 2 x weights x tokens, and attention."""
    backbone = causal()
    objective = Autoregressive()
    objective.build(backbone)
    tokens, width, mlp, depth, codes = 9, 24, 40, 2, 17
    linear = depth * (4 * width * width + 3 * width * mlp) + width * codes
    attention = depth * 2 * tokens * width  # queries times keys, and weights times values, for a token
    forward = 2 * tokens * (linear + attention)
    found = step_flops(objective, backbone, ClipFormat(num_frames=2, size=16, sample_rate=100))
    nearest = 2 * 8 * 192 * 16  # of the codebook: patches times centres
    assert found == pytest.approx(3 * forward + nearest, rel=1e-6)
