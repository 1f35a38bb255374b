from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from vatt.datasets.manifest import read_manifest
from vatt.datasets.table import ClipTable

Read = Callable[..., tuple[ClipTable, list[str]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a manifest with the given name and content, beside empty a.mp4 … d.mp4. Returns clips and warnings."""
    for name in "abcd":
        (tmp_path / f"{name}.mp4").touch()

    def call(name: str, content: str | bytes | None = None) -> tuple[ClipTable, list[str]]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clips = read_manifest(path)
        return clips, [str(item.message).replace(f"{path}: ", "") for item in caught]

    return call


def texts(clips: ClipTable) -> dict[str, list[str]]:
    return {clip.id: [text.text for text in clip.texts] for clip in clips}
