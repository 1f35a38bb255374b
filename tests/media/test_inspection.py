from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import beeps, numbered_frames
from tests.media.zoo import cut_without_encoding, write
from vatt.media.decoding import open_media
from vatt.media.formats.damage import decode_pictures
from vatt.media.inspection import read_packets
from vatt.media.types import MediaError, NoMedia

EVERYTHING = [(0.0, float("inf"))]


def write_video(
    path: Path,
    times: list[int],
    sound_starts_s: float | None = None,
    sound_s: float = 2.0,
    codec: str = "libx264",
    noise: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    clock: int = 1000,
) -> Path:
    """Frames shown at given ticks (milliseconds), a key frame every 10, and AAC that starts at a given second."""
    pictures = numbered_frames(len(times))
    if noise:
        pictures = np.random.default_rng(0).integers(0, 255, pictures.shape, dtype=np.uint8)
    chosen = {"g": "10", "sc_threshold": "0"} if options is None else options
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = container.add_stream(codec, rate=25, options=chosen)
        video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, clock)
        audio = None if sound_starts_s is None else container.add_stream("aac", rate=16_000, layout="mono")
        for picture, at in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, clock)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(beeps(sound_s, 16_000, 0.2)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, round(sound_starts_s * 16_000)
            frame.time_base = Fraction(1, 16_000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def remux(source: Path, target: Path) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    return target


def spoil(source: Path, target: Path, numbers: Sequence[int], size: int = 40) -> Path:
    """A copy in which ``size`` bytes in the middle of some packets of the picture are noise."""
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        begins = [packets[number].pos + packets[number].size // 2 for number in numbers]
    data, noise = bytearray(source.read_bytes()), np.random.default_rng(1)
    for begin in begins:
        data[begin : begin + size] = noise.integers(0, 255, size, dtype=np.uint8).tobytes()
    target.write_bytes(data)
    return target


def every(step: int, count: int = 50) -> list[int]:
    return [i * step for i in range(count)]


def test_frame_rate_and_key_frames_come_from_the_packets(tmp_path: Path) -> None:
    even = read_packets(str(write_video(tmp_path / "even.mp4", every(40)))).video
    assert even.fps() == pytest.approx(25.0)
    assert even.constant_fps() is True
    assert even.gop_s() == pytest.approx(0.4)  # a key frame every 10 frames
    assert len(even.keys_s) == 5
    assert (even.begin_s, even.end_s) == (pytest.approx(0.0), pytest.approx(2.0))

    times_ms = every(40)[:20] + [800 + 120 * i for i in range(30)]  # from 25 to 8.3 fps
    uneven = read_packets(str(write_video(tmp_path / "uneven.mp4", times_ms))).video
    assert uneven.constant_fps() is False
    assert uneven.gop_s() == pytest.approx(1.2)

    dropped = read_packets(str(write_video(tmp_path / "dropped.mp4", every(40, 26)[:12] + every(40, 26)[13:]))).video
    assert dropped.constant_fps() is False


@pytest.mark.parametrize("rate", [Fraction(30_000, 1001), Fraction(24_000, 1001), Fraction(25)])
def test_times_rounded_by_matroska_are_still_a_constant_rate(tmp_path: Path, rate: Fraction) -> None:
    path = write_video(tmp_path / "rounded.mkv", [round(1000 * i / rate) for i in range(120)])
    video = read_packets(str(path)).video
    assert video.constant_fps() is True
    assert video.fps() == pytest.approx(float(rate), abs=0.02)


def test_tracks_begin_and_end_where_their_decoded_samples_do(tmp_path: Path, video_file: Path) -> None:
    late = write_video(tmp_path / "late.mp4", every(40), sound_starts_s=1.0, sound_s=3.0)
    for path in (late, video_file):
        found = read_packets(str(path))
        with open_media(path) as media:
            sound = media.waveform(0.0, 6.0, 16_000)
        assert found.audio.begin_s - found.video.begin_s == pytest.approx(sound.begin / 16_000, abs=0.002)
        assert found.audio.end_s == pytest.approx(sound.end / 16_000, abs=0.03)
        assert (found.cut, found.problems) == ("", [])
    found = read_packets(str(late))
    assert found.audio.begin_s == pytest.approx(1.0, abs=0.065)  # AAC puts 64 ms in front
    assert found.audio.end_s - found.video.end_s == pytest.approx(2.0, abs=0.065)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.flv"])
def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path, name: str) -> None:
    whole = tmp_path / f"whole_{name}"
    if name == "cut.avi":
        write_video(whole, every(1, 200), codec="mpeg4", options={}, clock=25)
    else:
        options = {"movflags": "faststart"} if name == "cut.mp4" else {}
        write_video(whole, every(40, 200), sound_starts_s=0.0, sound_s=8.0, container_options=options)
    assert read_packets(str(whole)).cut == ""
    data = whole.read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 6 // 10])
    found = read_packets(str(tmp_path / name))
    assert "promises" in found.cut
    assert 2.0 < found.end_s < 7.5


def test_a_wave_file_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "whole.wav"), "wb") as file:
        file.setparams((2, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 2 * 8000 * 3))
    found = read_packets(str(tmp_path / "whole.wav"))
    assert (found.cut, found.audio.sample_rate, found.audio.channels) == ("", 8000, 2)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:50_002])
    assert "cut off" in read_packets(str(tmp_path / "cut.wav")).cut


def test_sound_packets_that_are_missing_are_noticed(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", every(40, 100), sound_starts_s=0.0, sound_s=4.0)
    with av.open(str(whole)) as old, av.open(str(tmp_path / "gap.mkv"), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            lost = packet.stream.type == "audio" and packet.pts is not None and 1.0 < packet.pts * packet.time_base < 2
            if packet.dts is not None and not lost:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    assert read_packets(str(whole)).problems == []
    (problem,) = read_packets(str(tmp_path / "gap.mkv")).problems
    assert "no sound from 1.0" in problem


def test_the_same_packets_have_the_same_hash(tmp_path: Path, video_file: Path) -> None:
    shutil.copy(video_file, tmp_path / "copy.mov")
    same = {read_packets(str(path)).content_hash() for path in (video_file, tmp_path / "copy.mov")}
    same.add(read_packets(str(remux(video_file, tmp_path / "remuxed.mkv"))).content_hash())
    assert len(same) == 1
    mute = tmp_path / "mute.mp4"
    with av.open(str(video_file)) as old, av.open(str(mute), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    assert read_packets(str(mute)).content_hash() not in same
    assert read_packets(str(spoil(video_file, tmp_path / "other.mp4", [3], size=1))).content_hash() not in same


def test_what_is_shown_of_the_same_packets_counts(tmp_path: Path) -> None:
    write(tmp_path / "whole.mp4", sound=None, options={"crf": "16", "g": "1000", "x264-params": "scenecut=0"})
    for start_s in (1.0, 4.0):
        cut_without_encoding(tmp_path / "whole.mp4", tmp_path / f"from_{start_s}.mp4", start_s)
    found = {path.name: read_packets(str(path)) for path in tmp_path.iterdir()}
    assert {packets.video.packets for packets in found.values()} == {150}
    assert len({packets.content_hash() for packets in found.values()}) == 3
    copy = read_packets(str(remux(tmp_path / "from_4.0.mp4", tmp_path / "copy.mov")))
    assert copy.content_hash() == found["from_4.0.mp4"].content_hash()


def test_the_same_bytes_in_other_channels_are_another_sound(tmp_path: Path) -> None:
    import wave

    for channels in (1, 2):
        with wave.open(str(tmp_path / f"{channels}.wav"), "wb") as file:
            file.setparams((channels, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.random.default_rng(0).bytes(64_000))
    found = [read_packets(str(tmp_path / f"{channels}.wav")).content_hash() for channels in (1, 2)]
    assert found[0] != found[1]


def test_tags_that_are_not_utf8_are_no_damage(tmp_path: Path) -> None:
    write(tmp_path / "whole.avi", "mjpeg", sound="pcm_s16le", pix_fmt="yuvj420p", options={"q": "2"})
    data = bytearray((tmp_path / "whole.avi").read_bytes())
    data[data.index(b"ISFT") + 8] = 0xE9
    (tmp_path / "old.avi").write_bytes(data)
    path = str(tmp_path / "old.avi")
    video = read_packets(path).video
    assert (decode_pictures(path, video, EVERYTHING).shown, video.packets) == (150, 150)
    with open_media(path) as media:
        assert media.waveform(0.0, 1.0, 16_000).coverage() == 1.0


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"\n<!DOCTYPE html><html>404</html>" * 50, NoMedia, "HTML"),
        (b"just some words\n" * 50, NoMedia, "plain text"),
        (bytes(5000), NoMedia, "zeros"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 20, MediaError, "moov"),
        (bytes(range(1, 256)) * 20, MediaError, "Invalid data"),
    ],
)
def test_what_is_no_media_is_named(tmp_path: Path, content: bytes, kind: type, said: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=said) as caught:
        read_packets(str(path))
    assert type(caught.value) is kind


def test_subtitles_alone_are_no_media(tmp_path: Path) -> None:
    (tmp_path / "words.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    with pytest.raises(NoMedia, match="without video or audio"):
        read_packets(str(tmp_path / "words.srt"))


def test_damage_that_raises_no_error_is_noticed(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", every(40), noise=True)
    spoilt = spoil(whole, tmp_path / "spoilt.mp4", range(21, 29))
    with av.open(str(spoilt)) as container:
        assert len(list(container.decode(video=0))) == 50  # FFmpeg conceals all of it
    clean = decode_pictures(str(whole), read_packets(str(whole)).video, EVERYTHING)
    assert (clean.shown, clean.tried, clean.bad, clean.first_bad_s) == (50, 50, 0, None)
    found = decode_pictures(str(spoilt), read_packets(str(spoilt)).video, EVERYTHING)
    assert found.tried == 50
    assert 1 <= found.bad <= 8
    assert 0.8 <= found.first_bad_s <= 1.2

    elsewhere = decode_pictures(str(spoilt), read_packets(str(spoilt)).video, [(0.0, 0.4), (1.6, 2.0)])
    assert (elsewhere.shown, elsewhere.bad) == (20, 0)
    there = decode_pictures(str(spoilt), read_packets(str(spoilt)).video, [(0.0, 0.4), (0.8, 1.2)])
    assert there.shown == 20
    assert there.bad >= 1


@pytest.mark.parametrize(("extra", "bad"), [(3, 0), (25, 25)])
def test_pictures_that_do_not_come_out_are_noticed(tmp_path: Path, extra: int, bad: int) -> None:
    whole = write_video(tmp_path / "whole.mp4", every(40))
    video = read_packets(str(whole)).video
    video.times_s = sorted([*video.times_s, *(at_s + 0.02 for at_s in video.times_s[:extra])])  # as if more were there
    found = decode_pictures(str(whole), video, EVERYTHING)
    assert (found.shown, found.bad) == (50, bad)  # a few packets that show nothing are usual in VP8


@pytest.mark.needs_shared
@pytest.mark.parametrize(("name", "rotation"), [("video_90.mov", 270), ("video_180.mov", 180), ("h265_video.mp4", 0)])
def test_rotation_of_real_files(shared: Path, name: str, rotation: int) -> None:
    path = str(shared / "data" / "media" / name)
    assert decode_pictures(path, read_packets(path).video, EVERYTHING).rotation == rotation
