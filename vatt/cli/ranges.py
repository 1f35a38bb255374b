"""Ranges of the numeric options of commands, as annotations of the functions' parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from vatt.ranges import check_range


@dataclass(frozen=True)
class Range:
    """Interval of a number, as in `vatt.ranges.check_range`."""

    interval: str


Count = Annotated[int, Range("[1, inf)")]
CountOrZero = Annotated[int, Range("[0, inf)")]
Positive = Annotated[float, Range("(0, inf)")]
DropRate = Annotated[float, Range("[0, 1)")]
Fraction = Annotated[float, Range("(0, 1]")]
Seed = Annotated[int, Range(f"[0, {2**32 - 1}]")]
Port = Annotated[int, Range("[0, 65535]")]


def check_ranges(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Check the numbers in the arguments of a function.

    Args:
        function: Function whose parameters are annotated with ranges.
        values: Arguments by name.

    Raises:
        InputError: A number is outside its range; the message names the option.
    """
    hints = get_type_hints(function, include_extras=True)
    for name, value in values.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float):
                for interval in _intervals(hints[name]):
                    check_range(f"--{name}", number, interval)


def _intervals(hint: Any) -> list[str]:
    """Return the intervals in a type, such as ``list[Annotated[int, Range("[1, inf)")]] | None``."""
    if isinstance(hint, Range):
        return [hint.interval]
    return [
        interval for inner in (*get_args(hint), *getattr(hint, "__metadata__", ())) for interval in _intervals(inner)
    ]
