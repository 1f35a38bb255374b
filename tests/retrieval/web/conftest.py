"""Clips whose transcoding is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.retrieval.fake_transcode import fake_transcode
from vatt.retrieval.web import clips as module
from vatt.retrieval.web.clips import Clips


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clips]:
    monkeypatch.setattr(module, "transcode", fake_transcode)
    monkeypatch.setattr(module, "PROCESSES", 1)
    clips = Clips(cache_bytes=250)
    yield clips
    clips.close()
    assert not clips.folder.exists()


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    def make(name: str) -> str:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(0, 0))
        return str(tmp_path / name)

    return make
