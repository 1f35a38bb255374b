"""What is written anew shows the same numbers at the same times, and beeps when the old file did."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import beeps, numbered_frames, read_number
from tests.media.test_inspection import spoil, write_video
from tests.media.zoo import ODD, SHOWN_MS, STEADY_MS, ZOO, write
from vatt.media.decoding import open_media
from vatt.media.segments import Stretch
from vatt.media.transcode import Encoding, check_whole, transcode
from vatt.media.types import MediaError

FINE, ALL = Encoding(crf=10), Stretch()


def shown_at(name: str, at_s: float) -> int | None:
    """The number that a file of the zoo shows at a time; None where two are so near that rounding decides."""
    shown_ms = np.array(SHOWN_MS.get(name, STEADY_MS))
    if np.abs(shown_ms - 1000 * at_s).min() < 2.5:
        return None
    return int(np.searchsorted(shown_ms, 1000 * at_s, side="right")) - 1


def beeps_of(path: Path, start_s: float, end_s: float) -> list[float]:
    """When beeps begin."""
    with open_media(path) as media:
        sound = media.waveform(start_s, end_s - start_s, 16_000)
    loud = np.convolve((sound.samples.abs() > 0.2).numpy(), np.ones(80), mode="same") > 8
    return [edge / 16_000 + start_s for edge in np.flatnonzero(np.diff(loud.astype(int))) if not loud[edge]]


def packets_of(path: Path, kind: str) -> Iterator[av.Packet]:
    with av.open(str(path)) as container:
        yield from (packet for packet in container.demux(container.streams.best(kind)) if packet.size)


def whole(path: Path, encoding: Encoding = FINE, stretch: Stretch = ALL) -> Path:
    output = path.with_name(f"new_{path.name}.mp4")
    transcode(str(path), output, encoding, stretch)
    return output


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcode")
    for name, make in ZOO.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, math.inf), (0.0, 1.5), (1.303, 3.1), (2.21, math.inf)])
def test_a_stretch_shows_and_sounds_as_it_did(zoo: Path, name: str, start_s: float, end_s: float) -> None:
    new = whole(zoo / name, FINE, Stretch(start_s, end_s))
    hidden_s = 2.4 if name == "edit_list.mp4" else 0.0
    ends_s = min(end_s, SHOWN_MS.get(name, STEADY_MS)[-1] / 1000)
    times_s = np.arange(0.003, ends_s - start_s, 0.0317)
    if name == "late_picture.mp4" and start_s == 0:
        times_s = times_s[times_s > 0.525]
    with open_media(new) as media:
        assert media.info.video_codec == "h264"
        got = media.frames(times_s.tolist())
        assert media.bad_packets == 0
    expected = [shown_at(name, at_s + start_s) for at_s in times_s]
    assert sum(number is None for number in expected) < len(expected) / 4
    found = [read_number(frame) for frame in got.frames]
    assert [n for n, e in zip(found, expected, strict=True) if e is not None] == [e for e in expected if e is not None]
    if name == "no_sound.mp4":
        assert not media.info.has_audio
        return
    begin_s, length_s = start_s + hidden_s, ends_s - start_s
    heard_s = [at_s + begin_s for at_s in beeps_of(new, 0.0, length_s) if at_s > 0.01]  # 0: cut within a beep
    assert max(abs(at_s - round(2 * at_s) / 2) for at_s in heard_s) < 0.005
    expected = set(np.arange(math.ceil(2 * begin_s + 0.1), 2 * min(begin_s + length_s, 5.8) - 0.1).astype(int))
    assert expected - {round(2 * at_s) for at_s in heard_s} <= ({0, 1} if "late_sound" in name else {0})
    assert len(expected) > 1


@pytest.mark.parametrize("name", ["h264.mp4", "variable.mp4", "late_sound.mkv", "late_picture.mp4", "h264.ts"])
def test_times_are_the_old_ones_to_the_millisecond(zoo: Path, name: str) -> None:
    new = whole(zoo / name)
    with open_media(zoo / name) as old, open_media(new) as media:
        a, b = old.all_frames(), media.all_frames()
        assert b.times_s.tolist() == pytest.approx(a.times_s.tolist(), abs=0.001)
        assert b.until_s == pytest.approx(a.until_s, abs=0.001)
        assert media.info.duration_s == pytest.approx(old.info.duration_s, abs=0.05)
        a, b = old.waveform(0, 5, 16_000), media.waveform(0, 5, 16_000)
        assert b.begin / 16_000 == pytest.approx(a.begin / 16_000, abs=0.025)  # as long as AAC's first packet


@pytest.mark.parametrize("gop", [1, 4, 16])
def test_key_frames_are_near(zoo: Path, gop: int) -> None:
    keys = [packet.is_keyframe for packet in packets_of(whole(zoo / "long_gop.mp4", Encoding(gop=gop)), "video")]
    distances = np.diff(np.flatnonzero([*keys, True]))
    assert keys[0]
    assert gop / 2 < distances.max() <= gop


def test_the_same_file_gives_the_same_bytes(zoo: Path) -> None:
    for name in ("h264.mp4", "mjpeg.avi", "vp9_opus.webm"):
        first = whole(zoo / name).read_bytes()
        assert whole(zoo / name).read_bytes() == first


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="MALLOC_PERTURB_ is glibc's")
def test_no_byte_depends_on_what_memory_held_before(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from vatt.media.encoding import write_media\n"
        "from vatt.media.transcode import Encoding, transcode\n"
        "t, y, x = np.mgrid[:40, :256, :320]\n"
        "waves = 127 + 100 * np.sin(x / 17 + t / 5) * np.cos(y / 23 - t / 9)\n"
        "write_media(sys.argv[1] + '/new.mp4', waves[..., None].repeat(3, 3).astype(np.uint8), 25)\n"
        "transcode(sys.argv[1] + '/new.mp4', sys.argv[1] + '/again.mp4', Encoding())\n"
    )
    found = []
    for value in ("1", "170"):
        folder = tmp_path / value
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=os.environ | {"MALLOC_PERTURB_": value}, check=True
        )
        found.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "codec", "copied"),
    [
        ("stereo.mp4", "aac", True),
        ("late_sound.mkv", "aac", True),
        ("av1_opus.mp4", "opus", True),
        ("vp9_opus.webm", "opus", True),
        ("h264.ts", "aac", False),
        ("mpeg2.ts", "aac", False),
        ("mjpeg.avi", "aac", False),
        ("surround.mkv", "aac", False),
    ],
)
def test_sound_is_copied_where_that_is_exact(zoo: Path, name: str, codec: str, copied: bool) -> None:
    new = whole(zoo / name)
    with open_media(new) as media:
        assert (media.info.audio_codec, media.info.sample_rate) == (codec, 48_000)
    old, now = ([bytes(packet) for packet in packets_of(path, "audio")] for path in (zoo / name, new))
    assert (old == now) is copied


@pytest.mark.parametrize(
    ("sound", "layout", "rate", "expected"),
    [
        ("pcm_s16le", "stereo", 44_100, ("stereo", 44_100)),
        ("pcm_s16le", "5.1", 48_000, ("mono", 48_000)),
        ("flac", "mono", 192_000, ("mono", 96_000)),
        ("libmp3lame", "mono", 8_000, ("mono", 8_000)),
        ("ac3", "stereo", 32_000, ("stereo", 32_000)),
    ],
)
def test_rate_and_channels(tmp_path: Path, sound: str, layout: str, rate: int, expected: tuple[str, int]) -> None:
    write(tmp_path / "sound.mkv", sound=sound, layout=layout, sample_rate=rate)
    new = whole(tmp_path / "sound.mkv")
    with av.open(str(new)) as container:
        audio = container.streams.audio[0].codec_context
        assert (audio.layout.name, audio.sample_rate, audio.name) == (*expected, "aac")
    assert beeps_of(new, 0, 5.9) == pytest.approx(beeps_of(tmp_path / "sound.mkv", 0, 5.9), abs=0.005)


def test_mp3_is_copied(tmp_path: Path) -> None:
    write(tmp_path / "mp3.mkv", sound="libmp3lame", sample_rate=44_100)
    new = whole(tmp_path / "mp3.mkv")
    with open_media(new) as media:
        assert media.info.audio_codec.startswith("mp3")
    assert beeps_of(new, 0, 5.9) == pytest.approx(beeps_of(tmp_path / "mp3.mkv", 0, 5.9), abs=0.005)


def test_picture_and_sound_by_themselves_keep_their_times(zoo: Path) -> None:
    for name in ("late_sound.mp4", "late_sound.mkv", "h264.mp4"):
        alone = whole(zoo / name, FINE, Stretch(picture=False))
        with open_media(alone) as media:
            assert not media.info.has_video
        first_s = 1.0 if "late" in name else 0.5
        assert beeps_of(alone, 0, 5.9)[:3] == pytest.approx([first_s, first_s + 0.5, first_s + 1.0], abs=0.005)
    with open_media(whole(zoo / "late_picture.mp4", FINE, Stretch(sound=False))) as media:
        assert not media.info.has_audio
        assert [read_number(f) for f in media.frames([0.0, 0.54, 2.0]).frames] == [0, 0, 37]


def test_a_pause_in_the_sound_stays_a_pause(tmp_path: Path) -> None:
    path, rate = tmp_path / "pause.mkv", 16_000
    wave = (beeps(6.0, rate) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for begin_s, end_s in ((0.0, 1.2), (2.3, 6.0)):
            samples = wave[None, round(begin_s * rate) : round(end_s * rate)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, round(begin_s * rate), Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    for start_s in (0.0, 0.4, 1.7):
        new = whole(path, FINE, Stretch(start_s))
        expected = [at_s - start_s for at_s in (0.5, 1.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5) if at_s > start_s]
        assert beeps_of(new, 0, 5.9 - start_s) == pytest.approx(expected, abs=0.005)


def test_a_segment_after_the_end_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", [40 * i for i in range(50)], sound_starts_s=0.0)
    with pytest.raises(MediaError, match=r"the segment begins at 200 s, the file ends at 2 s"):
        whole(path, stretch=Stretch(200.0, 201.0))


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    clean = write_video(tmp_path / "clean.mp4", [40 * i for i in range(50)], sound_starts_s=0.0, noise=True)
    spoil(clean, tmp_path / "spoilt.mp4", range(21, 29))
    with pytest.raises(MediaError, match=r"spoilt\.mp4: damaged"):
        whole(tmp_path / "spoilt.mp4")
    (tmp_path / "page.mp4").write_text("<html>gone</html>" * 99)
    with pytest.raises(MediaError, match="a web page"):
        whole(tmp_path / "page.mp4")

    sounds = list(packets_of(clean, "audio"))
    content = bytearray(clean.read_bytes())
    for packet in sounds[10:14]:
        content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    (tmp_path / "noise.mp4").write_bytes(content)
    with pytest.raises(MediaError, match="damaged"):  # though its packets could be copied
        whole(tmp_path / "noise.mp4")
    with pytest.raises(MediaError, match="damaged"):
        check_whole(str(tmp_path / "noise.mp4"))


def test_files_that_are_kept_are_decoded_once(tmp_path: Path, sound_file: Path) -> None:
    assert "mp4" in check_whole(str(sound_file))
    ODD["picture.jpg"][0](tmp_path / "picture.jpg")
    check_whole(str(tmp_path / "picture.jpg"))
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(MediaError):
        check_whole(str(tmp_path / "half.png"))


def test_a_full_disk_is_no_fault_of_the_file(zoo: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left") as raised:
        transcode(str(zoo / "av1_opus.mp4"), "/dev/full", Encoding())
    assert not isinstance(raised.value, MediaError)


def test_tracks_that_both_begin_a_few_milliseconds_late_are_kept(tmp_path: Path) -> None:
    path, rate, late_ms = tmp_path / "a.mkv", 48_000, 3
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        video.height, video.width, video.pix_fmt = 192, 256, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sounds = [file.add_stream("pcm_s16le", rate=rate, layout="mono") for _ in range(2)]
        for number, picture in enumerate(numbered_frames(50, 192, 256)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 40 * number + late_ms, Fraction(1, 1000)
            file.mux(video.encode(frame))
        # The silent track begins at 0, and is not read.
        for sound, samples, start_ms in zip(sounds, (np.zeros(2 * rate), beeps(2, rate)), (0, late_ms), strict=True):
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start_ms * rate // 1000, Fraction(1, rate)
            file.mux([*sound.encode(frame), *sound.encode()])
        file.mux(video.encode())
    with open_media(path) as media:
        old = media.all_frames().times_s.tolist()
        assert old[0] == pytest.approx(late_ms / 1000)
    with open_media(whole(path)) as media:
        new = media.all_frames()
    assert [read_number(frame) for frame in new.frames] == list(range(50))
    assert new.times_s.tolist() == pytest.approx([0.0, *old[1:]], abs=0.001)
    assert beeps_of(whole(path), 0.0, 2.0) == pytest.approx(beeps_of(path, 0.0, 2.0), abs=0.001)
