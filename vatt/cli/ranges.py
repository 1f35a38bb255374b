"""Ranges of the numeric options of commands, as annotations of the functions' parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from vatt.errors import InputError


@dataclass(frozen=True)
class Range:
    """Range of a number.

    Args:
        low: Lower bound.
        high: Upper bound.
        open_low: Exclude the lower bound.
        open_high: Exclude the upper bound.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:,}"
        return low if self.high == math.inf else f"{low} and {'below' if self.open_high else 'at most'} {self.high:,}"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open_low=True)]
DropRate = Annotated[float, Range(0, 1, open_high=True)]
Fraction = Annotated[float, Range(0, 1, open_low=True)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Port = Annotated[int, Range(0, 65535)]


def check_ranges(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check the numbers in the arguments of a function.

    Args:
        function: Function whose parameters are annotated with ranges.
        values: Arguments by name.

    Raises:
        InputError: A number is outside its range, infinite or NaN; the message names the option.
    """
    hints = get_type_hints(function, include_extras=True)
    for name, value in values.items():
        ranges = _ranges(hints[name])
        for number in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if not math.isfinite(number):
                raise InputError(f"--{name} must be a finite number, not {number}")
            for range in ranges:
                if number not in range:
                    raise InputError(f"--{name} must be {range}, not {number}")


def _ranges(hint: Any) -> list[Range]:
    """Return the ranges in a type, such as ``list[Annotated[int, Range(1)]] | None``."""
    if isinstance(hint, Range):
        return [hint]
    return [range for inner in (*get_args(hint), *getattr(hint, "__metadata__", ())) for range in _ranges(inner)]
