"""How long the ways of vatt compare train; what they come to is tested with the demonstration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vatt.cli.compare import Way, _steps
from vatt.errors import InputError

FIRST = Way(
    "a", "a.yaml", gflops=0.25, batch=64, tokens=64, steps=300, warmup=5, sees="video", weights=1, hash="", tower=""
)
OTHER = replace(FIRST, name="b", config="b.yaml", gflops=1.5, batch=16, tokens=1024)


@pytest.mark.parametrize("equal", ["operations", "clips", "tokens"])
def test_all_have_as_much_of_it(equal: str) -> None:
    of_a_clip = {"operations": lambda way: way.gflops, "clips": lambda _: 1.0, "tokens": lambda way: way.tokens}[equal]
    seen = [_steps(way, FIRST, 64_000, equal) * way.batch * of_a_clip(way) for way in (FIRST, OTHER)]
    assert seen[0] == 64_000 * of_a_clip(FIRST)
    assert seen[1] == pytest.approx(seen[0], rel=0.01)


def test_fewer_than_the_warm_up_are_refused_with_what_is_enough() -> None:
    with pytest.raises(InputError, match=r"b.yaml would have 3 steps, .* alone has 5: give --tflops 0.144 or more"):
        _steps(OTHER, FIRST, 288, "operations")
    assert _steps(OTHER, FIRST, 144 / FIRST.gflops, "operations") == 6
