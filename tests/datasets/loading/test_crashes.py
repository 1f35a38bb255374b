"""Files whose decoding crashes a process are skipped."""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vatt.datasets.loading import crashes
from vatt.datasets.loading.crashes import CrashedFile, SequentialLoader, begin_reading
from vatt.errors import VattError

CRASHES: dict[str, Callable[[], None]] = {
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "out of memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
}
EXITS = {
    "segmentation fault": "was killed by SIGSEGV",
    "abort": "was killed by SIGABRT",
    "out of memory": "was killed by SIGKILL, perhaps out of memory",
    "exit": "ended with status 3",
}


class Paths(Dataset):
    """Dataset that converts paths to numbers.

    Excluded files give -1. The keys of `CRASHES` end the process, "hang" hangs, "error" raises an exception, and
    "unnamed" exits after the file was read.
    """

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __getitem__(self, index: int) -> int:
        path = self.paths[index]
        try:
            begin_reading(path, 0.0 if path == "hang" else math.inf)
        except CrashedFile:
            return -1
        if path in CRASHES:
            CRASHES[path]()
        while path == "hang":
            time.sleep(1)
        begin_reading("")
        if path == "error":
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "cache")
        if path == "unnamed":
            os._exit(1)
        return int(path)

    def __len__(self) -> int:
        return len(self.paths)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch looks every 5 s whether its workers live."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def nothing(worker: int) -> None:
    pass


def loader(paths: list[str], **options: object) -> SequentialLoader:
    return SequentialLoader(Paths(paths), 2, {}, nothing, **({"num_workers": 2} | options))


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_skips_one_item_and_repeats_no_batch(crash: str, capfd: pytest.CaptureFixture[str]) -> None:
    batches = loader(["0", "1", "2", "3", crash, "5", "6", "7", "8"])
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [-1, 5], [6, 7], [8]]
    assert batches.crashed == {crash: f"the process that read it {EXITS[crash]}"}
    assert len(list(batches)) == 5  # the next pass starts at the beginning, without crashes
    assert capfd.readouterr().err == ""


def test_crashes_of_spawned_workers() -> None:
    batches = loader(["0", "abort", "2"], multiprocessing_context="spawn", num_workers=1)
    assert torch.cat(list(batches)).tolist() == [0, -1, 2]


def test_files_excluded_by_another_loader_are_excluded_without_workers() -> None:
    batches = loader(["0", "abort"], num_workers=0)
    batches.crashed["abort"] = "the process that read it ended with status 1"
    assert [batch.tolist() for batch in batches] == [[0, -1]]


def test_several_crashes_and_persistent_workers() -> None:
    batches = loader(["abort", "1", "exit", "3", "4"], persistent_workers=True)
    for _ in range(2):
        assert torch.cat(list(batches)).tolist() == [-1, 1, -1, 3, 4]
    assert batches.crashed.keys() == {"abort", "exit"}


def test_crash_is_reported_only_when_the_next_batch_is_requested() -> None:
    batches = iter(loader(["0", "1", "abort", "3"], num_workers=1))
    next(batches)
    for _ in range(100_000):  # PyTorch's handler of SIGCHLD would raise here, such as in a step of an optimizer
        os.getpid()
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    assert [batch.tolist() for batch in batches] == [[-1, 3]]


class Unreceivable:
    """A batch whose memory the worker no longer shares when it is received."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _reset, ()


def _reset() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


class SlowCrash(Paths):
    """The worker is still running when the batch before the crash cannot be received."""

    def __getitem__(self, index: int) -> object:
        path = self.paths[index]
        if path == "0" and "abort" not in crashes._excluded:
            return Unreceivable()
        if path == "abort" and path not in crashes._excluded:
            begin_reading(path)
            time.sleep(0.5)
        return super().__getitem__(index)


def test_a_batch_that_a_crashing_worker_no_longer_shares_is_read_again() -> None:
    options = {"num_workers": 1, "collate_fn": lambda items: items[0]}
    batches = SequentialLoader(SlowCrash(["0", "abort", "2"]), 1, {}, nothing, **options)
    assert list(batches) == [0, -1, 2]
    assert batches.crashed == {"abort": "the process that read it was killed by SIGABRT"}


def test_a_worker_that_dies_between_files_is_an_error() -> None:
    with pytest.raises(VattError, match="process ended with status 1 outside of reading a file"):
        list(loader(["0", "1", "unnamed"]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_worker_errors_are_raised_unchanged(num_workers: int) -> None:
    with pytest.raises(OSError, match="Not a directory: 'cache'") as info:
        list(loader(["0", "error"], num_workers=num_workers))
    assert info.value.filename == "cache"
    assert "Traceback" not in str(info.value)
    chain = [info.value]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        assert cause not in chain  # the chain of causes has no cycle
        chain.append(cause)
    assert num_workers == 0 or "in __getitem__" in str(chain[-1])  # the traceback of the worker is kept as the cause


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "TICK_S", 0.05)
    batches = loader(["0", "1", "2", "hang", "4"])
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, -1], [4]]
    assert batches.crashed == {"hang": "the process that read it hung for 0 s and was killed"}


def test_errors_of_the_consumer_are_raised() -> None:
    def consume() -> Iterator[None]:
        for _ in loader(["0", "1"]):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(consume())


def test_without_workers_the_file_is_named(tmp_path: Path) -> None:
    code = (
        "from tests.datasets.loading.test_crashes import loader\n"
        "for batch in loader(['0', '1', 'abort', '3'], num_workers=0): print(batch.tolist(), flush=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == -signal.SIGABRT
    assert result.stdout == "[0, 1]\n"
    assert "the process ended while it read abort" in result.stderr
