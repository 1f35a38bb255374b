"""Timestamps of MPEG video frames that share a PES packet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames, read_number
from tests.media.clocks import MIDDLES_S, RATE, numbers, pitch, tone, write, write_joined
from vatt.media.decoding import open_media
from vatt.media.transcode import Encoding, transcode
from vatt.preparation.scan.file import scan_file


@pytest.mark.parametrize("first", [0, 100])
def test_frames_of_program_streams_ascend_in_time(tmp_path: Path, first: int) -> None:
    path, expected = tmp_path / "a.vob", list(range(first, first + 100))
    frames = numbered_frames(200)[first : first + 100]
    # Small pictures, several of which begin in one packet of the stream.
    write(path, "mpeg2video", "mp2", tone(440, 4, RATE), RATE, frames, {"bf": "2", "g": "12", "b": "3M"})
    with open_media(path) as media:
        result = media.all_frames()
        assert result.times_s.numpy() == pytest.approx(np.arange(100) / 25, abs=1e-3)
        assert [read_number(frame) for frame in result.frames] == expected
        assert media.info.video_s == pytest.approx(4.0, abs=1e-3)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.fps) == ("ok", 25.0)
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[:100]) == expected


@pytest.mark.parametrize(
    "offsets_s",
    [(2**33 / 90_000 - 3.36, 2**33 / 90_000 + 0.64), (0, 94), (0, 3.88)],
    ids=["wrap", "forward", "back"],
)
def test_timestamps_that_jump_in_program_streams(tmp_path: Path, offsets_s: tuple[float, float]) -> None:
    """The clock wraps around in the first file, or the second one begins later or earlier than the first one ends."""
    path = write_joined(tmp_path / "a.mpg", "mpeg2video", "mp2", offsets_s, {"bf": "2", "g": "12", "b": "3M"})
    with open_media(path) as media:
        result = media.all_frames()
        assert result.times_s.numpy() == pytest.approx(np.arange(200) / 25, abs=1e-3)
        assert [read_number(frame) for frame in result.frames] == list(range(200))
        assert media.info.duration_s == pytest.approx(8.0, abs=0.02)
    assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(8.0, abs=0.02))
