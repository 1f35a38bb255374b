from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames
from tests.datasets.media.clocks import MIDDLES_S, chirp, numbers, pitch, tone, write, write_joined
from vatt.datasets.media import joined
from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.facts import MediaError
from vatt.datasets.media.transcode import Encoding, transcode
from vatt.datasets.scan.file import scan_file

RATE = 16_000


def assert_refused(path: Path, at: int, reason: str) -> None:
    """The reader, the scan and the conversion refuse a file for the same reason."""
    reason = f"a second file begins at byte {at}, {reason}"
    with pytest.raises(MediaError, match=reason):
        open_media(path)
    with pytest.raises(MediaError, match=reason):
        transcode(str(path), path.with_name("new.mp4"), Encoding())
    facts = scan_file(str(path), 2, 60.0)
    assert facts.status == "unreadable"
    assert reason in facts.reason


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.wav", "adpcm_ima_wav"),
        ("a.aiff", "pcm_s16be"),
        ("a.w64", "pcm_s16le"),
        ("a.au", "pcm_s16be"),
        ("a.tta", "tta"),
        ("a.flac", "flac"),
        ("a.voc", "pcm_u8"),
    ],
)
def test_joined_audio_files_are_refused(tmp_path: Path, name: str, codec: str) -> None:
    for rate in (RATE, 2 * RATE):
        first = write(tmp_path / name, None, codec, chirp(1.0, RATE), RATE)
        assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
        second = write(tmp_path / f"second_{name}", None, codec, chirp(1.0, rate), rate)
        (tmp_path / name).write_bytes(first + second)
        assert_refused(tmp_path / name, len(first), "which FFmpeg does not read completely")


@pytest.mark.parametrize("name", ["a.wav", "a.au"])
def test_joined_streamed_audio_is_refused(tmp_path: Path, name: str) -> None:
    data = bytearray(
        write(tmp_path / name, None, "pcm_s16le" if name == "a.wav" else "pcm_s16be", chirp(1, RATE), RATE)
    )
    sizes = (4, data.index(b"data") + 4) if name == "a.wav" else (8,)
    for at in sizes:
        data[at : at + 4] = b"\xff" * 4
    (tmp_path / name).write_bytes(data)
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(data * 2)
    assert_refused(tmp_path / name, len(data), "which FFmpeg does not read completely")


@pytest.mark.parametrize(
    ("name", "video", "audio"), [("a.mxf", "mpeg2video", "pcm_s16le"), ("a.nut", "libx264", "aac")]
)
def test_joined_video_files_are_refused(tmp_path: Path, name: str, video: str, audio: str) -> None:
    data = write(tmp_path / name, video, audio, tone(440, 1, 48_000), 48_000, numbered_frames(25))
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(data * 2)
    assert_refused(tmp_path / name, len(data), "which FFmpeg does not read completely")


def test_joined_matroska_files_without_sizes_are_read(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mkv", container_options={"live": "1"})
    assert numbers(path, MIDDLES_S) == list(range(200))
    assert (pitch(path, 1.0), pitch(path, 5.0)) == (440, 880)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(8.0, abs=0.1))


@pytest.mark.parametrize(
    ("name", "codec", "live"),
    [("a.mka", "pcm_s16le", False), ("a.mka", "aac", False), ("a.mka", "aac", True), ("a.avi", "pcm_s16le", False)],
)
def test_joined_files_of_different_rates_are_refused(tmp_path: Path, name: str, codec: str, live: bool) -> None:
    options = {"live": "1"} if live else {}
    parts = [
        write(tmp_path / name, None, codec, tone(440, 2, rate), rate, container_options=options)
        for rate in (48_000, 44_100)
    ]
    (tmp_path / name).write_bytes(parts[0] * 2)
    assert scan_file(str(tmp_path / name), 2, 60.0).status == "ok"
    (tmp_path / name).write_bytes(b"".join(parts))
    assert_refused(tmp_path / name, len(parts[0]), "whose codecs, rates or sizes differ")
    (tmp_path / name).write_bytes(parts[0] * 2 + parts[1])
    assert_refused(tmp_path / name, 2 * len(parts[0]), "whose codecs, rates or sizes differ")


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4")])
def test_joined_files_of_different_frame_sizes_are_refused(tmp_path: Path, name: str, codec: str) -> None:
    small, large = (
        write(tmp_path / name, codec, frames=np.zeros((25, height, 96, 3), np.uint8)) for height in (64, 128)
    )
    (tmp_path / name).write_bytes(small + large)
    assert_refused(tmp_path / name, len(small), "whose codecs, rates or sizes differ")


def test_beginnings_of_joined_files(tmp_path: Path) -> None:
    frames = numbered_frames(25)
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx")):
        data = write(tmp_path / name, codec, frames=frames)
        size = len(data)
        assert joined.parts(io.BytesIO(data), size) == []
        assert joined.parts(io.BytesIO(data * 3), 3 * size) == [size, 2 * size]
        assert joined.parts(io.BytesIO(data + bytes(999)), size + 999) == []
        assert joined.parts(io.BytesIO(data[:60]), 60) == []


@pytest.mark.parametrize("block", [200, 2**20])
def test_signatures_across_blocks(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "BLOCK", block)
    data = write(tmp_path / "a.flac", None, "flac", chirp(1.0, RATE), RATE)
    assert joined.unread(io.BytesIO(data), len(data), "flac", can_search=True) is None
    assert joined.unread(io.BytesIO(data * 2), 2 * len(data), "flac", can_search=True) == len(data)
