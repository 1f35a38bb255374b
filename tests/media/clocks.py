"""Media files with wrong clocks: concatenated files, and wrong headers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.conftest import numbered_frames, read_number
from vatt.media.decoding import open_media

FPS, SECONDS, RATE = 25, 4, 48_000
MIDDLES_S = [(i + 0.5) / FPS for i in range(2 * SECONDS * FPS)]


def tone(hz: float, seconds: float, rate: int) -> np.ndarray:
    """Return a (S,) float32 sine."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def chirp(seconds: float, rate: int) -> np.ndarray:
    """Return (S,) float32 samples, of which every window is different."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * t + 750 / seconds * t * t))).astype(np.float32)


def write(
    path: Path,
    video: str | None = None,
    sound: str | None = None,
    samples: np.ndarray | None = None,
    rate: int = RATE,
    frames: np.ndarray | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio_start_s: float = 0.0,
) -> bytes:
    """Write frames at 25 fps and mono audio that starts at a time, and return the bytes of the file."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        if video:
            stream = container.add_stream(video, rate=FPS, options=options or {})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.codec_context.thread_count = 1
        layout = "stereo" if sound == "vorbis" else "mono"  # the encoder of FFmpeg supports no other
        audio = container.add_stream(sound, rate=rate, layout=layout) if sound else None
        if audio is not None:
            audio.bit_rate = 8_000 if sound == "libmp3lame" and rate == 8000 else 96_000  # the lowest of MP3
            audio.codec_context.options = {"strict": "experimental"}
        for picture in frames if video else ():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if video:
            container.mux(stream.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, round(audio_start_s * rate), Fraction(1, rate)
            size = audio.codec_context.frame_size
            for part in av.AudioResampler(audio.format, layout, rate, frame_size=size or None).resample(frame):
                container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path.read_bytes()


def write_joined(
    path: Path,
    video: str | None = "libx264",
    sound: str | None = "aac",
    offsets_s: Sequence[float] = (0, 0),
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Concatenate two files of 4 s: frames 0 to 199, and 440 Hz followed by 880 Hz."""
    parts = []
    for number, offset_s in enumerate(offsets_s):
        part = path.with_name(f"part{number}_{path.name}")
        frames = numbered_frames(2 * SECONDS * FPS)[number * SECONDS * FPS :][: SECONDS * FPS]
        samples = tone(440 * (number + 1), SECONDS, RATE)
        of_part = (container_options or {}) | ({"output_ts_offset": str(offset_s)} if offset_s else {})
        parts.append(write(part, video, sound, samples, RATE, frames, options, of_part))
        part.unlink()
    path.write_bytes(b"".join(parts))
    return path


def textured(count: int) -> np.ndarray:
    """(T, 96, 128, 3) uint8: numbers over a moving texture, so that missing references are visible."""
    texture = np.random.default_rng(0).integers(0, 255, (96, 384, 3), dtype=np.uint8)
    frames = np.stack([np.roll(texture, -2 * i, axis=1)[:, :128] for i in range(count)])
    frames[:, :72] = numbered_frames(count, 72, 128)
    return frames


def numbers(path: Path, times_s: Sequence[float]) -> list[int]:
    """Return the numbers of the frames at some times."""
    with open_media(path) as media:
        return [read_number(frame) for frame in media.frames(list(times_s)).frames]


def pitch(path: Path, start_s: float, seconds: float = 0.5) -> int:
    """Return the frequency of the audio in Hz, to 4 Hz."""
    with open_media(path) as media:
        samples = media.waveform(start_s, seconds, 16_000).samples.numpy()
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return round(int(spectrum.argmax()) / seconds / 4) * 4


def write_avi(path: Path, chunks: Sequence[bytes], keys: Sequence[bool], fourcc: bytes = b"XVID") -> Path:
    """Write chunks of video with 64x48 pixels at 25 fps, with an index (idx1)."""

    def chunk(name: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    largest = max(map(len, chunks))
    main = struct.pack("<14I", 40_000, largest * FPS, 0, 16, len(chunks), 0, 1, largest, 64, 48, 0, 0, 0, 0)
    numbers = (0, 0, 0, 0, 1, FPS, 0, len(chunks), largest, 0xFFFFFFFF, 0, 0, 0, 64, 48)
    header = b"vids" + fourcc + struct.pack("<IHHIIIIIIII4H", *numbers)
    format = struct.pack("<IiiHH4sIiiII", 40, 64, 48, 1, 24, fourcc, 64 * 48 * 3, 0, 0, 0, 0)
    stream = chunk(b"LIST", b"strl", chunk(b"strh", header), chunk(b"strf", format))
    data, index = b"movi", b""
    for content, is_key in zip(chunks, keys, strict=True):
        index += b"00dc" + struct.pack("<III", 16 * is_key, len(data), len(content))
        data += chunk(b"00dc", content)
    lists = chunk(b"LIST", b"hdrl", chunk(b"avih", main), stream) + chunk(b"LIST", data) + chunk(b"idx1", index)
    path.write_bytes(chunk(b"RIFF", b"AVI ", lists))
    return path
