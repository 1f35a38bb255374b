"""Frames by torchcodec, for the files that it reads exactly; sound by PyAV.

torchcodec links to the FFmpeg libraries of the system. In MPEG streams and AVI its times are not those of the frames.
"""

from __future__ import annotations

from typing import Any

import torch

from vatt.media.container import EARLY_S
from vatt.media.demuxing import first_line
from vatt.media.frames import Region, paint
from vatt.media.reader import Media
from vatt.media.timing.timestamps import UNANCHORED
from vatt.media.types import Frames, MediaError

NO_FFMPEG = (
    "torchcodec cannot be loaded ({}); it needs FFmpeg's shared libraries: "
    "apt install ffmpeg, brew install ffmpeg or conda install ffmpeg; or take the default, auto"
)


class TorchCodecMedia(Media):
    """See `Media`.

    Raises:
        MediaError: the file is of a kind that torchcodec reads wrongly, or is no local file.
        ImportError: torchcodec, or the FFmpeg it needs, is not installed.
    """

    def __init__(self, path: str, time_limit_s: float) -> None:
        self._decoder_class = import_torchcodec()
        super().__init__(path, time_limit_s)
        if self._container.format.name in (*UNANCHORED, "avi"):
            self._refuse(f"torchcodec does not read {self._container.format.name} exactly")
        self._refuse_non_square_pixels("torchcodec")
        self._absolute_path = self._path_for("torchcodec") if self._video is not None else ""

    def _read_frames(self, times_s: list[float], region: Region) -> Frames:
        try:
            decoder = self._decoder_class(
                self._absolute_path,
                stream_index=self._video.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
            )
            begins_s, ends_s = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
            asked = [max(at_s + self._clock.origin_s + EARLY_S, begins_s) for at_s in times_s]
            there = [at_s for at_s in asked if at_s < ends_s]
            parts = [decoder.get_frames_played_at(there)] if there else []
            last = decoder.get_frame_at(-1)  # stands in for all later times
            frames = torch.cat([part.data for part in parts] + [last.data[None]] * (len(asked) - len(there)))
            late_s = torch.full((len(asked) - len(there),), float(last.pts_seconds), dtype=torch.float64)
            shown_s = torch.cat([part.pts_seconds.to(torch.float64) for part in parts] + [late_s])
        except (RuntimeError, ValueError, IndexError) as error:
            raise MediaError(self.path, f"torchcodec: {first_line(error)}") from error
        return Frames(paint(frames.numpy(), region), shown_s - self._clock.origin_s, ends_s - self._clock.origin_s)


def import_torchcodec() -> Any:
    """torchcodec's decoder of videos, or how to get it."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder
    except ImportError as error:
        raise ImportError('decoder "torchcodec" needs: pip install "vatt[torchcodec]" (default: auto)') from error
    except (RuntimeError, OSError) as error:  # it is there, but not the FFmpeg it links to
        raise ImportError(NO_FFMPEG.format(first_line(error))) from error
    # From version 0.17 on it is imported without FFmpeg too, and fails at the first file.
    if getattr(torchcodec, "ffmpeg_major_version", "any") is None:
        raise ImportError(NO_FFMPEG.format("it found none"))
    return VideoDecoder
