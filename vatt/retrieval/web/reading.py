"""Functions that decode media in other processes, so that a file which crashes a decoder does not end the server."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from torch import Tensor

from vatt.datasets.loading.batches import Sample
from vatt.datasets.windows import Windows
from vatt.media.decoding import open_media
from vatt.media.frames import Square
from vatt.media.types import MediaInfo
from vatt.structures import Clip

MAX_PIXELS = 2**26  # of a video frame
FRAME = 180  # pixels of a thumbnail


def read_info(path: str, time_limit_s: float) -> MediaInfo:
    """Return what a file holds.

    Raises:
        MediaError: The file cannot be read.
    """
    with open_media(path, time_limit_s=time_limit_s) as media:
        return media.info


def read_frame(source: str, time_s: float, time_limit_s: float) -> bytes:
    """Return the frame of a file at a time as JPEG.

    Args:
        source: See `vatt.media.decoding.open_media`.
        time_s: Time in seconds.
        time_limit_s: Time limit of each read of the file.

    Raises:
        LookupError: The file has no frame at that time, or its frames are too large.
        MediaError: The file cannot be read.
    """
    with open_media(source, time_limit_s=time_limit_s) as media:
        if time_s > media.info.duration_s and not media.info.is_picture:
            raise LookupError("the file ends before that time")
        if media.info.width * media.info.height > MAX_PIXELS:
            raise LookupError("its frames are too large")
        frame = media.frames([time_s], Square(FRAME)).frames[0].permute(1, 2, 0).contiguous().numpy()
    written = io.BytesIO()
    Image.fromarray(frame).save(written, "JPEG", quality=80)
    return written.getvalue()


def read_windows(windows: Windows, clip: Clip) -> list[dict[str, Any]]:
    """Return the windows of a clip with arrays in place of tensors, which would need shared memory."""
    return [_map(sample) for sample in windows.of(clip)]


def _map(sample: Sample) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in sample.items()}
