from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames
from tests.media.clocks import RATE, chirp, numbers, pitch, tone, write
from vatt.media.audio import decode_rate
from vatt.media.decoding import open_media
from vatt.media.formats import late_audio
from vatt.media.timing.clock import Clock
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

MIDDLES_S = [(i + 0.5) / 25 for i in range(250)]


def write_late(path: Path, video: str, audio: str, start_s: float = 8.0) -> bytes:
    """Write 10 s of numbered frames, and 440 Hz from a time on."""
    samples = tone(440, 10 - start_s, RATE)
    return write(path, video, audio, samples, frames=numbered_frames(250), audio_start_s=start_s)


@pytest.mark.parametrize("probe_limit", [late_audio.MAX_PROBE, 0])
@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [("a.ts", "libx264", "aac"), ("a.ts", "libx264", "mp2"), ("a.mpg", "mpeg2video", "ac3")],
)
def test_audio_that_begins_after_the_part_that_ffmpeg_inspects(
    tmp_path: Path, name: str, video: str, audio: str, probe_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_audio, "MAX_PROBE", probe_limit)
    path = tmp_path / name
    write_late(path, video, audio)
    with open_media(path) as media:
        assert (media.info.sample_rate, media.info.duration_s) == (RATE, pytest.approx(10, abs=0.1))
        waveform = media.waveform(0.0, 10.0, 16_000)
        assert waveform.begin / 16_000 == pytest.approx(8, abs=0.05)
        assert not media.waveform(0.0, 2.0, 16_000).samples.any()
    assert [pitch(path, start_s) for start_s in (8.1, 9.4)] == [440, 440]
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.reason, facts.sample_rate, facts.channels) == ("ok", "", RATE, 1)
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    with open_media(tmp_path / "new.mp4") as media:
        assert media.info.sample_rate == RATE
    assert pitch(tmp_path / "new.mp4", 8.5) == 440
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[195:205]) == list(range(195, 205))


@pytest.mark.parametrize(("name", "video"), [("a.ts", "libx264"), ("a.mpg", "mpeg2video")])
def test_audio_of_the_second_of_two_joined_files(tmp_path: Path, name: str, video: str) -> None:
    path = tmp_path / name
    part, samples = numbered_frames(100), chirp(4.0, RATE)
    path.write_bytes(write(path, video, frames=part) + write(path, video, "mp2", samples, frames=part))
    with open_media(path) as media:
        waveform = media.waveform(4.0, 2.0, RATE)
    begin = waveform.begin
    assert begin / RATE < 0.05
    result, expected = waveform.samples[begin + 4000 : begin + 12_000].numpy(), samples
    shifts = [float(np.vdot(result, expected[at : at + 8000])) for at in range(1000, 8000)]
    assert 1000 + int(np.argmax(shifts)) == pytest.approx(begin + 4000, abs=500)
    assert np.abs(waveform.samples[begin + 1000 : begin + 4000].numpy()).reshape(-1, 500).max(axis=1).min() > 0.1
    assert scan_file(str(path), 3, 60.0).status == "ok"


def test_an_audio_track_without_packets_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    data = write_late(path, "libx264", "aac")
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    audio_pid = 0x101
    path.write_bytes(b"".join(packet for packet in packets if (packet[1] & 31) << 8 | packet[2] != audio_pid))
    with open_media(path) as media:
        assert media.info.sample_rate == 0
        waveform = media.waveform(0.0, 1.0, 16_000)
        assert not waveform.samples.any()
        assert waveform.coverage() == 0
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.reason, facts.audio_codec) == ("ok", "", "")
    transcode(str(path), tmp_path / "new.mp4", Encoding())


def test_an_unknown_sample_rate_is_replaced() -> None:
    assert decode_rate(0, 16_000) == 16_000


def test_invalid_numbers_in_a_header_are_a_media_error(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "end_s", lambda self, stream: 1 / 0)
    with pytest.raises(MediaError, match="division by zero"):
        open_media(video_file)
    monkeypatch.undo()
    with open_media(video_file) as media:
        monkeypatch.setattr("vatt.media.reader.decode_rate", lambda source, target: 1 // 0)
        with pytest.raises(MediaError, match="division"):
            media.waveform(0.0, 1.0, 16_000)
