"""Scaling laws: how a loss falls with the operations of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vatt.errors import InputError


@dataclass(frozen=True)
class PowerLaw:
    """L(C) = factor C^exponent.

    Attributes:
        factor: L at one operation.
        exponent: below 0 where a loss falls. Toto: -0.0378, with multiplications and additions counted as one; language
            models: -0.048 (Kaplan et al. 2020).
        error: root mean square of log L against the law.
    """

    factor: float
    exponent: float
    error: float

    def __call__(self, operations: np.ndarray) -> np.ndarray:
        return self.factor * operations**self.exponent


def fit_power_law(operations: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """The straight line through logarithms, by least squares.

    Raises:
        InputError: fewer than two different operations, or numbers that are not positive.
    """
    x, y = np.asarray(operations, float), np.asarray(losses, float)
    if len(set(x.tolist())) < 2 or x.shape != y.shape or not ((x > 0) & (y > 0) & np.isfinite(x * y)).all():
        raise InputError("a power law is fitted to two or more positive operations and their positive losses")
    exponent, log_factor = np.polyfit(np.log(x), np.log(y), 1)
    error = np.sqrt(np.mean((np.log(y) - exponent * np.log(x) - log_factor) ** 2))
    return PowerLaw(float(np.exp(log_factor)), float(exponent), float(error))


def frontier(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """Of trainings, operations and losses each, the points that none reaches with less: the lowest loss so far."""
    points = sorted((c, loss) for curve in curves for c, loss in zip(*curve, strict=True))
    operations, losses = [], []
    for c, loss in points:
        if not losses or loss < losses[-1]:
            operations.append(c)
            losses.append(loss)
    return operations, losses
