"""Audio parameters of files whose audio begins after the part that FFmpeg inspects.

FFmpeg inspects the first seconds of MPEG streams. It then knows the codec of audio that begins later, but not its
sample rate, and computes wrong times for its packets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import av

MAX_PROBE = 2**28  # bytes that FFmpeg inspects at most; it keeps them in memory
MARGIN = 2**22  # bytes after the first packet of audio that it also inspects
MAX_FILES = 4096  # size of the cache


@dataclass
class LateAudio:
    """Audio whose parameters FFmpeg does not know.

    Args:
        probe_size: Number of bytes that FFmpeg must inspect to know them; 0 if there is no such audio, or too late.
        parameters: By identifier of the stream, its sample rate in Hz and its layout as decoded.
    """

    probe_size: int = 0
    parameters: dict[int, tuple[int, str]] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's options for opening the file."""
        return {"probesize": str(self.probe_size), "analyzeduration": str(10**15)} if self.probe_size else {}

    def apply(self, container: Any) -> None:
        """Set the parameters of the streams of a PyAV container that are still unknown."""
        for stream in unknown_streams(container):
            if stream.id in self.parameters:
                stream.codec_context.sample_rate, stream.codec_context.layout = self.parameters[stream.id]


def unknown_streams(container: Any) -> list[Any]:
    """Return the audio streams of a PyAV container whose sample rate is not known."""
    streams = (stream for stream in container.streams.audio if stream.codec_context is not None)
    return [stream for stream in streams if not stream.codec_context.sample_rate]


_files: OrderedDict[tuple[Any, ...], LateAudio] = OrderedDict()


def find_late_audio(packets: Iterable[av.Packet], streams: Sequence[Any], key: tuple[Any, ...]) -> LateAudio:
    """Decode the first audio of streams whose sample rate is not known; once per process.

    Args:
        packets: Packets of these streams. If they are read, the file must be opened again.
        streams: PyAV streams.
        key: Path and state of the file.

    Raises:
        OSError, MediaError: The file cannot be read.
    """
    if key not in _files:
        _files[key] = _decode_first(packets, len(streams))
        while len(_files) > MAX_FILES:
            _files.popitem(last=False)
    return _files[key]


def _decode_first(packets: Iterable[av.Packet], num_streams: int) -> LateAudio:
    result, end = LateAudio(), 0
    with suppress(av.FFmpegError):  # a file that cannot be read further
        for packet in packets:
            number, frames = packet.stream.id, []
            if number not in result.parameters and not packet.has_sidedata("encryption_info"):
                with suppress(av.FFmpegError, ValueError):  # the next packet may be whole
                    frames = packet.decode()
            if frames:
                result.parameters[number] = frames[0].sample_rate, frames[0].layout.name
                end = max(end, packet.pos or 0)
            if len(result.parameters) == num_streams:
                break
    result.probe_size = end + MARGIN if result.parameters and end + MARGIN <= MAX_PROBE else 0
    return result
