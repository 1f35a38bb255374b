"""Small good media files of many kinds, and what goes wrong with files, drawn from a seed."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np

FPS, SECONDS, WIDTH, HEIGHT, RATE = 25, 2, 96, 64, 48_000
Change = Callable[[bytes, np.random.Generator, list[bytes]], bytes | None]  # None: there is nothing of that kind in it

# Name: codecs of picture and sound, and options of the container.
GOOD: dict[str, tuple[str | None, str | None, dict[str, str]]] = {
    "h264.mp4": ("libx264", "aac", {}),
    "streamed.mp4": ("libx264", "aac", {"movflags": "faststart"}),
    "pieces.mp4": ("libx264", "aac", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "h264.mkv": ("libx264", "aac", {}),
    "h264.ts": ("libx264", "aac", {}),
    "h264.flv": ("libx264", "aac", {}),
    "hevc.mp4": ("libx265", "aac", {}),
    "vp8.webm": ("libvpx", "libopus", {}),
    "vp9.webm": ("libvpx-vp9", "libopus", {}),
    "av1.mp4": ("libsvtav1", "libopus", {}),
    "mpeg4.avi": ("mpeg4", "libmp3lame", {}),
    "mjpeg.avi": ("mjpeg", "pcm_s16le", {}),
    "mpeg2.mpg": ("mpeg2video", "mp2", {}),
    "prores.mov": ("prores_ks", "pcm_s16le", {}),
    "wmv2.wmv": ("wmv2", "wmav2", {}),
    "sound.wav": (None, "pcm_s16le", {}),
    "sound.flac": (None, "flac", {}),
    "sound.mp3": (None, "libmp3lame", {}),
    "sound.m4a": (None, "aac", {}),
    "sound.opus": (None, "libopus", {}),
    "picture.jpg": ("mjpeg", None, {}),
    "picture.png": ("png", None, {}),
}
QUICK = {
    "libx264": {"preset": "ultrafast", "x264-params": "keyint=20"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=20"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "g": "20"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "g": "20"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1:keyint=20"},
}
PIXELS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "png": "rgb24"}


def write_good(folder: Path) -> dict[str, bytes]:
    """Write one file of each kind of `GOOD`, about 2 s long, and return what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SVT_LOG", "1")  # the encoder of AV1 says errors only
    rng = np.random.default_rng(0)
    coarse = (
        rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8 + FPS * SECONDS, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    )
    pictures = [np.ascontiguousarray(coarse[:, 4 * i : 4 * i + WIDTH]) for i in range(FPS * SECONDS)]
    wave = (0.3 * np.sin(np.arange(RATE * SECONDS) * 0.05) + 0.05 * rng.standard_normal(RATE * SECONDS)).clip(-1, 1)
    found = {}
    for name, (video, audio, options) in GOOD.items():
        still = video is not None and audio is None
        path = folder / name
        _write(path, video, audio, options, pictures[: 1 if still else None], wave.astype(np.float32)[None])
        found[name] = path.read_bytes()
    if hasattr(os, "sched_setscheduler"):  # the encoder of AV1 makes root's process one of real time
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return found


def _write(
    path: Path,
    video: str | None,
    audio: str | None,
    options: dict[str, str],
    pictures: list[np.ndarray],
    wave: np.ndarray,
) -> None:
    still, exact = len(pictures) == 1, {"fflags": "+bitexact"}  # no random numbers in headers
    with av.open(str(path), "w", format="image2" if still else None, options=exact | options) as container:
        seen = heard = None
        if video:
            seen = container.add_stream(video, rate=FPS, options=QUICK.get(video, {}))
            seen.width, seen.height, seen.pix_fmt = WIDTH, HEIGHT, PIXELS.get(video, "yuv420p")
            seen.codec_context.thread_count = 1
        if audio:
            heard = container.add_stream(audio, rate=RATE, layout="mono")
            heard.bit_rate = 64_000
        for picture in pictures if seen else ():
            container.mux(seen.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if seen:
            container.mux(seen.encode())
        if heard:
            sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
            for part in av.AudioResampler(format=heard.format, layout="mono", rate=RATE).resample(sound):
                container.mux(heard.encode(part))
            container.mux(heard.encode())


# ---- files that are cut, mixed up or not media at all ------------------------------------------------------------


def _truncated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data[: int(len(data) * rng.uniform(0.02, 0.98))]


def _beginning_lost(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data[int(rng.integers(1, max(2, len(data) // 2))) :]


def _bits_flipped(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    count = max(1, int(len(data) * 10 ** rng.uniform(-4.5, -1.5)))
    changed[rng.integers(0, len(data), count)] ^= (1 << rng.integers(0, 8, count)).astype(np.uint8)
    return changed.tobytes()


def _header_flipped(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    head = data.find(b"moov") if data.find(b"moov") > 0 else 0  # an MP4 file has its header there
    span = min(600, len(data) - head)
    return data[:head] + _bits_flipped(data[head : head + span], rng, others) + data[head + span :]


def _middle_zeroed(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    begin, length = int(len(data) * rng.uniform(0.1, 0.8)), int(len(data) * rng.uniform(0.02, 0.5))
    return data[:begin] + bytes(min(length, len(data) - begin)) + data[begin + length :]


def _piece_lost(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    begin = int(len(data) * rng.uniform(0.05, 0.9))
    return data[:begin] + data[begin + int(rng.integers(1, max(2, len(data) // 4))) :]


def _pieces_swapped(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    a, b, c = sorted(rng.integers(0, len(data), 3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _swapped_header(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    length = int(rng.choice([8, 32, 256, 2048]))
    return others[rng.integers(len(others))][:length] + data[length:]


def _concatenated(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data + (data if rng.random() < 0.3 else others[rng.integers(len(others))])


def _trailing_garbage(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 50_000)))


def _index_cut(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    """The table of contents is lost, cut off, or renamed: moov of MP4, idx1 of AVI, Cues of Matroska."""
    at = max(data.rfind(tag) for tag in (b"moov", b"idx1", b"\x1c\x53\xbb\x6b"))
    if at < 4:
        return None
    way = rng.integers(3)
    if way == 0:
        return data[: at - 4]
    return (
        data[: at + int(rng.integers(8, max(9, len(data) - at)))] if way == 1 else data[:at] + b"free" + data[at + 4 :]
    )


def _no_media(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    texts = (
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"a dog runs along the beach\n",
        b"\xff\xd8\xff",
    )
    return [texts[0] * 9, texts[1] * 99, texts[2] + rng.bytes(99), rng.bytes(5000), bytes(5000)][rng.integers(5)]


def _empty(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data[: int(rng.integers(0, 2))] if rng.random() < 0.3 else b""


def _wrong_extension(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data  # the name is changed by `mutate`


def _untouched(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    return data


# ---- headers that tell absurd things -----------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 7, 1000, 65_535, 10**6, 2**31 - 1, 2**31, 2**32 - 1)  # as unsigned integers of four bytes
REALS = (0.0, -1.0, 1e-9, 1e9, 1e15, 1e300, float("inf"), float("nan"))


def _put(data: bytes, at: int, new: bytes) -> bytes | None:
    return data[:at] + new + data[at + len(new) :] if 0 <= at <= len(data) - len(new) else None


def _number(rng: np.random.Generator, little: bool = False, size: int = 4) -> bytes:
    value = int(rng.choice(NUMBERS)) % 256**size
    return value.to_bytes(size, "little" if little else "big")


def _field(data: bytes, rng: np.random.Generator, places: list[tuple[bytes, int, str]]) -> bytes | None:
    """Write an absurd value over one of the fields that are found: a tag, bytes from its beginning on, and a kind."""
    found = [(data.find(tag) + offset, kind) for tag, offset, kind in places if data.find(tag) >= 0]
    if not found:
        return None
    at, kind = found[rng.integers(len(found))]
    if kind == "real":
        return _put(data, at, struct.pack(">d", rng.choice(REALS)))
    return _put(data, at, _number(rng, kind.startswith("<"), int(kind[-1])))


def _absurd_duration(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    is_mp4 = data[4:8] in (b"ftyp", b"wide", b"mdat")
    places = [(b"mvhd", 20, ">4"), (b"tkhd", 24, ">4"), (b"mdhd", 20, ">4"), (b"elst", 12, ">4"), (b"stts", 12, ">4")]
    if not is_mp4:
        places = [
            (b"\x44\x89\x88", 3, "real"),  # Matroska: duration
            (b"avih", 24, "<4"),  # AVI: number of frames
            (b"strh", 40, "<4"),
            (b"duration", 9, "real"),  # FLV
            (b"WAVEfmt ", 36, "<4"),  # the size of the samples
            (b"fLaC", 22, ">4"),  # the number of samples
            (b"Info", 8, ">4"),  # MP3: the number of frames
            (b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11", 64, "<4"),  # ASF: how long to play
        ]
    return _field(data, rng, places)


def _absurd_frame_rate(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    places = [
        (b"mdhd", 16, ">4"),  # MP4: ticks a second
        (b"mvhd", 16, ">4"),
        (b"stts", 16, ">4"),  # ticks of a picture
        (b"\x23\xe3\x83\x84", 4, ">4"),  # Matroska: nanoseconds of a picture
        (b"\x2a\xd7\xb1\x83", 4, ">3"),  # nanoseconds of a tick
        (b"avih", 8, "<4"),  # AVI: microseconds of a picture
        (b"strh", 28, "<4"),  # scale
        (b"strh", 32, "<4"),  # rate
        (b"framerate", 10, "real"),  # FLV
    ]
    return _field(data, rng, places)


def _absurd_size(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    entries = (b"avc1\0\0\0\0", b"hvc1", b"hev1", b"av01\0\0\0", b"apc", b"ap4")  # MP4, of each codec
    places = [
        *[(tag, offset, ">2") for tag in entries for offset in (28, 30)],
        (b"tkhd", 80, ">4"),
        (b"\xb0\x81", 2, ">1"),  # Matroska: width, one byte
        (b"\xba\x81", 2, ">1"),
        (b"\xb0\x82", 2, ">2"),
        (b"avih", 40, "<4"),
        (b"strf", 12, "<4"),
        (b"strf", 16, "<4"),
        (b"IHDR", 4, ">4"),
        (b"IHDR", 8, ">4"),
        (b"\xff\xc0\x00\x11", 5, ">2"),  # JPEG, and the pictures of MJPEG
        (b"\xff\xc0\x00\x11", 7, ">2"),
        (b"\x9d\x01\x2a", 3, "<2"),  # VP8
        (b"\x00\x00\x01\xb3", 4, ">3"),  # MPEG-2
        (b"icpf", 12, ">2"),  # ProRes
        (b"icpf", 14, ">2"),
    ]  # fmt: skip
    return _field(data, rng, places)


def _absurd_sample_rate(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    sound = data.find(b"soun")
    if data[4:8] in (b"ftyp", b"wide") and sound >= 0:  # MP4: the second table, that of the sound
        tables = [(data.rfind(b"mdhd"), 16, 4), (data.find(b"mp4a", sound), 28, 4), (data.find(b"Opus", sound), 28, 4)]
        at, offset, size = (tables := [table for table in tables if table[0] >= 0])[rng.integers(len(tables))]
        return _put(data, at + offset, _number(rng, size=size))
    places = [
        (b"\xb5\x88", 2, "real"),  # Matroska
        (b"WAVEfmt ", 16, "<4"),
        (b"WAVEfmt ", 14, "<2"),  # channels
        (b"fLaC", 18, ">4"),
        (b"OpusHead", 9, "<1"),  # channels
        (b"auds", 20, "<4"),  # AVI
        (b"auds", 24, "<4"),
        (b"audiosamplerate", 16, "real"),
    ]
    return _field(data, rng, places)


def _absurd_times(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes | None:
    """The same packets, of which the later ones jump ahead by minutes, months or ages."""
    jump_s, after = 10 ** rng.uniform(1, 10), int(rng.integers(5, 40))
    name, new = str(rng.choice(["matroska", "mpegts", "avi"])), BytesIO()
    try:
        with (
            av.open(BytesIO(data)) as old,
            av.open(new, "w", format=name, options={"fflags": "+bitexact"}) as to,
        ):
            streams = {stream.index: to.add_stream_from_template(stream) for stream in old.streams}
            for number, packet in enumerate(old.demux()):
                if packet.dts is None:
                    continue
                shift = round(jump_s / packet.time_base) if number > after else 0
                packet.pts, packet.dts = (packet.pts or 0) + shift, packet.dts + shift
                packet.stream = streams[packet.stream.index]
                to.mux(packet)
    except (av.FFmpegError, OSError, ValueError, OverflowError):
        return None
    return new.getvalue()


KINDS: dict[str, Change] = {
    "untouched": _untouched,
    "empty": _empty,
    "no media by content": _no_media,
    "wrong extension": _wrong_extension,
    "truncated": _truncated,
    "beginning lost": _beginning_lost,
    "index lost or cut": _index_cut,
    "bits flipped": _bits_flipped,
    "bits of the header flipped": _header_flipped,
    "middle zeroed": _middle_zeroed,
    "piece lost": _piece_lost,
    "pieces swapped": _pieces_swapped,
    "another's header": _swapped_header,
    "two files in one": _concatenated,
    "garbage at the end": _trailing_garbage,
    "absurd duration": _absurd_duration,
    "absurd frame rate": _absurd_frame_rate,
    "absurd size": _absurd_size,
    "absurd sample rate": _absurd_sample_rate,
    "times that jump": _absurd_times,
}


def mutate(good: dict[str, bytes], folder: Path, count: int, seed: int = 0) -> dict[Path, str]:
    """Write mutated files, in turns of every kind; the same seed does the same to the same good files.

    Args:
        good: names and contents of the files that they are made of.
        folder: that gets them.
        count: files.
        seed: of every draw.

    Returns:
        The kind of each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, written = sorted(good), {}
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        rng = np.random.default_rng([seed, number])
        data = None
        while data is None:
            name = names[rng.integers(len(names))]
            data = KINDS[kind](good[name], rng, list(good.values()))
        suffix = Path(name).suffix
        if kind == "wrong extension":
            suffix = str(rng.choice(sorted({Path(other).suffix for other in names} - {suffix})))
        path = folder / f"{number:04d}-{Path(name).stem}{suffix}"
        path.write_bytes(data)
        written[path] = kind
    return written
