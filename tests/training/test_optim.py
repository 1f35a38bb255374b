from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vatt.training.optim import Optimization, make_optimizer


def rates(how: Optimization, steps: int) -> list[float]:
    """The learning rate of every step."""
    optimizer, schedule = make_optimizer(nn.Linear(2, 2), how, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    how = Optimization(lr=1.0, final_lr=0.1, warmup_steps=4)
    found = rates(how, 20)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 16)) / 2 for i in range(16)]
    assert found[4:] == pytest.approx(expected)


def test_the_papers_rate_falls_along_a_quarter_of_a_cosine() -> None:
    """Half-way down from 1e-4 to 5e-5: 8.54e-5 by the paper's text, 7.50e-5 by the released code."""
    middle = {
        decay: rates(Optimization(lr=1e-4, final_lr=5e-5, warmup_steps=0, decay=decay), 100)[50]
        for decay in ("quarter_cosine", "half_cosine")
    }
    assert middle == pytest.approx({"quarter_cosine": 8.5355e-5, "half_cosine": 7.5e-5}, rel=1e-4)
    found = rates(Optimization(lr=1.0, final_lr=0.0, warmup_steps=4, decay="quarter_cosine"), 20)
    assert found[4:] == pytest.approx([math.cos(math.pi / 2 * i / 16) for i in range(16)])


def test_without_warm_up_the_first_step_has_the_highest_rate() -> None:
    found = rates(Optimization(lr=1.0, final_lr=0.0, warmup_steps=0), 10)
    assert found[0] == 1.0
    assert found == sorted(found, reverse=True)


def test_a_run_resumed_with_more_steps_follows_the_longer_schedule() -> None:
    how = Optimization(lr=1.0, final_lr=0.1, warmup_steps=4)
    optimizer, schedule = make_optimizer(nn.Linear(2, 2), how, 10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    resumed, longer = make_optimizer(nn.Linear(2, 2), how, 20)
    resumed.load_state_dict(optimizer.state_dict())
    longer.load_state_dict(schedule.state_dict())
    found = []
    for _ in range(10):
        resumed.step()
        longer.step()
        found.append(resumed.param_groups[0]["lr"])
    assert found[:-1] == pytest.approx(rates(how, 20)[11:])


def test_only_matrices_are_decayed() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    module[0].bias.requires_grad_(False)
    optimizer, _ = make_optimizer(module, Optimization(weight_decay=0.3, warmup_steps=1), 10)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(module[0].weight): 0.3, id(module[1].weight): 0.0, id(module[1].bias): 0.0}


def test_adam_decays_through_the_gradient_and_adamw_beside_it() -> None:
    moved = {}
    for name in ("adam", "adamw"):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, 2.0)
        how = Optimization(name=name, lr=0.1, final_lr=0.1, warmup_steps=0, weight_decay=0.5)
        optimizer, _ = make_optimizer(layer, how, 10)
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        moved[name] = layer.weight.item()
    assert moved["adamw"] == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert moved["adam"] == pytest.approx(2.0 - 0.1)  # the first step of Adam has the length of the rate


@pytest.mark.parametrize(("how", "steps"), [({"warmup_steps": 10}, 10), ({"warmup_steps": 20}, 10)])
def test_a_warm_up_as_long_as_the_training_is_refused(how: dict[str, int], steps: int) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        make_optimizer(nn.Linear(1, 1), Optimization(**how), steps)


def test_a_final_rate_above_the_highest_is_refused() -> None:
    with pytest.raises(ValueError, match="final_lr"):
        Optimization(lr=1e-4, final_lr=1e-3)


def test_v_jepa_schedules_end_where_the_released_ones_do() -> None:
    """90,000 steps whose cosines are made for 1.25 times as many: rate 7.5e-5 and weight decay 0.366 in the end."""
    how = Optimization(
        lr=6.25e-4, first_lr=2e-4, final_lr=1e-6, warmup_steps=12_000, weight_decay=0.04, final_weight_decay=0.4,
        schedule_length=1.25,
    )  # fmt: skip
    optimizer, schedule = make_optimizer(nn.Linear(2, 2), how, 90_000)
    assert how.lr * schedule.factor(0) == pytest.approx(2e-4)
    assert how.lr * schedule.factor(12_000) == pytest.approx(6.25e-4)
    assert how.lr * schedule.factor(90_000) == pytest.approx(7.5e-5, rel=0.01)
    assert schedule.weight_decay(90_000) == pytest.approx(0.366, abs=5e-4)
    optimizer.step()
    schedule.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(schedule.weight_decay(1)), 0.0]


def test_a_constant_rate_stays() -> None:
    how = Optimization(lr=1e-3, final_lr=0, warmup_steps=2, decay="constant")
    _, schedule = make_optimizer(nn.Linear(2, 2), how, 10)
    assert [schedule.factor(step) for step in (0, 2, 5, 10)] == [pytest.approx(1 / 3), 1.0, 1.0, 1.0]
