"""Codecs of all streams of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media.zoo import write
from vatt.media.tracks.streams import Stream, read_streams
from vatt.media.types import MediaError


def test_streams_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "film.mkv", "libx264", [0, 40, 80], pix_fmt="yuv422p10le", sound="ac3")
    file = read_streams(str(tmp_path / "film.mkv"), 5.0)
    assert file.container == "matroska,webm"
    assert not file.is_still
    assert file.size == (tmp_path / "film.mkv").stat().st_size
    assert file.streams == (Stream("video", "h264", "High 4:2:2", "yuv422p10le"), Stream("audio", "ac3"))


def test_a_codec_without_a_decoder_has_no_name(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", "libx264", [0, 40, 80], sound="flac")
    content = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(content.replace(b"fLaC", b"xxxx"))
    assert [(stream.kind, stream.codec) for stream in read_streams(str(tmp_path / "film.mp4"), 5.0).streams] == [
        ("video", "h264"),
        ("audio", ""),
    ]


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"not media" * 100)
    with pytest.raises(MediaError, match=r"film\.mp4: plain text"):
        read_streams(str(tmp_path / "film.mp4"), 5.0)
    with pytest.raises(MediaError, match=r"gone\.mp4: No such file"):
        read_streams(str(tmp_path / "gone.mp4"), 5.0)
