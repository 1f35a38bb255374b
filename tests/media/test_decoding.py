from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
import wave
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch

from tests.conftest import beeps, numbered_frames, read_number
from vatt.media.decoding import Media, open_media
from vatt.media.encoding import write_media
from vatt.media.frames import Part, Square
from vatt.media.types import MediaError

MEDIA = "data/media"


def write_stream(
    path: Path, frames: np.ndarray, pts_ms: list[int], sound: np.ndarray | None = None, sound_starts_s: float = 0.0
) -> None:
    """A file whose frames are shown at given milliseconds and whose sound may start late."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound is not None else None
        for picture, pts in zip(frames, pts_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, round(sound_starts_s * 16_000)
            frame.time_base = Fraction(1, 16_000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


def first_beep(samples: torch.Tensor, sample_rate: int) -> float:
    """Second at which a waveform becomes loud."""
    return int((samples.abs() > 0.2).nonzero()[0]) / sample_rate


def test_info(video_file: Path) -> None:
    with open_media(video_file) as media:
        info = media.info
    assert info.duration_s == pytest.approx(3.0, abs=0.05)
    assert (info.has_video, info.has_audio, info.width, info.height) == (True, True, 64, 48)
    assert (info.fps, info.sample_rate, info.video_codec, info.audio_codec) == (25.0, 16_000, "h264", "aac")


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_are_the_ones_shown_at_the_asked_times(video_file: Path, decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    times_s = [0.0, 0.038, 0.04, 0.5, 1.0, 1.019, 1.9999, 2.0, 2.96]
    with open_media(video_file, decoder) as media:
        shown = media.frames(times_s)
    assert [read_number(frame) for frame in shown.frames] == [0, 0, 1, 12, 25, 25, 50, 50, 74]
    assert shown.times_s.tolist() == pytest.approx([0, 0, 0.04, 0.48, 1.0, 1.0, 2.0, 2.0, 2.96])


def test_one_file_answers_in_any_order(video_file: Path) -> None:
    with open_media(video_file) as media:
        late, early = media.frames([2.5]), media.frames([0.2])
        sound = media.waveform(0.4, 0.4, 16_000)
        again = media.frames([2.5])
    assert [read_number(x.frames[0]) for x in (late, early, again)] == [62, 5, 62]
    assert first_beep(sound.samples, 16_000) == pytest.approx(0.1, abs=0.005)


def test_beyond_the_end_the_last_frame_stands_in_and_says_so(video_file: Path) -> None:
    with open_media(video_file) as media:
        shown = media.frames([2.9, 3.1, 7.0])
    assert [read_number(frame) for frame in shown.frames] == [72, 74, 74]
    assert shown.times_s[-1].item() == pytest.approx(2.96)


def test_frames_are_scaled_with_their_proportions(video_file: Path) -> None:
    with open_media(video_file) as media:
        assert media.frames([1.0], Part(24)).frames.shape == (1, 3, 24, 32)
        assert media.frames([1.0], Part(96)).frames.shape == (1, 3, 48, 64)  # never enlarged


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 48_000, 11_025])
@pytest.mark.parametrize("start_s", [0.0, 0.43, 1.7])
def test_sound_lies_where_the_picture_lies(video_file: Path, start_s: float, sample_rate: int) -> None:
    with open_media(video_file) as media:
        sound = media.waveform(start_s, 1.0, sample_rate)
    assert sound.samples.shape == (sample_rate,)
    assert sound.coverage() == pytest.approx(1.0, abs=0.01)
    expected = beeps(3.0, 16_000)
    t = np.arange(sample_rate) / sample_rate + start_s
    there = np.interp(t, np.arange(len(expected)) / 16_000, expected)
    loud = torch.from_numpy(np.convolve(np.abs(there), np.ones(sample_rate // 100), mode="same"))
    heard = torch.from_numpy(np.convolve(sound.samples.abs().numpy(), np.ones(sample_rate // 100), mode="same"))
    assert torch.corrcoef(torch.stack([loud, heard]))[0, 1] > 0.98


def test_sound_that_ends_early_is_padded_and_flagged(tmp_path: Path) -> None:
    path = tmp_path / "short.mp4"
    write_media(path, numbered_frames(50), 25, beeps(1.0, 16_000), 16_000)
    with open_media(path) as media:
        sound = media.waveform(0.5, 1.0, 16_000)
        nothing = media.waveform(1.5, 0.5, 16_000)
    assert sound.coverage() == pytest.approx(0.5, abs=0.1)
    assert sound.samples[-4_000:].abs().max() == 0
    assert nothing.coverage() == 0
    assert nothing.samples.abs().max() == 0


def test_sound_that_starts_late_is_put_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    write_stream(path, numbered_frames(50), list(range(0, 2000, 40)), beeps(1.0, 16_000, 0.2), sound_starts_s=0.7)
    with open_media(path) as media:
        sound = media.waveform(0.0, 2.0, 16_000)
        shown = media.frames([0.9])
    assert first_beep(sound.samples, 16_000) == pytest.approx(0.9, abs=0.005)
    assert sound.coverage() == pytest.approx(0.5, abs=0.1)
    assert read_number(shown.frames[0]) == 22


def test_picture_that_starts_late_is_put_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    write_stream(path, numbered_frames(25), list(range(500, 1500, 40)), beeps(1.5, 16_000))
    with open_media(path) as media:
        shown = media.frames([0.0, 0.5, 0.99])
        sound = media.waveform(0.0, 1.0, 16_000)
    assert [read_number(frame) for frame in shown.frames] == [0, 0, 12]
    assert shown.times_s.tolist() == pytest.approx([0.5, 0.5, 0.98])
    assert first_beep(sound.samples, 16_000) == pytest.approx(0.5, abs=0.005)


def test_variable_frame_rate(tmp_path: Path) -> None:
    path = tmp_path / "variable.mp4"
    pts_ms = [0, 10, 20, 500, 510, 900, 1400, 1401, 1900, 2000]
    write_stream(path, numbered_frames(10), pts_ms)
    with open_media(path) as media:
        shown = media.frames([0.015, 0.4, 0.505, 1.39, 1.6, 1.95])
    assert [read_number(frame) for frame in shown.frames] == [1, 2, 3, 5, 7, 8]


@pytest.mark.parametrize("container", ["ts", "mkv", "mov"])
def test_other_containers_keep_the_clock(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"clip.{container}"
    write_stream(path, numbered_frames(100), list(range(0, 4000, 40)), beeps(4.0, 16_000))
    with open_media(path) as media:
        shown = media.frames([0.02, 1.98, 2.5, 3.7])
        sound = media.waveform(2.4, 0.4, 16_000)
        unseeked = media.frames([0.02]).frames
    assert [read_number(frame) for frame in shown.frames] == [0, 49, 62, 92]
    assert read_number(unseeked[0]) == 0
    assert first_beep(sound.samples, 16_000) == pytest.approx(0.1, abs=0.005)


def test_stereo_is_mixed_to_the_mean(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    t = np.arange(16_000) / 16_000
    both = np.stack([0.8 * np.sin(2 * np.pi * 440 * t), np.zeros(16_000)]).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(both.T.reshape(1, -1).copy(), format="flt", layout="stereo")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_media(path) as media:
        assert not media.info.has_video
        sound = media.waveform(0.0, 1.0, 16_000)
    assert torch.allclose(sound.samples, torch.from_numpy(both.mean(axis=0)), atol=1e-4)


def test_a_file_without_sound_gives_silence(silent_file: Path) -> None:
    with open_media(silent_file) as media:
        sound = media.waveform(0.0, 0.5, 8_000)
    assert (sound.coverage(), sound.samples.abs().max().item(), len(sound.samples)) == (0.0, 0.0, 4_000)


def test_a_file_without_picture_says_so(sound_file: Path) -> None:
    with open_media(sound_file) as media:
        assert (media.info.has_video, media.info.has_audio) == (False, True)
        with pytest.raises(MediaError, match="no video track"):
            media.frames([0.0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.mp4", b"", "0 bytes"),
        ("page.mp4", b"<html>not a video</html>" * 50, "a web page"),
        ("noise.mp4", bytes(range(256)) * 40, "no readable media"),
    ],
)
def test_what_is_no_media_is_named_with_the_reason(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=says) as caught:
        open_media(tmp_path / name)
    assert caught.value.path.endswith(name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone.mp4: No such file"):
        open_media(tmp_path / "gone.mp4")


def test_a_truncated_file_gives_what_is_there_or_a_reason(tmp_path: Path, video_file: Path) -> None:
    whole = video_file.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(whole[: len(whole) // 2])  # the index stands at the end of an MP4: nothing can be read
    with pytest.raises(MediaError, match="has no index"):
        open_media(path)
    mkv = tmp_path / "whole.mkv"
    write_stream(mkv, numbered_frames(75), list(range(0, 3000, 40)))
    path = tmp_path / "half.mkv"
    path.write_bytes(mkv.read_bytes()[: mkv.stat().st_size // 2])
    with open_media(path) as media:
        assert read_number(media.frames([0.4]).frames[0]) == 10


def test_damaged_packets_are_skipped_and_counted(tmp_path: Path, video_file: Path) -> None:
    content = bytearray(video_file.read_bytes())
    start = content.find(b"mdat") + 1000
    rng = np.random.default_rng(0)
    for place in rng.integers(start, len(content) - 6000, 400):
        content[place] ^= 0xFF
    path = tmp_path / "flipped.mp4"
    path.write_bytes(content)
    with open_media(path) as media:
        try:
            media.frames([k / 10 for k in range(30)])
        except MediaError as error:
            assert "could be decoded" in error.reason  # noqa: PT017
        assert media.bad_packets > 0


@pytest.mark.parametrize("channels", [7, 8, 16])
def test_audio_with_many_channels_is_averaged(tmp_path: Path, channels: int) -> None:
    """PyAV crashes when it converts eight planes."""
    levels = np.arange(1, channels + 1) * 1000
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.tile(levels, 16_000).astype("<i2").tobytes())
    with open_media(tmp_path / "a.wav") as media:
        samples = media.waveform(0.2, 0.5, 16_000).samples
    assert samples.numpy() == pytest.approx(np.full(8000, levels.mean() / 2**15), abs=1e-6)


def test_reading_is_bounded_in_time(video_file: Path) -> None:
    with open_media(video_file, time_limit_s=0.0) as media, pytest.raises(MediaError, match="took longer than 0 s"):
        media.frames([1.0])


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from Linux's /proc")
def test_opening_files_does_not_fill_the_memory(video_file: Path) -> None:
    """benchmarks/loader.py memory opens 5,000; what one file leaks would show in fewer."""

    def resident_mb() -> float:
        gc.collect()  # filters of FFmpeg refer to each other
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    for count in range(1000):
        with open_media(video_file) as media:
            media.frames([0.5, 1.0], Square(32))
            media.waveform(0.5, 0.5, 8000)
        if count == 499:
            before = resident_mb()
    assert resident_mb() - before < 8


def test_an_error_survives_the_way_from_a_worker_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("a.mp4", "broken")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "broken", "a.mp4: broken")


def test_an_unknown_decoder_is_refused(video_file: Path) -> None:
    with pytest.raises(ValueError, match="auto, pyav, decord, torchcodec"):
        open_media(video_file, "vlc")  # type: ignore[arg-type]


def test_times_must_ascend(video_file: Path) -> None:
    with open_media(video_file) as media, pytest.raises(ValueError, match="ascending"):
        media.frames([1.0, 0.5])


def test_a_missing_decord_is_named_with_the_extra(video_file: Path) -> None:
    code = (
        "import sys; sys.modules['decord'] = None\n"
        "from vatt.media.decoding import open_media\n"
        f"try: open_media({str(video_file)!r}, 'decord')\n"
        "except ImportError as error: assert 'vatt[decord]' in str(error); sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


# ---- real files ------------------------------------------------------------------------------------------------


def opened(shared: Path, name: str) -> Media:
    return open_media(shared / MEDIA / name)


@pytest.mark.needs_shared
def test_every_real_file_is_read_or_named_in_time(shared: Path) -> None:
    for path in sorted((shared / MEDIA).iterdir()):
        began = time.monotonic()
        with open_media(path) as media:
            middle = media.info.duration_s / 2
            frames = media.frames([middle, middle + 0.1], Part(64)).frames
            assert frames.float().mean() > 1, path
            media.waveform(middle, 0.5, 16_000)
        assert time.monotonic() - began < 20, path


@pytest.mark.needs_shared
def test_a_seek_into_the_middle_of_a_frame_is_no_damage(shared: Path) -> None:
    with open_media(shared / MEDIA / "grid_bbaf2n.mpg") as media:
        for start_s in (0.0, 0.7, 1.4):
            media.frames([start_s, start_s + 0.5])
            assert media.waveform(start_s, 1.0, 8000).coverage() > 0.9
        assert media.bad_packets == 0
    with open_media(shared / MEDIA / "corrupted.mp4") as media:
        media.frames([i / 4 for i in range(16)])
        assert media.bad_packets > 0


@pytest.mark.needs_shared
def test_rotation_is_applied(shared: Path) -> None:
    with opened(shared, "video_90.mov") as media:
        assert media.frames([0.0]).frames.shape[2:] == (568, 320)
    with opened(shared, "video_180.mov") as media:
        assert media.frames([0.0]).frames.shape[2:] == (320, 568)


@pytest.mark.needs_shared
def test_mpeg_program_streams_start_at_zero(shared: Path) -> None:
    with opened(shared, "grid_bbaf2n.mpg") as media:
        shown = media.frames([0.0, 1.0])
    assert shown.times_s.tolist() == pytest.approx([0.0, 1.0], abs=0.04)


@pytest.mark.needs_shared
def test_damage_in_a_real_file_is_counted(shared: Path) -> None:
    with opened(shared, "corrupted.mp4") as media:
        media.frames([k / 2 for k in range(10)])
        assert media.bad_packets > 0


def test_torchcodec_without_ffmpeg_says_how_to_get_it(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its later versions are imported without, and fail at the first file."""
    module = ModuleType("torchcodec")
    module.decoders, module.ffmpeg_major_version = ModuleType("torchcodec.decoders"), None
    module.decoders.VideoDecoder = object
    monkeypatch.setitem(sys.modules, "torchcodec", module)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module.decoders)
    with pytest.raises(ImportError, match="apt install ffmpeg"):
        open_media(video_file, "torchcodec")
