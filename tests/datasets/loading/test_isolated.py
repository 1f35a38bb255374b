"""Reading in worker processes for commands that read few files."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY
from tests.datasets.loading.crashing import crash_on
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.loading import isolated
from vatt.datasets.loading.isolated import frames_in_workers, windows_in_worker
from vatt.datasets.windows import Windows
from vatt.media.decoding import open_media
from vatt.media.frames import Square
from vatt.structures import Clip


def test_windows_are_those_of_this_process(video_file: Path) -> None:
    windows, clip = Windows(ClipReader(TINY), 0.5), Clip("a", str(video_file))
    expected, result = list(windows.of(clip)), list(windows_in_worker(windows, clip))
    assert [sample["start_s"] for sample in result] == [sample["start_s"] for sample in expected]
    assert len(result) == 5
    for sample, other in zip(result, expected, strict=True):
        torch.testing.assert_close(sample["video"], other["video"])
        torch.testing.assert_close(sample["audio"], other["audio"])


@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_a_crash_is_an_event_of_the_last_window(
    video_file: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    crash_on(monkeypatch, video_file.name, after_s=after_s)
    samples = list(windows_in_worker(Windows(ClipReader(TINY), 0.5), Clip("a", str(video_file))))
    (event,) = [event for sample in samples for event in sample["events"]]
    assert event in samples[-1]["events"]
    assert (event["kind"], event["path"]) == ("crashed", str(video_file))
    assert "was killed by SIGSEGV" in event["reason"]


def test_frames_of_other_files_are_read_after_a_crash(
    video_file: Path, silent_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str) -> Any:
        if path.endswith("crash.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.endswith("error.mp4"):
            raise ZeroDivisionError("division by zero")
        return open_media(path)

    crash_on(monkeypatch)  # a short interval of checks
    monkeypatch.setattr(isolated, "open_media", opened)
    (tmp_path / "damaged.mp4").write_bytes(b"no video" * 100)
    names = (video_file, "crash.mp4", silent_file, "crash.mp4", tmp_path / "damaged.mp4", "error.mp4", video_file)
    times_s = [0.1, 0.5]
    result = list(frames_in_workers([(str(name), times_s) for name in names], 32))
    for number in (0, 2, 6):
        with open_media(names[number]) as media:
            torch.testing.assert_close(result[number], media.frames(times_s, Square(32)).frames)
    for number in (1, 3):
        assert result[number] == "the process that read it was killed by SIGSEGV"
    assert "plain text" in result[4]
    assert result[5] == "ZeroDivisionError: division by zero"
    assert list(frames_in_workers([], 32)) == []
