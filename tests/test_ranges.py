from __future__ import annotations

import math
import re
from typing import Any

import pytest

from vatt.errors import InputError
from vatt.ranges import check_range
from vatt.training.finetune import Tuning
from vatt.training.optim import Optimization
from vatt.training.run import Run


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-0.1, 1, math.inf, math.nan)),
        ("(0, 1]", (0.1, 1), (0, 1.1, math.nan)),
        ("(0, inf)", (1e-9, 1e9), (0, -math.inf, math.inf, math.nan)),
        ("[1, inf)", (1, 2), (0, math.inf)),
    ],
)
def test_only_numbers_of_the_interval_are_accepted(
    interval: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for value in (*inside, None):
        check_range("key", value, interval)
    for value in outside:
        with pytest.raises(InputError, match=re.escape(f"key must lie in {interval}, not {value}")):
            check_range("key", value, interval)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    ("kind", "prefix", "names"),
    [
        (
            Optimization,
            "model.optimization",
            (
                *("lr", "final_lr", "first_lr", "weight_decay", "final_weight_decay", "eps", "momentum"),
                *("layer_decay", "schedule_length", "clip_each", "width_ratio"),
            ),
        ),
        (
            Tuning,
            "model.tuning",
            ("mixup", "clip_backbone", "clip_head", "dropout", "drop_token", "label_smoothing"),
        ),
        (Run, "run", ("ema",)),
    ],
)
def test_numbers_that_are_not_finite_or_negative_are_refused_by_key(
    kind: Any, prefix: str, names: tuple[str, ...], value: float
) -> None:
    for name in names:
        with pytest.raises(InputError, match=rf"^{prefix}.{name} must lie in .* not {value}$"):
            kind(**{name: value})
    if kind is Optimization:
        with pytest.raises(InputError, match=r"^model.optimization.betas must lie in \[0, 1\), not"):
            Optimization(betas=(0.9, value))
