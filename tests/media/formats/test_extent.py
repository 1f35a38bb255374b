from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames
from tests.media.clocks import chirp, pitch, tone, write
from vatt.media.decoding import open_media
from vatt.media.formats import extent
from vatt.media.transcode import Encoding, transcode
from vatt.preparation.scan.file import scan_file

RATE, SECONDS = 16_000, 6


def header(path: Path, size: int, codec: str = "pcm_s16le", tail: bytes = b"", riff: int | None = None) -> Path:
    """A WAV file of 6 s whose header gives another size of the audio."""
    data = bytearray(write(path, None, codec, chirp(SECONDS, RATE), RATE))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    path.write_bytes(data + tail)
    return path


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_mulaw", "pcm_f32le", "adpcm_ima_wav"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 32_000])
@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
def test_wav_is_read_to_its_end(tmp_path: Path, size: int, codec: str, riff: int | None) -> None:
    whole = tmp_path / "whole.wav"
    write(whole, None, codec, chirp(SECONDS, RATE), RATE)
    path = header(tmp_path / "a.wav", size, codec, riff=riff)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.reason) == ("ok", "")
    with open_media(path) as media, open_media(whole) as expected:
        assert media.info.duration_s == pytest.approx(expected.info.duration_s, abs=1e-3)
        assert facts.duration_s == pytest.approx(media.info.duration_s, abs=1e-3)
        assert media.info.audio_s == pytest.approx(media.info.duration_s, abs=1e-3)
        for start_s in (0.0, 4.5):
            pair = [file.waveform(start_s, 1.0, RATE).samples.numpy() for file in (media, expected)]
            assert np.abs(pair[0] - pair[1]).max() < 1e-3


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x7FFFFFDB, 0x7FFFF000, 0x80000000, 0xFFFFFFF0, 0xFFFFFFDB])
def test_other_placeholders_of_the_size_of_wav(tmp_path: Path, size: int) -> None:
    check_whole(header(tmp_path / "a.wav", size))


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
@pytest.mark.parametrize("size", [0, 32_000, None])
def test_wav_with_64_bit_sizes_is_read_to_its_end(tmp_path: Path, size: int | None, name: bytes) -> None:
    path = tmp_path / "a.wav"
    samples = chirp(SECONDS, RATE)
    data = bytearray(write(path, None, "pcm_s16le", samples, RATE, container_options={"rf64": "always"}))
    data[:4] = name
    at = data.index(b"ds64") + 8
    if size == 0:
        data[at : at + 24] = bytes(24)
    elif size:
        data[at + 8 : at + 16] = struct.pack("<Q", size)
    path.write_bytes(data)
    check_whole(path)


def test_wav_with_64_bit_sizes_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    data = write(path, None, "pcm_s16le", chirp(SECONDS, RATE), RATE, container_options={"rf64": "always"})
    path.write_bytes(data[:100_001])
    assert scan_file(str(path), 2, 60.0).status == "truncated"


def check_whole(path: Path) -> None:
    """Check that reader, scan and prepare read all 6 s of a chirp."""
    facts, samples = scan_file(str(path), 2, 60.0), chirp(SECONDS, RATE)
    assert (facts.status, facts.reason, facts.duration_s) == ("ok", "", pytest.approx(SECONDS, abs=1e-3))
    with open_media(path) as media:
        assert (media.info.duration_s, media.info.audio_s) == pytest.approx((SECONDS, SECONDS), abs=1e-3)
        for start_s in (0.0, 4.5):
            result = media.waveform(start_s, 1.0, RATE).samples.numpy()
            assert np.abs(result - samples[round(start_s * RATE) :][:RATE]).max() < 1e-3
    transcode(str(path), path.with_name("new.mp4"), Encoding())
    with open_media(path.with_name("new.mp4")) as media:
        assert media.info.duration_s == pytest.approx(SECONDS, abs=0.1)


def test_chunks_after_the_audio_of_wav_are_not_audio(tmp_path: Path) -> None:
    size = 2 * RATE * SECONDS
    chunk = b"LIST" + struct.pack("<I", 30_000) + b"INFOISFT" + struct.pack("<I", 29_988) + b"a" * 29_988
    for number, tail in enumerate((chunk, chunk + chunk, b"TAG" + bytes(125), bytes(100))):
        path = header(tmp_path / f"{number}.wav", size, tail=tail)
        facts = scan_file(str(path), 2, 60.0)
        assert (facts.status, facts.duration_s) == ("ok", pytest.approx(SECONDS, abs=1e-3))


@pytest.mark.parametrize("name", ["a.caf", "a.au"])
def test_other_streamed_audio_is_whole(tmp_path: Path, name: str) -> None:
    data = bytearray(write(tmp_path / name, None, "pcm_s16be", chirp(SECONDS, RATE), RATE))
    at, count = (data.index(b"data") + 4, 8) if name == "a.caf" else (8, 4)
    data[at : at + count] = b"\xff" * count
    (tmp_path / name).write_bytes(data)
    facts = scan_file(str(tmp_path / name), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(SECONDS, abs=1e-3))
    with open_media(tmp_path / name) as media:
        assert media.info.duration_s == pytest.approx(SECONDS, abs=1e-3)


def test_packets_without_timestamps_do_not_end_early(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, None, "adpcm_swf", tone(440, SECONDS, 22_050), 22_050)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.reason) == ("ok", "")
    with open_media(path) as media:
        assert facts.duration_s == pytest.approx(media.info.duration_s, abs=1e-3)
        assert media.waveform(0.0, SECONDS, RATE).coverage() == 1
    assert pitch(path, 4.0) == 440


def test_a_wav_file_that_was_cut_off_is_not_open_ended(tmp_path: Path) -> None:
    path = header(tmp_path / "a.wav", 2 * RATE * SECONDS)
    path.write_bytes(path.read_bytes()[:100_001])
    assert scan_file(str(path), 2, 60.0).status == "truncated"


def test_chained_files_are_recognized(tmp_path: Path) -> None:
    data = write(tmp_path / "a.ogg", None, "libopus", tone(440, 3.0, 48_000), 48_000)
    assert extent.links(io.BytesIO(data)) == []
    assert extent.links(io.BytesIO(data * 3)) == [len(data), 2 * len(data)]
    assert extent.links(io.BytesIO(b"")) == []


@pytest.mark.parametrize("block", [7, 64, 2**20])
def test_pages_of_ogg_across_blocks(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent, "BLOCK", block)
    data = write(tmp_path / "a.ogg", None, "libopus", tone(440, 0.5, 48_000), 48_000)
    assert extent.links(io.BytesIO(data)) == []
    assert extent.links(io.BytesIO(data * 2)) == [len(data)]


def test_durations_of_headers(tmp_path: Path) -> None:
    data = write(tmp_path / "a.mp4", "libx264", frames=numbered_frames(25))
    assert extent.movie_duration_s(io.BytesIO(data), len(data)) == pytest.approx(1.0)
    assert extent.movie_duration_s(io.BytesIO(data[:40]), 40) == 0
    data = write(tmp_path / "a.mp3", None, "libmp3lame", tone(440, 3.0, 44_100), 44_100)
    assert extent.mp3_samples(io.BytesIO(data)) == pytest.approx(3 * 44_100, abs=3000)
    assert extent.mp3_samples(io.BytesIO(bytes(5000))) == 0
    data = write(tmp_path / "a.flv", "flv", frames=numbered_frames(25))
    assert extent.flv_is_complete(io.BytesIO(data), len(data))
    assert not extent.flv_is_complete(io.BytesIO(data[:-50]), len(data) - 50)


def test_the_header_of_flv_gives_the_duration_of_the_last_frame(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.flv", "flv", frames=numbered_frames(25)))
    at = data.index(b"duration\0") + 9
    data[at : at + 8] = struct.pack(">d", 20.0)
    (tmp_path / "a.flv").write_bytes(data)
    facts = scan_file(str(tmp_path / "a.flv"), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(20.0, abs=0.1))
    with open_media(tmp_path / "a.flv") as media:
        assert media.info.end_s(["video"]) == pytest.approx(facts.duration_s, abs=1e-3)
    (tmp_path / "cut.flv").write_bytes(data[: len(data) * 9 // 10])
    assert scan_file(str(tmp_path / "cut.flv"), 2, 60.0).status == "truncated"
