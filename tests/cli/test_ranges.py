from __future__ import annotations

import math
from importlib import import_module
from typing import Any, get_type_hints

import pytest

from vatt.cli.main import COMMANDS, main
from vatt.cli.ranges import Count, DropRate, Fraction, Positive, Seed, check_ranges
from vatt.errors import InputError


def command(
    count: Count = 1,
    seed: Seed = 0,
    hop: Positive | None = None,
    rates: list[DropRate] | None = None,
    share: Fraction = 1.0,
) -> None:
    """Take options of every kind."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "--count must lie in [1, inf), not 0"),
        ("seed", 2**32, "--seed must lie in [0, 4294967295], not 4294967296"),
        ("hop", 0.0, "--hop must lie in (0, inf), not 0.0"),
        ("hop", math.nan, "--hop must lie in (0, inf), not nan"),
        ("hop", math.inf, "--hop must lie in (0, inf), not inf"),
        ("rates", [0.5, 1.0], "--rates must lie in [0, 1), not 1.0"),
        ("share", 0.0, "--share must lie in (0, 1], not 0.0"),
    ],
)
def test_numbers_outside_their_range_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        check_ranges(command, {name: value})
    assert str(error.value) == message


def test_numbers_inside_their_range_are_accepted() -> None:
    check_ranges(command, {"count": 1, "seed": 2**32 - 1, "hop": None, "rates": [0.0, 0.9], "share": 1.0})


def test_every_number_of_a_command_has_a_range() -> None:
    without = []
    for word, (path, _, _) in COMMANDS.items():
        if word not in ("pretrain", "finetune"):
            module, name = path.split(":")
            hints = get_type_hints(getattr(import_module(module), name), include_extras=True)
            numbers = {option: str(hint) for option, hint in hints.items() if option != "return"}
            without += [
                f"{word} --{o}" for o, h in numbers.items() if ("int" in h or "float" in h) and "Range" not in h
            ]
    assert without == ["probe --folds", "probe --layers"]  # compared with the manifest and with the model


def test_a_command_checks_its_options_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "missing", "--clips_per_combination", "0"]) == 2
    assert capsys.readouterr().err == "vatt synth: error: --clips_per_combination must lie in [1, inf), not 0\n"
