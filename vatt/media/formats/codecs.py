"""What the FFmpeg in PyAV is, and which codecs it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import av


def libraries() -> dict[str, str]:
    """Versions of FFmpeg's libraries by name."""
    return {name: ".".join(map(str, number)) for name, number in sorted(av.library_versions.items())}


def lacking(names: Sequence[str], mode: Literal["r", "w"]) -> list[str]:
    """Those of the codecs that it cannot read ("r") or write ("w")."""
    found = []
    for name in names:
        try:
            av.Codec(name, mode)
        except ValueError:
            found.append(name)
    return found
