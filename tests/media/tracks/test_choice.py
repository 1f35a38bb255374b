"""Selection of one of several tracks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition

from tests.conftest import numbered_frames, read_number
from vatt.media.cache import DecodedCache
from vatt.media.decoding import open_media
from vatt.media.demuxing import MediaInput
from vatt.media.frames import Part
from vatt.media.inspection import read_packets
from vatt.media.tracks.listing import list_tracks
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file
from vatt.preparation.scan.report import ScanSummary

RATE, FPS = 32_000, 25
DEFAULT, COMMENT, NONE = Disposition.default, Disposition.comment, Disposition(0)


@dataclass
class Sound:
    """An audio track: a tone of ``hz``, or silence, from a second on, and a constant offset."""

    hz: float = 0.0
    disposition: Disposition = NONE
    starts_s: float = 0.0
    title: str = ""
    bit_rate: int = 64_000
    layout: str = "mono"
    offset: float = 0.0


def write(
    path: Path, sounds: Sequence[Sound], seconds: float = 3.0, codec: str = "aac", first: int = 0, **options: object
) -> Path:
    """Write numbered frames, if there are not too many, and audio tracks side by side."""
    frames = numbered_frames(round(seconds * FPS) + first)[first:]
    with av.open(str(path), "w", **options) as out:
        video = out.add_stream("libx264", rate=FPS, options={"crf": "16", "g": "25"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        tracks = []
        for sound in sounds:
            track = out.add_stream(codec, rate=RATE, layout=sound.layout, bit_rate=sound.bit_rate)
            track.disposition = sound.disposition
            if sound.title:
                track.metadata["title"] = sound.title
            tracks.append(track)
        for number, picture in enumerate(frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            times_s = np.arange(number * RATE // FPS, (number + 1) * RATE // FPS) / RATE
            for sound, track in zip(sounds, tracks, strict=True):
                wave = 0.5 * np.sin(2 * np.pi * sound.hz * times_s) * (times_s >= sound.starts_s) + sound.offset
                out.mux(track.encode(_frame(wave, track, number * RATE // FPS)))
        for track in (video, *tracks):
            out.mux(track.encode())
    return path


def _frame(wave: np.ndarray, track: object, pts: int) -> av.AudioFrame:
    samples = np.repeat(wave[None], track.layout.nb_channels, axis=0)
    samples = samples if track.format.is_planar else samples.T.reshape(1, -1)
    is_float = "flt" in track.format.name
    samples = np.ascontiguousarray(samples.astype(np.float32) if is_float else (samples * 32767).astype(np.int16))
    frame = av.AudioFrame.from_ndarray(samples, format=track.format.name, layout=track.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = RATE, pts, Fraction(1, RATE)
    return frame


def pitch(path: Path | str, start_s: float = 0.5, duration_s: float = 1.0) -> int:
    """The frequency that is read, in Hz, to 10 Hz; 0 for silence."""
    with open_media(path) as media:
        samples = media.waveform(start_s, duration_s, RATE).samples.numpy()
    return _pitch(samples)


def _pitch(samples: np.ndarray) -> int:
    if np.abs(samples).max() < 1e-3:
        return 0
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return round(spectrum.argmax() * RATE / len(samples) / 10) * 10


def rename(path: Path, old: bytes, new: bytes, number: int) -> Path:
    """Rename one of the sample entries of an MP4, as a codec that no decoder knows."""
    data = bytearray(path.read_bytes())
    at = data.find(b"stsd")
    for _ in range(number + 1):
        at = data.find(old, at + 1)
    data[at : at + 4] = new
    descriptor = data.find(b"esds", at)
    if old == b"mp4a" and descriptor > 0:
        data[descriptor : descriptor + 4] = b"free"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts", ".avi"])
@pytest.mark.parametrize("audible", [0, 1, 2])
def test_the_track_with_sound_is_read(tmp_path: Path, suffix: str, audible: int) -> None:
    """Also if a silent one comes first and is the default, as screen recorders write it."""
    sounds = [Sound(440 if number == audible else 0, DEFAULT if number == 0 else NONE) for number in range(3)]
    path = write(tmp_path / f"a{suffix}", sounds, codec="mp2" if suffix in (".avi", ".ts") else "aac")
    assert pitch(path) == 440


def test_the_track_of_a_player_is_read_if_several_are_audible(tmp_path: Path) -> None:
    loud = {"bit_rate": 128_000}
    cases = {
        "first": ([Sound(440), Sound(880, **loud)], 440),
        "default": ([Sound(440, **loud), Sound(880, DEFAULT)], 880),
        "comment": ([Sound(440, COMMENT, **loud), Sound(880)], 880),
        "title": ([Sound(440, title="Director's commentary"), Sound(880)], 880),
        "silent default": ([Sound(0, DEFAULT), Sound(440, COMMENT), Sound(880)], 880),
        "all silent": ([Sound(0), Sound(0)], 0),
    }
    assert {name: pitch(write(tmp_path / f"{name}.mkv", sounds)) for name, (sounds, _) in cases.items()} == {
        name: hz for name, (_, hz) in cases.items()
    }


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mkv", "flac"), ("a.mov", "pcm_s16be")])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_a_constant_offset_is_silence(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    sounds = [Sound(0, DEFAULT, offset=0.3, layout=layout), Sound(440, offset=0.3, layout=layout)]
    path = write(tmp_path / name, sounds, codec=codec)
    tracks = json.loads(scan_file(str(path), 1, 60.0).tracks)
    assert [track.get("silent") for track in tracks[1:]] == [True, False]
    assert [track["chosen"] for track in tracks[1:]] == [False, True]


def test_sound_that_begins_late_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [Sound(0), Sound(440, starts_s=30)], seconds=40)
    assert pitch(path, 35) == 440


def test_all_readers_choose_the_same_track(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [Sound(0, DEFAULT), Sound(440)])
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert pitch(tmp_path / "new.mp4") == 440
    with DecodedCache(tmp_path / "cache", Part(32), RATE).open(path) as cached:
        assert _pitch(cached.waveform(0.5, 1.0, RATE).samples.numpy()) == 440
    assert read_packets(str(path)).audio.index == 2
    assert scan_file(str(path), 3, 60.0).silent is False


def test_a_track_that_cannot_be_decoded_is_skipped(tmp_path: Path) -> None:
    for number in range(2):
        path = write(tmp_path / f"{number}.mp4", [Sound(440, DEFAULT), Sound(880, DEFAULT)])
        assert pitch(rename(path, b"mp4a", b"apac", number)) == (880, 440)[number]


def test_a_file_that_changes_is_tested_again(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    assert pitch(write(path, [Sound(440), Sound(0)])) == 440
    assert pitch(write(path, [Sound(0), Sound(0), Sound(880)])) == 880


def test_more_channels_than_pyav_reads_are_tested(tmp_path: Path) -> None:
    sounds = [Sound(0, layout="7.1", bit_rate=256_000), Sound(440, layout="7.1", bit_rate=256_000)]
    assert pitch(write(tmp_path / "a.mkv", sounds, codec="flac")) == 440


def test_encrypted_tracks_are_an_error(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 2
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    path = write(tmp_path / "a.mp4", [Sound(440), Sound(880)], options=options)
    with open_media(path) as media:
        for read in (lambda: media.waveform(0, 1, RATE), lambda: media.frames([0.0])):
            with pytest.raises(MediaError, match="track is encrypted"):
                read()
    assert scan_file(str(path), 3, 60.0).status == "unreadable"


def test_tracks_are_listed_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [Sound(440, DEFAULT), Sound(0), Sound(0)])
    rename(path, b"mp4a", b"apac", 0)
    with MediaInput(str(path)) as media:
        tracks = list_tracks(media)
    assert [(t.kind, t.codec, t.decodable, t.silent, t.chosen) for t in tracks] == [
        ("video", "h264", None, None, True),
        ("audio", "", False, None, False),
        ("audio", "aac", True, True, True),
        ("audio", "aac", True, True, False),
    ]
    other = write(tmp_path / "b.mkv", [Sound(0, DEFAULT), Sound(440, title="microphone")])
    facts, summary = [scan_file(str(file), 3, 60.0) for file in (path, other)], ScanSummary()
    listed = json.loads(facts[1].tracks)
    assert [track["chosen"] for track in listed] == [True, False, True]
    assert listed[1]["silent"] is True
    assert listed[2] == {
        "index": 2,
        "kind": "audio",
        "codec": "aac",
        "channels": 1,
        "sample_rate": RATE,
        "title": "microphone",
        "default": False,
        "decodable": True,
        "silent": False,
        "chosen": True,
    }
    for each in facts:
        summary.add(each)
    assert (summary.several_audio, summary.undecodable, summary.silent_skipped) == (2, 1, 1)


# ---- transport streams ---------------------------------------------------------------------------------------------


def stream(path: Path, pid: int, starts_s: float, seconds: float, hz: float, program: int = 1) -> bytes:
    """Numbered frames and a tone as a part of a transport stream."""
    options = {
        "mpegts_start_pid": str(pid),
        "mpegts_service_id": str(program),
        "output_ts_offset": str(starts_s),
        "muxdelay": "0",
        "muxpreload": "0",
    }
    first = round(starts_s * FPS)
    return write(path, [Sound(hz)], seconds, "mp2", first, format="mpegts", container_options=options).read_bytes()


@pytest.mark.parametrize("program", [1, 2])
@pytest.mark.parametrize("pids", [(256, 512), (256, 512, 256), (256, 512, 768)])
def test_a_transport_stream_that_continues_under_other_pids_is_read_to_its_end(
    tmp_path: Path, pids: tuple[int, ...], program: int
) -> None:
    tones = (440, 880, 660)[: len(pids)]
    parts = [
        stream(tmp_path / f"{i}.ts", pid, 3.0 * i, 3.0, hz, program if i else 1)
        for i, (pid, hz) in enumerate(zip(pids, tones, strict=True))
    ]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    assert [pitch(path, 3 * i + 1) for i in range(len(pids))] == list(tones)
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(3 * len(pids), abs=0.2)
        times_s = torch.arange(0.02, 3 * len(pids) - 0.2, 0.2).tolist()
        numbers = [read_number(picture) for picture in media.frames(times_s).frames]
        assert media.bad_packets == 0
        assert read_number(media.frames([4.02]).frames[0]) == numbers[20]  # after a seek
    assert numbers == pytest.approx([at_s * FPS for at_s in times_s], abs=4)
    assert numbers == sorted(numbers)
    # FFmpeg holds the last packets of a part back to the end of the file, where they are dropped.
    assert read_packets(str(path)).video.packets >= 75 * len(pids) - 2 * (len(pids) - 1)
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(3 * len(pids), abs=0.2))


def test_parallel_tracks_of_a_transport_stream_are_not_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ts", [Sound(440), Sound(880)], codec="mp2")
    assert pitch(path) == 440
    assert read_packets(str(path)).audio.index == 1


def test_tracks_that_ffmpeg_does_not_know_are_an_error(tmp_path: Path) -> None:
    """FFmpeg looks for tracks at both ends of a file, of which only one is given here."""
    noise = tmp_path / "noise.ts"
    rng = np.random.default_rng(0)
    parts = []
    for number, pid in enumerate((256, 512, 256)):
        options = {"mpegts_start_pid": str(pid), "output_ts_offset": str(4 * number)}
        with av.open(str(noise), "w", format="mpegts", container_options=options) as out:
            video = out.add_stream("mpeg2video", rate=FPS, options={"qscale": "1", "qmin": "1", "qmax": "1"})
            video.bit_rate, video.width, video.height, video.pix_fmt = 100_000_000, 640, 480, "yuv420p"
            for _ in range(50):
                picture = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(video.encode())
        parts.append(noise.read_bytes())
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match=r"the video continues under PID 512, .*remux the file first"):
        open_media(path)
    assert scan_file(str(path), 3, 60.0).status == "unreadable"


def test_a_track_that_continues_in_another_codec_is_an_error(tmp_path: Path) -> None:
    options = {"mpegts_start_pid": "512", "output_ts_offset": "3"}
    other = write(tmp_path / "b.ts", [Sound(440)], codec="ac3", format="mpegts", container_options=options)
    path = tmp_path / "a.ts"
    path.write_bytes(stream(path, 256, 0.0, 3.0, 880) + other.read_bytes())
    with pytest.raises(MediaError, match=r"the audio continues under PID 513 in another codec \(ac3\): split the file"):
        open_media(path)


def test_a_short_sound_between_the_tested_positions_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    with av.open(str(path), "w") as out:
        tracks = [out.add_stream("flac", rate=RATE, layout="mono") for _ in range(2)]
        for start_s in range(120):
            for number, track in enumerate(tracks):
                times_s = start_s + np.arange(RATE) / RATE
                amplitude = 0.5 * (number == 1 and start_s == 62)
                wave = amplitude * np.sin(2 * np.pi * 440 * times_s)
                out.mux(track.encode(_frame(wave, track, start_s * RATE)))
        for track in tracks:
            out.mux(track.encode())
    assert pitch(path, 62.0) == 440
    with MediaInput(str(path)) as media:
        assert [(t.silent, t.chosen) for t in list_tracks(media)] == [(True, False), (False, True)]
