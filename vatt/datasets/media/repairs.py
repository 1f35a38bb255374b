"""Repairs of packets, layouts and tags with which PyAV and FFmpeg deal incorrectly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

# Tags that are not UTF-8; from version 19 on PyAV does so by itself.
ANY_TAGS = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
W64_ALIGNMENT = 8


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
