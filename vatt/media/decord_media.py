"""Frames by decord, for the files that it reads exactly; sound by PyAV.

decord opens AV1 not at all, hangs on MPEG streams, and counts frames wrongly after a seek into an open group of
pictures and behind an edit list: such files are refused. Its sound would be the whole track, decoded on opening; its
times begin at the first picture, wherever that is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vatt.media.container import EARLY_S
from vatt.media.demuxing import MediaInput, first_line
from vatt.media.frames import Region, paint
from vatt.media.reader import MATROSKA, MP4, Media
from vatt.media.sources.files import state
from vatt.media.types import Frames, MediaError

CODECS = ("h264", "vp8", "vp9", "libvpx-vp9", "mpeg4")


class DecordMedia(Media):
    """See `Media`.

    Raises:
        MediaError: the file is of a kind that decord reads wrongly, or is no local file.
        ImportError: decord is not installed.
    """

    def __init__(self, path: str, time_limit_s: float) -> None:
        self._decord = _import_decord()
        super().__init__(path, time_limit_s)
        kind, codec = self._container.format.name, self.info.video_codec
        if self._video is not None and (kind not in (MP4, MATROSKA) or codec not in CODECS):
            self._refuse(f"decord does not read {codec} in {kind} exactly")
        if len(self._container.streams.video) > 1:
            self._refuse("decord does not choose the same one of several video tracks as a player")
        self._refuse_non_square_pixels("decord")
        self._absolute_path = self._path_for("decord") if self._video is not None else ""

    def _read_frames(self, times_s: list[float], region: Region) -> Frames:
        decord = self._decord
        try:
            reader = decord.VideoReader(self._absolute_path, num_threads=1)
            spans = reader.get_frame_timestamp(range(len(reader))).astype(np.float64)
            if _has_open_groups(self.path, *state(self.path)):
                raise MediaError(self.path, "decord does not read open groups of pictures exactly: use decoder auto")
            if spans[0, 0] < -EARLY_S:
                raise MediaError(self.path, "decord does not read a file with an edit list exactly: use decoder auto")
            spans += self._begins_s("video") - spans[0, 0]
            starts, until_s = spans[:, 0], float(spans[-1, 1])
            index = np.searchsorted(starts, np.asarray(times_s) + EARLY_S, side="right") - 1
            index = index.clip(0, len(starts) - 1)
            frames = reader.get_batch(index.tolist()).asnumpy()
        except MediaError:
            raise
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise MediaError(self.path, f"decord: {first_line(error)}") from error
        return Frames(paint(frames, region), torch.from_numpy(starts[index]), until_s)


@lru_cache(maxsize=100_000)
def _has_open_groups(path: str, size: int, changed_ns: int) -> bool:
    """Whether pictures refer to others before their key frame."""
    with MediaInput(path) as media:
        stream, key = media.container.streams.video[0], None
        for packet in media.demux(stream):
            if packet.pts is None:
                continue
            if packet.is_keyframe:
                key = packet.pts
                if stream.codec_context.name == "h264" and not _is_closing(bytes(packet)):
                    return True
            elif key is not None and packet.pts < key:
                return True
    return False


def _is_closing(packet: bytes) -> bool:
    """Whether an H.264 packet, as MP4 and Matroska hold it, has an IDR picture (ITU-T H.264, table 7-1: type 5)."""
    at = 0
    while at + 4 < len(packet):
        if packet[at + 4] & 0x1F == 5:
            return True
        at += 4 + int.from_bytes(packet[at : at + 4], "big")
    return False


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ImportError('decoder "decord" needs: pip install "vatt[decord]" (default: auto)') from error
    return decord
