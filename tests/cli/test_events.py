"""Printed events of files that were not read."""

from __future__ import annotations

import pytest

from vatt.cli import events as module
from vatt.cli.events import print_events
from vatt.structures import Event


def test_clips_of_a_file_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = [Event(kind="crashed", id=f"s{i}", path="film.mp4", reason="killed") for i in range(12)]
    events.insert(3, Event(kind="crashed", id="other", path="other.mp4", reason="killed"))
    events += [Event(kind="damaged", id="s0", path="film.mp4", reason="2 packets")] * 2  # in two windows
    print_events(events, "out")
    assert capsys.readouterr().out.splitlines() == [
        "crashed: film.mp4: killed (12 clips)",
        "crashed: other.mp4: killed",
        "damaged: film.mp4: 2 packets",
        "13 crashed, 2 damaged",
    ]


def test_the_number_of_lines_is_limited(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN", 2)
    events = [Event(kind="unreadable", id=f"{i}", path=f"{i // 2}.mp4", reason="empty") for i in range(10)]
    print_events(events, "out")
    assert capsys.readouterr().out.splitlines() == [
        "unreadable: 0.mp4: empty (2 clips)",
        "unreadable: 1.mp4: empty (2 clips)",
        "unreadable: 6 more, see out/errors.parquet",
        "10 unreadable",
    ]
    print_events([], "out")
    assert capsys.readouterr().out == ""
