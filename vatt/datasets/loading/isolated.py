"""Reading in worker processes for commands that read few files: a file that crashes a decoder fails alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from vatt.datasets.loading.batches import Sample
from vatt.datasets.loading.crashes import CrashTolerantLoader, SequentialLoader, begin_reading
from vatt.datasets.loading.workers import leave_interrupts_to_main
from vatt.datasets.windows import Windows
from vatt.media.decoding import TIME_LIMIT_S, open_media
from vatt.media.demuxing import first_line
from vatt.media.frames import Square
from vatt.media.types import MediaError
from vatt.structures import Clip

Request = tuple[str, Sequence[float]]  # path, and times in seconds


def windows_in_worker(windows: Windows, clip: Clip) -> Iterator[Sample]:
    """Yield the windows of a clip, which another process reads.

    If that process crashes, the last sample has an event of kind ``crashed``.

    Args:
        windows: Reads the clip.
        clip: The clip.
    """
    options = {"batch_size": None, "num_workers": 1}
    for sample in _ClipLoader(_ClipWindows(windows, clip), {}, leave_interrupts_to_main, **options):
        yield {key: _to_tensor(value) for key, value in sample.items()}


def frames_in_workers(requests: Sequence[Request], size: int, num_workers: int = 2) -> Iterator[Tensor | str]:
    """Yield the frames (N, 3, size, size) of each request, or the reason why there are none.

    Args:
        requests: Files, as `open_media` opens them, and times.
        size: Height and width to which frames are resized and cropped.
        num_workers: Number of processes that read.
    """
    frames = _Frames(requests, size)
    options = {"num_workers": min(num_workers, len(requests)), "collate_fn": _first}
    loader = SequentialLoader(frames, 1, {}, leave_interrupts_to_main, **options) if requests else ()
    yield from map(_to_tensor, loader)


class _ClipWindows(IterableDataset[Sample]):
    """The windows of a clip with arrays in place of tensors, which workers would send through shared memory.

    If there is no space for shared memory, PyTorch waits for the tensor forever.
    """

    def __init__(self, windows: Windows, clip: Clip) -> None:
        self.windows, self.clip = windows, clip

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.windows.of(self.clip):
            yield {key: value.numpy() if isinstance(value, Tensor) else value for key, value in sample.items()}


class _ClipLoader(CrashTolerantLoader):
    def delivered(self, sample: Sample) -> None:
        """Nothing is recorded: after a crash, the clip has one sample, which reports it."""


class _Frames(Dataset[np.ndarray | str]):
    def __init__(self, requests: Sequence[Request], size: int) -> None:
        self.requests, self.size = requests, size

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> np.ndarray | str:
        path, times_s = self.requests[index]
        try:
            begin_reading(path, TIME_LIMIT_S)
            with open_media(path) as media:
                return media.frames(list(times_s), Square(self.size)).frames.numpy()
        except MediaError as error:
            return error.reason
        except Exception as error:
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            begin_reading("")


def _to_tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _first(items: list[Any]) -> Any:
    return items[0]
