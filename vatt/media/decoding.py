"""The one door to media: `open_media`, whichever decoder reads the frames.

- ``auto`` is ``pyav`` for every file: it is right on all that were tried, and none of the others was faster anywhere
  (docs/performance.md).
- ``decord`` and ``torchcodec`` read the frames of local files, and refuse the kinds that they read wrongly, such as
  videos with non-square pixels.

Audio is always read by PyAV. No file can make a decoder open another file, a URL or a port: see
`vatt.media.formats.allowed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vatt.media.decord_media import DecordMedia
from vatt.media.reader import Media
from vatt.media.torchcodec_media import TorchCodecMedia

Decoder = Literal["auto", "pyav", "decord", "torchcodec"]
READERS: dict[str, type[Media]] = {
    "auto": Media,
    "pyav": Media,
    "decord": DecordMedia,
    "torchcodec": TorchCodecMedia,
}

TIME_LIMIT_S = 60.0  # for one call; a clip takes milliseconds


def open_media(path: str | Path, decoder: Decoder = "auto", time_limit_s: float = TIME_LIMIT_S) -> Media:
    """Open a media file; use it in a ``with`` statement.

    Args:
        path: the file, a clip in a shard, or a URL: see `vatt.media.sources.files`.
        decoder: what reads the frames: see the head of this module.
        time_limit_s: Time limit of opening the file (clamped to between 1 and 60 s), and of each call to
            `Media.frames` and `Media.waveform`. Decoding of a single frame is not interrupted; decord and torchcodec
            have no limit.

    Raises:
        MediaError: The file is missing, empty, or not a regular media file; its format is not supported, or refers to
            other files (playlists, session descriptions, reference movies); it would need gigabytes of memory, or takes
            too long to open; or the decoder is known to read such files incorrectly.
        ImportError: the decoder is not installed.
    """
    if decoder not in READERS:
        raise ValueError(f"decoder must be one of {', '.join(READERS)}, not {decoder!r}")
    return READERS[decoder](str(path), time_limit_s)
