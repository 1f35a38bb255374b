from __future__ import annotations

from pathlib import Path

import av
import pytest

from tests.media.clocks import tone, write
from vatt.media.formats.headers import frame_length


@pytest.mark.parametrize(
    ("name", "codec", "rate", "samples"),
    [
        ("a.aac", "aac", 44_100, 1024),
        ("a.aac", "aac", 8000, 1024),
        ("a.mp3", "libmp3lame", 44_100, 1152),
        ("a.mp3", "libmp3lame", 22_050, 576),
        ("a.mp3", "libmp3lame", 8000, 576),
        ("a.mp2", "mp2", 48_000, 1152),
        ("a.mp2", "mp2", 16_000, 1152),
        ("a.ac3", "ac3", 32_000, 1536),
        ("a.eac3", "eac3", 48_000, 1536),
        ("a.flac", "flac", 44_100, 4608),
        ("a.flac", "flac", 8000, None),
    ],
)
def test_headers_of_audio_frames(tmp_path: Path, name: str, codec: str, rate: int, samples: int | None) -> None:
    write(tmp_path / name, None, codec, tone(440, 1.0, rate), rate)
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.audio[0]
        for packet in list(container.demux(stream))[1:4]:
            decoded = packet.decode()
            result = frame_length(stream.codec_context.codec.canonical_name, packet)
            assert result == (rate, samples or decoded[0].samples)


def test_a_header_of_dts() -> None:
    packet = av.Packet(bytes.fromhex("7ffe8001fc3c3ff0b5e0"))  # 16 blocks of 32 samples at 48 kHz
    assert frame_length("dts", packet) == (48_000, 512)


def test_a_header_of_latm() -> None:
    assert frame_length("aac_latm", av.Packet(bytes.fromhex("56e11b2000118800000000"))) == (48_000, 1024)
    assert frame_length("aac_latm", av.Packet(bytes.fromhex("56e0fcfd00a14c00000000"))) == (0, 0)  # no configuration


@pytest.mark.parametrize("codec", ["aac", "mp3", "ac3", "eac3", "dts", "flac", "opus", "aac_latm"])
def test_packets_without_a_header(codec: str) -> None:
    assert frame_length(codec, av.Packet(bytes(20))) == (0, 0)
    assert frame_length(codec, av.Packet(b"\xff")) == (0, 0)
