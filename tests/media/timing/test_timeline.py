from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames, read_number
from tests.media.clocks import FPS, MIDDLES_S, SECONDS, chirp, numbers, pitch, tone, write, write_joined
from vatt.media.cache import DecodedCache
from vatt.media.decoding import open_media
from vatt.media.frames import Part
from vatt.media.timing import timeline
from vatt.media.timing.clock import Clock
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

CODECS = {"a.aac": "aac", "a.mp3": "libmp3lame", "a.ts": "aac", "a.ac3": "ac3", "a.mp2": "mp2", "a.ogg": "flac"}
MPEG2 = {"b": "2M", "g": "12", "bf": "2"}


def check(path: Path, duration_s: float) -> None:
    """Check the duration of the reader and of a scan."""
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.reason) == ("ok", "")
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(duration_s, abs=0.06)
        assert facts.duration_s == pytest.approx(media.info.duration_s, abs=1e-3)
        info = media.info
    ends_s = [end_s for end_s, there in ((info.video_s, info.has_video), (info.audio_s, info.has_audio)) if there]
    assert max(ends_s) in (pytest.approx(duration_s, abs=0.06), np.inf)


@pytest.mark.parametrize("sound", ["aac", None])
@pytest.mark.parametrize("offsets_s", [(0, 0), (0, 5000), (5000, 1000), (95_440, 0), (95_440, 95_440)])
def test_joined_mpeg_ts(tmp_path: Path, offsets_s: tuple[float, float], sound: str | None) -> None:
    path = write_joined(tmp_path / "a.ts", sound=sound, offsets_s=offsets_s, options={"g": "25"})
    check(path, 8.0)
    assert numbers(path, MIDDLES_S) == list(range(200))
    for start in (10, 90, 98, 103, 150):  # before, at and after the join
        assert numbers(path, MIDDLES_S[start : start + 8]) == list(range(start, start + 8))
    if sound:
        assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]


@pytest.mark.parametrize(
    ("name", "video", "sound"),
    [("a.mpg", "mpeg2video", "mp2"), ("a.ts", "mpeg2video", "mp2"), ("a.avi", "mpeg4", "mp2")],
)
def test_other_joined_files(tmp_path: Path, name: str, video: str, sound: str) -> None:
    path = write_joined(tmp_path / name, video, sound, options=MPEG2)
    check(path, 8.0)
    whole = numbers(path, MIDDLES_S)
    assert whole[:185] == list(range(185))  # FFmpeg loses frames at the end of program streams
    assert numbers(path, MIDDLES_S[110:118]) == list(range(110, 118))
    assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]


def test_joined_matroska(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mkv", sound="libopus", options={"g": "25", "bf": "0"})
    check(path, 8.0)
    whole = numbers(path, MIDDLES_S)
    assert np.abs(np.array(whole) - np.arange(200)).max() <= 1
    assert np.diff(numbers(path, MIDDLES_S[110:118])).tolist() == [1] * 7
    assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mpeg1video"])
@pytest.mark.parametrize("sound", [None, "mp2"])
def test_joined_matroska_with_b_frames(tmp_path: Path, codec: str, sound: str | None) -> None:
    path = write_joined(tmp_path / "a.mkv", codec, sound, options=MPEG2)
    check(path, 8.0)
    assert numbers(path, MIDDLES_S) == list(range(200))
    assert numbers(path, MIDDLES_S[97:105]) == list(range(97, 105))
    with open_media(path) as media:
        assert np.diff(media.all_frames().times_s) == pytest.approx(np.full(199, 1 / FPS), abs=0.025)


@pytest.mark.parametrize("overlap_s", [0.02, 0.06, 0.1, 0.2])
@pytest.mark.parametrize("sound", ["aac", "mp2"])
def test_joined_mpeg_ts_whose_times_overlap(tmp_path: Path, overlap_s: float, sound: str) -> None:
    path = write_joined(tmp_path / "a.ts", "libx264", sound, (0, SECONDS - overlap_s), {"g": "25", "bf": "2"})
    check(path, 8.0)
    assert numbers(path, MIDDLES_S) == list(range(200))
    assert numbers(path, MIDDLES_S[97:105]) == list(range(97, 105))
    assert [pitch(path, start_s) for start_s in (1.0, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def test_fragmented_mp4_with_repeated_headers(tmp_path: Path) -> None:
    """Such as a recorded stream whose segments start with the same header."""
    path = tmp_path / "a.mp4"
    frames = numbered_frames(200)
    data = write(path, "libx264", frames=frames, options={"g": "25", "bf": "0"}, container_options=FRAGMENTED)
    fragments = [match.start() - 4 for match in re.finditer(b"moof", data)]
    path.write_bytes(data[: fragments[4]] + data[: fragments[0]] + data[fragments[4] :])
    check(path, 8.0)
    assert numbers(path, MIDDLES_S) == list(range(200))
    assert numbers(path, MIDDLES_S[110:118]) == list(range(110, 118))


def test_joined_fragmented_mp4_is_an_error(tmp_path: Path) -> None:
    """FFmpeg leaves out the frames of a fragment that is earlier than the one before it."""
    path = write_joined(tmp_path / "a.mp4", sound=None, container_options=FRAGMENTED)
    with pytest.raises(MediaError, match="begins at byte"):
        open_media(path)
    assert "begins at byte" in scan_file(str(path), 3, 60.0).reason


@pytest.mark.parametrize(
    ("name", "video", "sound"),
    [
        ("a.flv", "libx264", "libmp3lame"),
        ("a.wmv", "wmv2", "wmav2"),
        ("a.mp4", "libx264", "aac"),
        ("a.m4a", None, "aac"),
    ],
)
def test_a_second_file_that_ffmpeg_does_not_read_is_an_error(
    tmp_path: Path, name: str, video: str | None, sound: str
) -> None:
    path = write_joined(tmp_path / name, video, sound)
    with pytest.raises(MediaError, match="begins at byte"):
        open_media(path)
    facts = scan_file(str(path), 3, 60.0)
    assert facts.status == "unreadable"
    assert "begins at byte" in facts.reason


@pytest.mark.parametrize("sound", ["libopus", "vorbis", "flac"])
def test_chained_ogg(tmp_path: Path, sound: str) -> None:
    path = write_joined(tmp_path / "a.ogg", None, sound)
    check(path, 8.0)
    assert [pitch(path, start_s) for start_s in (0.2, 3.4, 4.1, 7.0)] == [440, 440, 880, 880]
    with open_media(path) as media:
        whole = media.waveform(0.0, 8.0, 48_000)
        assert (whole.begin, whole.end) == (0, pytest.approx(8 * 48_000, abs=10))
        assert whole.samples.abs().max() < 0.6  # the decoder is reset after the first link
        for start in (1.0, 3.9, 4.4, 6.1):
            part = media.waveform(start, 1.0, 48_000).samples
            first = round(start * 48_000)
            assert (part - whole.samples[first : first + 48_000]).abs().max() < 0.01


@pytest.mark.parametrize("rates", [(44_100, 22_050), (16_000, 48_000)])
@pytest.mark.parametrize(
    ("name", "codec"), [("a.aac", "aac"), ("a.mp3", "libmp3lame"), ("a.ts", "aac"), ("a.ac3", "ac3")]
)
def test_a_sample_rate_that_changes(tmp_path: Path, name: str, codec: str, rates: tuple[int, int]) -> None:
    if codec == "ac3":
        rates = (48_000, 32_000)
    options = {"write_xing": "0", "id3v2_version": "0"} if name == "a.mp3" else {}
    parts = [
        write(tmp_path / name, None, codec, tone(hz, 4.0, rate), rate, container_options=options)
        for hz, rate in zip((440, 880), rates, strict=True)
    ]
    (tmp_path / name).write_bytes(b"".join(parts))
    check(tmp_path / name, 8.08)
    assert [pitch(tmp_path / name, start_s) for start_s in (0.5, 3.0, 4.6, 7.0)] == [440, 440, 880, 880]


@pytest.mark.parametrize("rates", [(48_000, 22_050), (22_050, 48_000)])
@pytest.mark.parametrize(("name", "options"), [("a.latm", {}), ("a.ts", {"mpegts_flags": "latm"})])
def test_a_sample_rate_of_latm_that_changes(
    tmp_path: Path, name: str, options: dict[str, str], rates: tuple[int, int]
) -> None:
    parts = [
        write(tmp_path / name, None, "aac", tone(hz, 4.0, rate), rate, container_options=options)
        for hz, rate in zip((440, 880), rates, strict=True)
    ]
    (tmp_path / name).write_bytes(b"".join(parts))
    check(tmp_path / name, 8.12)
    starts_s = (0.5, 3.0, 4.2, 4.35, 4.5, 4.65, 7.0)  # most packets have no configuration of the decoder
    assert [pitch(tmp_path / name, start_s) for start_s in starts_s] == [440, 440, 880, 880, 880, 880, 880]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.aac", "aac"), ("a.mp3", "libmp3lame"), ("a.ac3", "ac3"), ("a.mp2", "mp2")]
)
def test_estimated_durations(tmp_path: Path, name: str, codec: str) -> None:
    """Noise followed by silence: the number of bytes per second at the beginning is not that of the file."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 44_100)
    samples = np.concatenate([noise, np.zeros(10 * 44_100)]).astype(np.float32)
    options = {"write_xing": "0"} if name == "a.mp3" else {}
    write(tmp_path / name, None, CODECS[name], samples, 44_100, container_options=options)
    check(tmp_path / name, 12.03)


@pytest.mark.parametrize("name", ["a.ac3", "a.mp3", "a.ogg"])
def test_windows_of_raw_audio_are_those_of_the_whole_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, None, CODECS[name], chirp(12.0, 44_100), 44_100)
    with open_media(tmp_path / name) as media:
        whole = media.waveform(0.0, 12.0, 44_100).samples
    for start_s in (2.3, 6.1, 10.4):
        with open_media(tmp_path / name) as media:
            part = media.waveform(start_s, 1.0, 44_100).samples
        first = round(start_s * 44_100)
        assert (part - whole[first : first + 44_100]).abs().max() < 1e-3


def test_asf_whose_clock_begins_late(tmp_path: Path) -> None:
    frames = numbered_frames(SECONDS * FPS)
    options = {"output_ts_offset": "100"}
    write(tmp_path / "a.wmv", "wmv2", "wmav2", tone(440, 4.0, 48_000), frames=frames, options={"b": "4M"},
          container_options=options)  # fmt: skip
    check(tmp_path / "a.wmv", 4.0)
    assert numbers(tmp_path / "a.wmv", MIDDLES_S[:100:8]) == list(range(0, 100, 8))
    transcode(str(tmp_path / "a.wmv"), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[:100:8]) == list(range(0, 100, 8))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.ts", "a.mov"])
def test_a_late_last_frame(tmp_path: Path, name: str) -> None:
    from tests.media.zoo import write as write_at

    write_at(tmp_path / name, shown_ms=[*range(0, 2000, 40), 30_000], sound=None, options={"bf": "2"})
    check(tmp_path / name, 30.04)


def test_joined_files_are_prepared_and_cached_whole(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.ts", options={"g": "25"})
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S) == list(range(200))
    assert [pitch(tmp_path / "new.mp4", start_s) for start_s in (1.0, 7.0)] == [440, 880]
    with DecodedCache(tmp_path / "cache", Part(32), 16_000).open(path) as cached:
        assert len(cached.frames(MIDDLES_S).times_s) == 200
        assert cached.info.duration_s == pytest.approx(8.0, abs=0.05)


def test_the_timeline_is_computed_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = Clock._compute_timeline
    monkeypatch.setattr(
        Clock,
        "_compute_timeline",
        lambda self, demux: opened.append(self._media.path) or original(self, demux),
    )
    monkeypatch.setattr(timeline, "_timelines", type(timeline._timelines)())
    path = tmp_path / "a.aac"
    for seconds in (2.0, 3.0):
        write(path, None, "aac", tone(440, seconds, 44_100), 44_100)
        for _ in range(3):
            with open_media(path) as media:
                assert media.info.duration_s == pytest.approx(seconds, abs=0.06)
    assert len(opened) == 2


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "1"}),
        ("libx264", {"bf": "3"}),
        ("mpeg2video", {"bf": "2", "b": "3M"}),
        ("mpeg4", {"bf": "2"}),
    ],
)
@pytest.mark.parametrize("audio", [None, "wmav2"])
def test_asf_with_b_frames(tmp_path: Path, codec: str, options: dict[str, str], audio: str | None) -> None:
    path = tmp_path / "a.wmv"
    write(path, codec, audio, tone(440, SECONDS, 48_000), 48_000, numbered_frames(100), options)
    with open_media(path) as media:
        frames = media.all_frames()
        assert frames.times_s.numpy() == pytest.approx(np.arange(100) / 25, abs=2e-3)
        assert media.info.duration_s == pytest.approx(4.0, abs=2e-3)
    assert [read_number(frame) for frame in frames.frames] == list(range(100))
    for number in (37, 63):
        assert numbers(path, [(number + 0.5) / 25]) == [number]
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(4.0, abs=2e-3))
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[:100]) == list(range(100))


def test_frames_after_a_seek_in_asf_without_b_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.wmv"
    options = {"bf": "0", "g": "25"}
    write(path, "libx264", "wmav2", tone(440, 8, 48_000), 48_000, numbered_frames(200), options)
    for number in (96, 97, 98, 145):
        assert numbers(path, [MIDDLES_S[number]]) == [number]
    check(path, 8.0)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.h264", "libx264", {"bf": "2"}),
        ("a.m1v", "mpeg1video", {"bf": "2", "b": "3M"}),
        ("a.m2v", "mpeg2video", {"bf": "2", "b": "3M"}),
    ],
)
def test_raw_video(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = tmp_path / name
    write(path, codec, frames=numbered_frames(100), options=options | {"g": "25"})
    check(path, 4.0)
    assert numbers(path, MIDDLES_S[:100]) == list(range(100))
    with open_media(path) as media:
        assert media.all_frames().times_s.numpy() == pytest.approx(np.arange(100) / 25)
        assert media.info.duration_s == pytest.approx(4.0)


def test_the_last_packet_of_audio_may_be_short(tmp_path: Path) -> None:
    path = tmp_path / "a.gxf"  # gives all packets of audio the same duration
    write(path, "mpeg2video", "pcm_s16le", chirp(1.6, 48_000), 48_000, np.zeros((40, 576, 720, 3), np.uint8))
    facts = scan_file(str(path), 2, 60.0)
    with open_media(path) as media:
        assert (facts.status, facts.duration_s) == ("ok", pytest.approx(1.6, abs=1e-3))
        assert media.info.duration_s == pytest.approx(1.6, abs=1e-3)


def test_avi_whose_header_gives_more_audio_than_its_index(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    data = bytearray(write(path, "mpeg4", "libmp3lame", chirp(SECONDS, 48_000), 48_000, numbered_frames(100)))
    at = data.index(b"auds") + 32
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "little") + 50).to_bytes(4, "little")
    path.write_bytes(data)
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(SECONDS, abs=0.06)
        assert scan_file(str(path), 2, 60.0).duration_s == pytest.approx(media.info.duration_s, abs=1e-3)
