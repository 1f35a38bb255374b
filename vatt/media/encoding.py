"""Writes media files: H.264 video and AAC audio in MP4."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vatt.io import atomic_path

# Of libx264. Its macroblock tree reads memory that nobody wrote, so that the bytes were others in every process;
# without it files of the same crf are larger, and better.
X264 = {"preset": "veryfast", "x264-params": "mbtree=0"}


def write_media(
    path: str | Path,
    frames: np.ndarray | None,
    fps: float,
    waveform: np.ndarray | None = None,
    sample_rate: int = 16_000,
    crf: int = 20,
) -> None:
    """Write one file, whole or not at all; the same input gives the same bytes.

    Args:
        path: Path of the file to write.
        frames: (T, H, W, 3) uint8, H and W even; None writes sound only.
        fps: frames per second.
        waveform: (S,) float32 in [-1, 1] mono; None writes no audio track.
        sample_rate: of the waveform in Hz.
        crf: quality of H.264, 0 (lossless) to 51.
    """
    path = Path(path)
    # Without "file:", FFmpeg would parse 12:30.mp4 as a file of the protocol "12".
    with atomic_path(path) as unfinished, av.open(f"file:{unfinished}", "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream(
                "libx264",
                rate=Fraction(fps).limit_denominator(1000),
                options=X264 | {"crf": str(crf)},
            )
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        if video is not None:
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode())
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = sample_rate, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode())
