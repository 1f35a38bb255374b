"""Repairs of packets, layouts and tags with which PyAV and FFmpeg deal incorrectly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

# Tags that are not UTF-8; from version 19 on PyAV does so by itself.
ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
W64_ALIGNMENT = 8
SPEEX = b"Speex   "  # beginning of the first of two headers, Speex manual, section 7.3


def repeats_frame(packet: av.Packet) -> bool:
    """Return whether a packet of video is empty: it repeats the frame before it, as in Theora and VP8."""
    return packet.size == 0 and packet.pts is not None and packet.stream.type == "video"


def replace_custom_layout(decoder: Any) -> None:
    """Replace the channel layout of a decoder if it may be a custom one, by the number of channels alone.

    PyAV frees the channel map of a custom layout with every `AudioLayout` and every frame that refers to it, and so
    more than once. Here it is freed once, and frames get no map.

    Args:
        decoder: Audio decoder that is not open, and whose layout was not read yet.
    """
    layout = decoder.layout
    if layout.nb_channels:
        is_standard = "channels" not in layout.name and "ambisonic" not in layout.name
        decoder.layout = layout.name if is_standard else f"{layout.nb_channels} channels"


def without_guesses(packets: Iterator[av.Packet], is_dts: bool = False) -> Iterator[av.Packet]:
    """Yield packets without the presentation timestamps (``is_dts``: all timestamps) that FFmpeg invents."""
    for packet in packets:
        packet.pts, packet.dts = None, None if is_dts else packet.dts
        yield packet


def is_padding(packet: av.Packet, container: str) -> bool:
    """Return whether a packet is padding: W64 pads its data to 8 bytes, and FFmpeg makes a packet of it.

    Args:
        packet: Packet of audio or video.
        container: FFmpeg's name of the format.
    """
    is_short = container == "w64" and 0 < packet.size < W64_ALIGNMENT
    return is_short and not packet.stream.codec_context.name.startswith("pcm_")


def without_speex_headers(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Yield the packets of an Ogg file without the headers of later Speex streams, which FFmpeg takes for audio."""
    is_second = False
    for packet in packets:
        is_first = packet.stream.codec_context.name.endswith("speex") and memoryview(packet)[:8] == SPEEX
        if not is_first and not is_second:
            yield packet
        is_second = is_first


def without_tag(packet: av.Packet, container: str) -> av.Packet:
    """Return a packet without the tag in front of its frame: in concatenated MP3 files, FFmpeg takes both for a frame.

    Args:
        packet: Packet of the file.
        container: FFmpeg's name of the format.
    """
    length = tag_length(bytes(memoryview(packet)[:10])) if container == "mp3" and packet.size > 10 else 0
    if not 0 < length < packet.size or packet.stream.type != "audio":
        return packet
    result = av.Packet(memoryview(packet)[length:])
    result.stream, result.time_base, result.is_keyframe = packet.stream, packet.time_base, packet.is_keyframe
    result.pts, result.dts, result.duration = packet.pts, packet.dts, packet.duration
    return result


def tag_length(head: bytes) -> int:
    """Return the length of a tag (ID3v2.4.0, section 3.1) by its first 10 bytes; 0 if there is no tag."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
