"""Readouts of scenes: they learn what their tokens tell, and nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.test_videomae import GRID
from vatt.evaluation.readouts import TASKS, Inputs, TaskReadout, generalised_iou, train_and_measure, without_looking
from vatt.models.backbone import Backbone
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer


def scenes(count: int, seed: int) -> Inputs:
    """Tokens that hold one number: how fast everything moves to the right, how far it is, and where the camera goes."""
    generator = torch.Generator().manual_seed(seed)
    speed = torch.rand(count, 1, 1, 1, generator=generator)
    t = torch.linspace(0, 1, 4)
    x = torch.randn(count, 8, 6, generator=generator) * 0.1
    x[..., :3] += speed.view(-1, 1, 1) * 2
    first = 0.3 * torch.rand(count, 1, 2, 2, generator=generator)
    points = first + 0.4 * speed * t.view(1, 4, 1, 1) * torch.tensor([1.0, 0.0])
    truth = {
        "depth": (1 + 4 * speed).expand(-1, 4, 16, 16).contiguous(),
        "camera": speed.view(-1, 1, 1) * t.view(1, 4, 1) * torch.tensor([1.0, -1.0, 0.5]),
        "points": points, "visible": torch.ones(count, 4, 2, dtype=torch.bool),
        "boxes": torch.cat([points, points + 0.2], dim=-1),
    }  # fmt: skip
    return Inputs(x, truth)


@pytest.mark.parametrize("task", TASKS)
def test_it_reads_what_the_tokens_tell(task: str) -> None:
    train, test = scenes(64, 0), scenes(16, 1)
    blind = without_looking(task, train, test)
    found = train_and_measure(task, train, test, times=2, steps=150)
    better = blind - found if task in ("depth", "camera") else found - blind
    assert better > 0.1
    again = train_and_measure(task, train, test, times=2, steps=150)
    assert found == again  # the same seed


def test_a_tower_can_be_trained_too() -> None:
    torch.manual_seed(0)
    tower = Backbone(
        {"video": VideoTokenizer(16, GRID, (2, 8, 8), positions="fixed")}, {"video": Transformer(16, 1, 2, agg=False)}
    )
    train, test = scenes(8, 0), scenes(4, 1)
    for part in (train, test):
        part.x = torch.rand(len(part.x), 4, 3, 32, 32)
    before = tower.tokenizers["video"].project.weight.clone()
    train_and_measure("camera", train, test, times=2, tower=tower, steps=2)
    assert not torch.equal(before, tower.tokenizers["video"].project.weight)


def test_only_the_first_frame_of_the_truth_is_looked_at() -> None:
    part = scenes(3, 0)
    for task in ("points", "boxes"):
        readout = TaskReadout(task, 6, 2, part.truth)
        said = readout(part.x, part.truth)[task]
        later = {
            name: torch.cat([x[:, :1], torch.rand_like(x[:, 1:].float()).to(x)], dim=1)
            for name, x in part.truth.items()
        }
        assert torch.equal(said, readout(part.x, later)[task])


@pytest.mark.parametrize("task", TASKS)
def test_what_all_tokens_have_in_common_does_not_matter(task: str) -> None:
    """Numbers of tokens may have any mean and spread."""
    part, generator = scenes(8, 0), torch.Generator().manual_seed(2)
    factors, ground = 10 ** torch.randn(6, generator=generator), 30 * torch.randn(6, generator=generator)
    readout = TaskReadout(task, 6, 2, part.truth)
    readout.scale_by(part.x)
    said = readout(part.x, part.truth)[task]
    readout.scale_by(part.x * factors + ground)
    assert torch.allclose(readout(part.x * factors + ground, part.truth)[task], said, atol=1e-3)


@pytest.mark.parametrize("task", ["depth", "camera"])
def test_queries_of_near_places_are_alike_in_the_beginning(task: str) -> None:
    queries = TaskReadout(task, 6, 2, scenes(1, 0).truth).readout.queries.detach()
    near, far = ((queries[0] - queries[place]).norm() for place in (1, len(queries) - 1))
    assert 0 < near < far


def test_generalised_iou_knows_how_far_boxes_are() -> None:
    one = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert generalised_iou(one, one) == pytest.approx(1)
    assert generalised_iou(one, one + torch.tensor([1.0, 0.0, 1.0, 0.0])) == pytest.approx(0)
    assert generalised_iou(one, one + torch.tensor([3.0, 0.0, 3.0, 0.0])) == pytest.approx(-0.5)


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="not 'colour'"):
        TaskReadout("colour", 6, 2, scenes(1, 0).truth)
