from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import numbered_frames
from tests.media.formats.test_damage import write_sound
from tests.media.test_inspection import every, spoil, write_video
from vatt.media.encoding import write_media
from vatt.preparation.scan.file import FileFacts, clip_spans, scan_file


def look(path: Path) -> FileFacts:
    return scan_file(str(path), num_clips=3, time_limit_s=60.0)


def write_wave(path: Path, samples: np.ndarray, sample_rate: int = 8000) -> Path:
    """(S, channels) floats in [-1, 1] as 16-bit PCM."""
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1], 2, sample_rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def test_facts_of_a_whole_file(video_file: Path) -> None:
    facts = look(video_file)
    assert (facts.status, facts.reason) == ("ok", "")
    assert facts.size == video_file.stat().st_size
    assert facts.modified_ns == video_file.stat().st_mtime_ns
    assert "mp4" in facts.container
    assert facts.duration_s == pytest.approx(3.0, abs=0.05)
    assert facts.num_streams == 2
    assert (facts.video_codec, facts.width, facts.height, facts.rotation) == ("h264", 64, 48, 0)
    assert (facts.fps, facts.constant_fps) == (25.0, True)
    assert (facts.audio_codec, facts.sample_rate, facts.channels, facts.layout) == ("aac", 16_000, 1, "mono")
    assert facts.silent is False
    assert abs(facts.start_difference_s) < 0.001
    assert len(facts.content_hash) == 32


def test_levels_are_those_of_the_decoded_sound(tmp_path: Path) -> None:
    t = np.arange(4 * 8000) / 8000
    sine = 0.5 * np.sin(2 * np.pi * 100 * t)
    loud = look(write_wave(tmp_path / "loud.wav", np.stack([sine, sine], axis=1)))
    assert loud.peak_db == pytest.approx(20 * math.log10(0.5), abs=0.02)
    assert loud.rms_db == pytest.approx(20 * math.log10(0.5 / math.sqrt(2)), abs=0.02)
    assert (loud.silent, loud.channels, loud.video_codec, loud.width) == (False, 2, "", None)
    quiet = look(write_wave(tmp_path / "quiet.wav", np.zeros((8000, 1))))
    assert (quiet.status, quiet.silent, quiet.peak_db, quiet.rms_db) == ("ok", True, -120.0, -120.0)
    apart = look(write_wave(tmp_path / "apart.wav", np.stack([sine, -sine], axis=1)))
    assert (apart.silent, apart.cancelled) == (True, True)  # nothing is left in the mono mix that a model reads


def test_silence_and_absence_of_sound_are_not_the_same(tmp_path: Path, silent_file: Path) -> None:
    write_media(tmp_path / "quiet.mp4", numbered_frames(20), 10, np.zeros(32_000, np.float32), 16_000)
    quiet, without = look(tmp_path / "quiet.mp4"), look(silent_file)
    assert (quiet.status, quiet.audio_codec, quiet.silent) == ("ok", "aac", True)
    assert (without.status, without.audio_codec, without.silent, without.sample_rate) == ("ok", "", None, None)


def test_sound_that_comes_late(tmp_path: Path) -> None:
    facts = look(write_video(tmp_path / "late.mp4", every(40), sound_starts_s=1.0, sound_s=3.0))
    assert facts.status == "ok"
    assert facts.start_difference_s == pytest.approx(1.0, abs=0.065)  # AAC puts 64 ms in front
    assert facts.end_difference_s == pytest.approx(2.0, abs=0.065)


def test_a_file_that_was_cut_off_is_as_long_as_what_is_left(tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    whole = write_video(tmp_path / "a.mp4", every(40, 200), 0.0, 8.0, noise=True, container_options=options)
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    facts = look(tmp_path / "cut.mp4")
    assert facts.status == "truncated"
    assert facts.reason.startswith("the header promises 8.0")
    assert 3.0 < facts.duration_s < 5.0
    (tmp_path / "head.mp4").write_bytes(data[: data.index(b"mdat") + 8])
    head = look(tmp_path / "head.mp4")
    assert head.status == "unreadable"
    assert head.reason.startswith("the header promises 8.0")


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", every(40), noise=True)
    assert look(whole).status == "ok"
    facts = look(spoil(whole, tmp_path / "spoilt.mp4", range(21, 29)))
    assert facts.status == "damaged"
    assert "of 50 decoded, the first at " in facts.reason


@pytest.mark.parametrize("delta", [0x7FFFFFFF, 0x00FFFFFF])
def test_implausible_timestamps_are_reported_as_damage(tmp_path: Path, video_file: Path, delta: int) -> None:
    """The timestamp table of an MP4 file gives its frames an impossible duration. Its header is correct."""
    data = bytearray(video_file.read_bytes())
    at = data.index(b"stts") + 16  # the duration of the frames of its first entry
    data[at : at + 4] = delta.to_bytes(4, "big")
    (tmp_path / "ages.mp4").write_bytes(data)
    facts = look(tmp_path / "ages.mp4")
    assert facts.status in ("damaged", "unreadable")
    assert "implausible for its size in bytes" in facts.reason
    assert facts.duration_s is None or facts.duration_s == pytest.approx(3.0, abs=0.1)


def test_what_cannot_be_used_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>not found</html>")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    found = {name: look(tmp_path / f"{name}.mp4") for name in ("empty", "page", "folder", "noise", "nowhere")}
    assert {name: facts.status for name, facts in found.items()} == {
        "empty": "no media",
        "page": "no media",
        "folder": "unreadable",
        "noise": "unreadable",
        "nowhere": "missing",
    }
    assert "0 bytes" in found["empty"].reason
    assert "HTML" in found["page"].reason
    assert all(facts.reason and "\n" not in facts.reason for facts in found.values())


def test_a_still_picture(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "still.png")
    facts = look(tmp_path / "still.png")
    assert (facts.status, facts.width, facts.height, facts.audio_codec) == ("ok", 64, 48, "")
    assert (facts.fps, facts.constant_fps) == (None, None)


def test_clips_reach_from_the_beginning_to_the_end() -> None:
    assert clip_spans(9.0, 3) == [(0.0, math.inf)]
    assert clip_spans(100.0, 3) == [(0.0, 3.2), (48.4, 51.6), (96.8, math.inf)]
    assert clip_spans(100.0, 1) == [(0.0, 3.2)]
    assert clip_spans(0.0, 3) == [(0.0, math.inf)]


def test_a_long_file_is_decoded_in_clips(tmp_path: Path) -> None:
    whole = tmp_path / "long.mp4"
    write_video(whole, every(40, 500), noise=True, sound_starts_s=0.0, sound_s=20.0)
    between = look(spoil(whole, tmp_path / "between.mp4", range(101, 109)))  # at 4 s: before the middle clip
    assert between.status == "ok"
    inside = look(spoil(whole, tmp_path / "inside.mp4", range(241, 249)))  # at 10 s
    assert inside.status == "damaged"
    assert "the first at 9." in inside.reason or "the first at 10." in inside.reason
    assert scan_file(str(tmp_path / "between.mp4"), num_clips=7, time_limit_s=60.0).status == "damaged"


def test_a_length_that_ffmpeg_guesses_is_measured(tmp_path: Path) -> None:
    """AAC without a container: its bits say nothing about its length."""
    noise = 0.5 * np.random.default_rng(0).standard_normal(8 * 16_000).clip(-1, 1).astype(np.float32)
    silence = np.zeros(8 * 16_000, np.float32)
    for name, samples in (("late", [silence, noise]), ("early", [noise, silence])):
        write_sound(tmp_path / f"{name}.aac", "aac", np.concatenate(samples), bit_rate=64_000)
        facts = look(tmp_path / f"{name}.aac")
        assert (facts.status, facts.silent) == ("ok", False)
        assert facts.duration_s == pytest.approx(16.0, abs=0.15)


@pytest.mark.needs_shared
def test_real_files(shared: Path) -> None:
    found = {path.name: look(path) for path in sorted((shared / "data" / "media").iterdir())}
    assert len(found) == 13
    assert {name: facts.status for name, facts in found.items() if facts.status != "ok"} == {"corrupted.mp4": "damaged"}
    assert (found["video_90.mov"].width, found["video_90.mov"].height) == (320, 568)
    assert (found["video_180.mov"].width, found["video_180.mov"].rotation) == (568, 180)
    assert found["nasa_13013.mp4"].num_streams == 6
    assert found["nasa_13013.mp4"].fps == pytest.approx(29.97, abs=0.01)
    assert found["av1_video.mkv"].video_codec == "av1"
    assert found["mmaction_test.avi"].audio_codec == "mp3"
    assert found["flipping_a_pancake.mkv"].duration_s == pytest.approx(10.4, abs=0.1)
    assert all(facts.constant_fps for facts in found.values())
