"""What the benchmarks of reading have in common: files to read, and the plain loop that everything is compared with."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import torch

FOLDER = Path(os.environ.get("VATT_BENCHMARKS", "runs/benchmarks"))
SHARED = Path(os.environ.get("VATT_SHARED", "../shared"))
NUM_FRAMES, FPS, SIDE, SIZE, RATE = 32, 10, 256, 224, 48_000
SECONDS = NUM_FRAMES / FPS


def make_video(path: Path, width: int, height: int, seconds: int, fps: int = 25) -> None:
    """H.264 (veryfast, crf 23) with stereo AAC at 48 kHz: a textured picture that wanders, and noise."""
    rng = np.random.default_rng(0)
    canvas = np.zeros((2 * height, 2 * width, 3), np.float32)
    for step in (64, 16, 4):
        noise = rng.normal(size=(2 * height // step + 1, 2 * width // step + 1, 3)).astype(np.float32)
        canvas += np.kron(noise, np.ones((step, step, 1), np.float32))[: 2 * height, : 2 * width] * step**0.5
    canvas = ((canvas - canvas.min()) / np.ptp(canvas) * 255).astype(np.uint8)
    unfinished = path.with_name(f"part_{path.name}")
    with av.open(str(unfinished), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="stereo")
        for i in range(seconds * fps):
            x, y = int((np.sin(i / 60) + 1) / 2 * width), int((np.cos(i / 47) + 1) / 2 * height)
            picture = np.ascontiguousarray(canvas[y : y + height, x : x + width])
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if i % fps == 0:
                noise = (rng.normal(size=(2, RATE)) * 0.1).astype(np.float32)
                sound = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
                sound.sample_rate, sound.pts = RATE, i // fps * RATE
                container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())
    unfinished.replace(path)


def file_sets() -> dict[str, list[str]]:
    """Files by the name of their set; what has to be made is made once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[str]] = {}
    grid = sorted((SHARED / "data/grid/clips").glob("*.mp4"))
    if grid:
        sets["GRID, 3 s, 180x144"] = [str(path) for path in grid]
    for name, (width, height, seconds) in {
        "480p, 10 min": (854, 480, 600),
        "720p, 3 min": (1280, 720, 180),
    }.items():
        path = FOLDER / f"{height}p_{seconds}s.mp4"
        if not path.is_file():
            print(f"making {path} …", flush=True)
            make_video(path, width, height, seconds)
        sets[name] = [str(path)]
    return sets


def start_of(path: str, draw: float) -> float:
    """Where a clip begins: anywhere from the start of the file to the last second that it fits in."""
    with av.open(path) as container:
        return max(0.0, container.duration / av.time_base - SECONDS) * draw


def bare_clip(
    path: str,
    start_s: float,
    num_frames: int = NUM_FRAMES,
    fps: float = FPS,
    side: int = SIDE,
    size: int = SIZE,
    rate: int = RATE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain loop: PyAV, so many frames with a short side of ``side``, their middle, and mono sound.

    It knows nothing of late streams, damaged packets, missing sound or rotation.
    """
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if start_s:
            container.seek(int(start_s / stream.time_base), stream=stream)
        pictures: list[torch.Tensor] = []
        last = None
        for frame in container.decode(stream):
            while len(pictures) < num_frames and frame.time > start_s + len(pictures) / fps:
                pictures.append(_picture(last or frame, side, size))
            if len(pictures) == num_frames:
                break
            last = frame
        pictures += [_picture(last, side, size)] * (num_frames - len(pictures))
    with av.open(path) as container:
        stream = container.streams.audio[0]
        if start_s:
            container.seek(int(start_s / stream.time_base), stream=stream)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        sound = np.zeros(round(num_frames / fps * rate), np.float32)
        for frame in container.decode(stream):
            at = round((frame.time - start_s) * rate)
            if at >= len(sound):
                break
            for part in resampler.resample(frame):
                samples = part.to_ndarray()[0]
                begin, end = max(at, 0), min(at + len(samples), len(sound))
                if end > begin:
                    sound[begin:end] = samples[begin - at : end - at]
                at += len(samples)
    return torch.stack(pictures), torch.from_numpy(sound)


def _picture(frame: av.VideoFrame, side: int, size: int) -> torch.Tensor:
    scale = side / min(frame.width, frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    pixels = frame.reformat(width, height, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
    top, left = (height - size) // 2, (width - size) // 2
    return torch.from_numpy(pixels[top : top + size, left : left + size]).permute(2, 0, 1)
