from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import av
import pytest

from vatt.media.decoding import open_media
from vatt.media.formats.damage import decode_pictures
from vatt.media.inspection import read_packets
from vatt.media.sources.callbacks import Callbacks
from vatt.media.sources.files import MediaFile


class Interrupted(BaseException):
    """What the signal handler raises."""


def frames(path: str) -> None:
    with open_media(path) as media:
        media.frames([0.1, 2.0])


def waveform(path: str) -> None:
    with open_media(path) as media:
        media.waveform(0.5, 2.0, 16_000)


def still_images(path: str) -> None:
    decode_pictures(path, read_packets(path).video, [(0.0, 0.5), (2.0, 3.0)])


@pytest.mark.parametrize("read", [frames, waveform, read_packets, still_images])
@pytest.mark.parametrize("method", ["read", "seek"])
def test_exceptions_of_signal_handlers_are_raised(
    read: Callable[[str], object], method: str, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python calls a handler at the beginning of the function that was called when the signal arrives."""
    calls, signal_at, function = 0, 0, getattr(MediaFile, method)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    def call(self: MediaFile, *args: int) -> bytes | int:
        nonlocal calls
        calls += 1
        if calls == signal_at:
            signal.raise_signal(signal.SIGUSR1)
        return function(self, *args)

    monkeypatch.setattr(MediaFile, method, call)
    handler = signal.signal(signal.SIGUSR1, interrupt)
    try:
        read(str(video_file))
        for number in range(1, calls + 1):
            calls, signal_at = 0, number
            with pytest.raises(Interrupted):
                read(str(video_file))
    finally:
        signal.signal(signal.SIGUSR1, handler)


def test_python_runs_only_where_exceptions_are_caught() -> None:
    """A signal handler may raise at the first instruction of a Python function, before any ``try`` in it."""
    callbacks = Callbacks(io.BytesIO(b"abcdef"), "media")
    assert not any(hasattr(method, "__code__") for method in (callbacks.read, callbacks.seek, callbacks.tell))


def test_reads_and_seeks_are_those_of_the_file() -> None:
    callbacks = Callbacks(io.BytesIO(b"abcdef"), "media")
    assert callbacks.read(2) == b"ab"
    callbacks.seek(1, io.SEEK_CUR)
    assert (callbacks.tell(), callbacks.read(9), callbacks.read(9)) == (3, b"def", b"")
    callbacks.seek(-2, io.SEEK_END)
    assert (callbacks.tell(), callbacks.read(1)) == (4, b"e")


def test_after_an_exception_the_file_ends_until_it_is_raised() -> None:
    callbacks = Callbacks(io.BytesIO(b"abcdef"), "media")

    def fail() -> None:
        with callbacks.raising():
            callbacks.seek(-1, io.SEEK_SET)
            assert (callbacks.read(2), callbacks.tell(), callbacks.read(2)) == (b"", -1, b"")
            raise av.FFmpegError(1, "invalid data")

    with pytest.raises(ValueError, match="negative seek"):
        fail()
    assert callbacks.read(2) == b"ab"
