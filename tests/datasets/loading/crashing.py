"""Files that crash the process that reads them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vatt.datasets import clip_reader
from vatt.media.decoding import open_media


def crash_on(monkeypatch: pytest.MonkeyPatch, *names: str, after_s: float = 0.0) -> None:
    """Make processes that are forked from now on crash when they read some files.

    Args:
        monkeypatch: Undoes it.
        names: Names of the files.
        after_s: From which second on.
    """

    def opened(path: str, *args: Any) -> Any:
        media = open_media(path, *args)
        if Path(path).name in names:
            waveform = media.waveform

            def read(start_s: float, *args: Any) -> Any:
                if start_s >= after_s:
                    os.kill(os.getpid(), signal.SIGSEGV)
                return waveform(start_s, *args)

            media.waveform = read
        return media

    monkeypatch.setattr(clip_reader, "open_media", opened)
    # PyTorch looks every 5 s whether its workers live.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
