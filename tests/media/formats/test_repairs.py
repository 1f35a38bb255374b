from __future__ import annotations

from types import SimpleNamespace

import pytest

from vatt.media.formats.repairs import tag_length, without_speex_headers


class Packet(bytes):
    """A packet of a stream of Speex or Vorbis."""

    stream = SimpleNamespace(codec_context=SimpleNamespace(name="libspeex"))


class VorbisPacket(Packet):
    stream = SimpleNamespace(codec_context=SimpleNamespace(name="vorbis"))


def test_headers_of_later_speex_streams_are_left_out() -> None:
    audio = [Packet(b"\x34\x11" + bytes([number]) * 68) for number in range(4)]
    headers = [Packet(b"Speex   1.2".ljust(80, b"\0")), Packet(b"\x0d\0\0\0Lavf59.27.100")]
    packets = [*audio[:2], *headers, *audio[2:], Packet()]
    assert list(without_speex_headers(iter(packets))) == [*audio, b""]
    other = [VorbisPacket(packet) for packet in packets]
    assert list(without_speex_headers(iter(other))) == other


@pytest.mark.parametrize(
    ("head", "length"),
    [(b"ID3\4\0\0\0\0\1\2", 140), (b"ID3\4\0", 0), (b"\xff\xfb\x54\xc4\0\0\0\0\0\0", 0), (b"", 0)],
)
def test_lengths_of_tags(head: bytes, length: int) -> None:
    assert tag_length(head) == length
