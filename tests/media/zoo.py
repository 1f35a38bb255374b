"""Media files of every odd kind: numbered frames and a beep at every half second, on one clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.conftest import beeps, numbered_frames

FPS = 25
SECONDS = 6
STEADY_MS = tuple(range(0, 1000 * SECONDS, 1000 // FPS))  # when each frame begins to be shown
UNSTEADY_MS = tuple(int(ms) for ms in np.cumsum([0] + [(20, 60, 33, 110)[i % 4] for i in range(100)]))


def write(
    path: Path,
    codec: str = "libx264",
    shown_ms: Sequence[int] = STEADY_MS,
    sound: str | None = "aac",
    sample_rate: int = 48_000,
    layout: str = "mono",
    sound_starts_s: float = 0.0,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rate: Fraction | int = FPS,
) -> None:
    """One file whose i-th frame shows its number from ``shown_ms[i]`` on, and whose sound begins late if told."""
    numbers = numbered_frames(len(shown_ms))
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=options or {"crf": "16"})
        video.height, video.width, video.pix_fmt = *numbers.shape[1:3], pix_fmt
        steady = rate == FPS and list(shown_ms) == list(STEADY_MS)[: len(shown_ms)]
        base = Fraction(1, rate) if steady else Fraction(1, 1000)
        video.time_base = video.codec_context.time_base = base
        audio = container.add_stream(sound, rate=sample_rate, layout=layout) if sound else None
        for picture, at_ms in zip(numbers, shown_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(Fraction(at_ms, 1000) / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            _write_sound(container, audio, sample_rate, layout, sound_starts_s, shown_ms[-1] / 1000 + 0.04)
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # It makes root's process, and all that this begins, one of real time, for which everything else has to wait.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_frames(path: Path, frames: np.ndarray) -> None:
    """(T, H, W, 3) uint8 pictures as H.264 without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"crf": "16"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())


def _write_sound(
    container: object, audio: object, sample_rate: int, layout: str, starts_s: float, ends_s: float
) -> None:
    wave = beeps(ends_s, sample_rate)[round(starts_s * sample_rate) :]
    channels = av.AudioLayout(layout).nb_channels
    frame = av.AudioFrame.from_ndarray(np.repeat(wave[None], channels, axis=0), format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, round(starts_s * sample_rate), Fraction(1, sample_rate)
    resampler = av.AudioResampler(format=audio.format, layout=layout, rate=audio.rate)
    for part in resampler.resample(frame):
        container.mux(audio.encode(part))
    container.mux(audio.encode())


def cut_without_encoding(source: Path, path: Path, start_s: float) -> None:
    """As cutting tools do: packets from the key frame before ``start_s`` on, and an edit list to hide what is early."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        old.seek(int(start_s * 1e6))
        for packet in old.demux():
            if packet.dts is None:
                continue
            shift = round(start_s / packet.time_base)
            if packet.stream.type == "audio" and packet.pts < shift:
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream]
            new.mux(packet)


def turn(path: Path) -> None:
    """Have an MP4 played a quarter turn clockwise, by the matrix of its track."""
    content = bytearray(path.read_bytes())
    matrix = content.find(b"tkhd") + 4 + 40
    quarter = [0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 48 << 16, 0, 1 << 30]
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in quarter)
    path.write_bytes(content)


def _half(path: Path, suffix: str) -> None:
    whole = path.with_name(f"whole_{path.stem}{suffix}")
    write(whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()


def _late_cut(path: Path) -> None:
    whole = path.with_name("whole_for_edit_list.mp4")
    write(whole)
    cut_without_encoding(whole, path, EDIT_S)
    whole.unlink()


def _remux(path: Path, shift_s: float = 0.0, lost_s: float | None = None) -> None:
    """The packets of another file with all times moved, or without the first packet of sound after a time."""
    whole = path.with_name(f"whole_{path.stem}.mp4")
    write(whole)
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        streams = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None or (packet.stream.type == "audio" and packet.pts < 0):
                continue  # the end; samples before the beginning
            if lost_s is not None and packet.stream.type == "audio" and packet.pts * packet.time_base > lost_s:
                lost_s = None
                continue
            shift = round(shift_s / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, streams[packet.stream]
            new.mux(packet)
    whole.unlink()


def _turned(path: Path) -> None:
    write(path)
    turn(path)


def _narrow(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("png", rate=FPS)  # one of few that go down to a pixel
        video.width, video.height, video.pix_fmt = 1, 48, "rgb24"
        for value in range(50):
            pixels = np.full((48, 1, 3), value * 5, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=48_000, layout="mono")
        _write_sound(container, audio, 48_000, "mono", 0.0, 6.0)


OPEN = "open-gop=1:keyint=20:bframes=3"
EDIT_S = 2.4  # where the file with the edit list was cut from another
# name: how it is made. All have STEADY_MS unless SHOWN_MS says so.
ZOO: dict[str, Callable[[Path], None]] = {
    "h264.mp4": write,
    "h264_29.97.mp4": lambda p: write(
        p, shown_ms=[round(i * 1001 / 30) for i in range(150)], rate=Fraction(30_000, 1001)
    ),
    "long_gop.mp4": lambda p: write(p, options={"crf": "16", "g": "1000", "bf": "3"}),
    "open_gop.mp4": lambda p: write(p, options={"crf": "16", "x264-params": f"{OPEN}:min-keyint=20:scenecut=0"}),
    "recovery.mp4": lambda p: write(p, options={"crf": "16", "x264-params": OPEN}),  # key frames that close no group
    "variable.mp4": lambda p: write(p, shown_ms=UNSTEADY_MS),
    "h264_10bit.mp4": lambda p: write(p, pix_fmt="yuv420p10le"),
    "hevc.mp4": lambda p: write(p, "libx265", options={"crf": "16", "x265-params": "log-level=none"}),
    "hevc_10bit.mkv": lambda p: write(
        p, "libx265", pix_fmt="yuv420p10le", options={"crf": "16", "x265-params": "log-level=none:keyint=30"}
    ),
    "av1_opus.mp4": lambda p: write(p, "libsvtav1", sound="libopus", options={"preset": "10", "crf": "20"}),
    "vp9_opus.webm": lambda p: write(
        p, "libvpx-vp9", sound="libopus", options={"deadline": "realtime", "cpu-used": "8", "crf": "10", "g": "40"}
    ),
    "mpeg2.ts": lambda p: write(p, "mpeg2video", sound="mp2", options={"b": "2M", "bf": "2"}),
    "h264.ts": write,
    "mpeg1.mpg": lambda p: write(p, "mpeg1video", sound="mp2", options={"b": "2M", "bf": "2"}),
    "mjpeg.avi": lambda p: write(p, "mjpeg", sound="pcm_s16le", pix_fmt="yuvj420p", options={"q": "2"}),
    "late_sound.mp4": lambda p: write(p, sound_starts_s=1.0),
    "late_sound.mkv": lambda p: write(p, sound_starts_s=1.0),
    "late_picture.mp4": lambda p: write(p, shown_ms=[ms + 520 for ms in STEADY_MS]),
    "rate_8k.mp4": lambda p: write(p, sample_rate=8000),
    "rate_96k.mp4": lambda p: write(p, sample_rate=96_000),
    "stereo.mp4": lambda p: write(p, layout="stereo"),
    "surround.mkv": lambda p: write(p, sound="ac3", layout="5.1"),
    "no_sound.mp4": lambda p: write(p, sound=None),
    "edit_list.mp4": _late_cut,
    "late_clock.mkv": lambda p: _remux(p, shift_s=1000.0),
    "lost_sound.mkv": lambda p: _remux(p, lost_s=1.2),
}
SHOWN_MS: dict[str, Sequence[float]] = {
    "h264_29.97.mp4": [i * 1001 / 30 for i in range(150)],
    "variable.mp4": UNSTEADY_MS,
    "late_picture.mp4": [ms + 520 for ms in STEADY_MS],
    "edit_list.mp4": [ms - 1000 * EDIT_S for ms in STEADY_MS],
}
# Files of which not everything can be had: what is valid of a clip of the first second (picture, sound), or the reason.
ODD: dict[str, tuple[Callable[[Path], None], tuple[bool, bool] | str]] = {
    "half.mp4": (lambda p: _half(p, ".mp4"), "has no index"),
    "half.mkv": (lambda p: _half(p, ".mkv"), (True, False)),  # its sound ends before the middle
    "empty.mp4": (lambda p: p.write_bytes(b""), "0 bytes"),
    "page.mp4": (lambda p: p.write_text("<html>gone</html>" * 99), "a web page"),
    "no_sound.mp4": (lambda p: write(p, sound=None), (True, False)),
    "sound_only.m4a": (_sound_only, (False, True)),
    "one_frame.mp4": (lambda p: write(p, shown_ms=[0], sound=None), (True, False)),
    "narrow.mov": (_narrow, (True, False)),
    "turned.mp4": (_turned, (True, True)),
    "picture.jpg": (lambda p: Image.fromarray(numbered_frames(6)[5]).save(p, quality=95), (True, False)),
    "picture.png": (lambda p: Image.fromarray(numbered_frames(6)[5]).save(p), (True, False)),
}
