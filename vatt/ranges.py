"""Ranges of numbers in a configuration."""

from __future__ import annotations

from vatt.errors import InputError


def check_range(key: str, value: float | None, interval: str) -> None:
    """Check that a number lies in an interval. NaN lies in none.

    Args:
        key: Key of the configuration, for the message.
        value: The number. None is accepted.
        interval: Interval such as ``[0, 1)``; ``inf`` as an open bound admits all finite numbers.

    Raises:
        InputError: The number lies outside.
    """
    if value is None:
        return
    low, high = map(float, interval[1:-1].split(","))
    is_above = low < value or (interval[0] == "[" and low == value)
    is_below = value < high or (interval[-1] == "]" and value == high)
    if not (is_above and is_below):
        raise InputError(f"{key} must lie in {interval}, not {value}")
