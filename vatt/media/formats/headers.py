"""Sample rate and number of samples in the headers of audio frames, which may change within a file."""

from __future__ import annotations

import av

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AC3_RATES = (48000, 44100, 32000)
MPEG_RATES = (44100, 48000, 32000)
FLAC_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
DTS_RATES = (0, 8000, 16000, 32000, 0, 0, 11025, 22050, 44100, 0, 0, 12000, 24000, 48000, 0, 0)
NONE, HEAD = (0, 0), 9  # without a header; bytes that are read


def frame_length(codec: str, packet: av.Packet) -> tuple[int, int]:
    """Return the sample rate in Hz and the number of samples of an audio frame; 0 for what its header does not give.

    Args:
        codec: FFmpeg's name of the codec.
        packet: Packet that begins with the header of a frame.
    """
    parse = _PARSERS.get(codec)
    if parse is None or packet.size < HEAD:
        return NONE
    return parse(memoryview(packet)[:HEAD])


def has_configuration(packet: av.Packet) -> bool:
    """Return whether a packet configures the decoder for those that follow: in chained Ogg files, and in LATM."""
    if packet.has_sidedata("new_extradata"):
        return True
    return packet.stream.codec_context.name == "aac_latm" and frame_length("aac_latm", packet) != NONE


def _adts(head: memoryview) -> tuple[int, int]:
    """ISO/IEC 13818-7, section 6.2."""
    index = head[2] >> 2 & 15
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or index >= len(AAC_RATES):
        return NONE
    return AAC_RATES[index], 1024 * ((head[6] & 3) + 1)


def _latm(head: memoryview) -> tuple[int, int]:
    """ISO/IEC 14496-3, sections 1.7.2 and 1.7.3. Frames without a configuration use that of an earlier frame."""
    has_config, version = not head[3] & 0x80, head[3] >> 6 & 1
    kind, index = head[5] >> 3, (head[5] & 7) << 1 | head[6] >> 7
    if head[0] != 0x56 or head[1] >> 5 != 7 or not has_config or version or kind == 31 or index >= len(AAC_RATES):
        return NONE
    is_short = kind == 2 and head[6] >> 2 & 1
    return AAC_RATES[index], (960 if is_short else 1024) * (((head[3] & 0x1F) << 1 | head[4] >> 7) + 1)


def _mpeg(head: memoryview) -> tuple[int, int]:
    """ISO/IEC 11172-3, section 2.4.2.3, and its extensions to lower sample rates."""
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or version == 1 or layer == 0 or rate == 3:
        return NONE
    samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
    return MPEG_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version], samples


def _ac3(head: memoryview) -> tuple[int, int]:
    """ATSC A/52, section 5.4.1, and annex E for E-AC-3."""
    rate, is_enhanced = head[4] >> 6, head[5] >> 3 > 10
    if bytes(head[:2]) != b"\x0b\x77" or rate == 3 or 8 < head[5] >> 3 < 11:
        return NONE
    blocks = (1, 2, 3, 6)[head[4] >> 4 & 3] if is_enhanced else 6
    return AC3_RATES[rate], 256 * blocks


def _dts(head: memoryview) -> tuple[int, int]:
    """ETSI TS 102 114, section 5.3.1."""
    rate = DTS_RATES[head[8] >> 2 & 15]
    if bytes(head[:4]) != b"\x7f\xfe\x80\x01" or not rate:
        return NONE
    return rate, 32 * (((head[4] & 1) << 6 | head[5] >> 2) + 1)


def _flac(head: memoryview) -> tuple[int, int]:
    """RFC 9639, section 9.1."""
    rate, size = head[2] & 15, head[2] >> 4
    if head[0] != 0xFF or head[1] & 0xFC != 0xF8 or not 0 < rate < len(FLAC_RATES):
        return NONE
    samples = 192 if size == 1 else 576 << size - 2 if 2 <= size <= 5 else 256 << size - 8 if size >= 8 else 0
    return FLAC_RATES[rate], samples


_PARSERS = {
    "aac": _adts,
    "aac_latm": _latm,
    "mp1": _mpeg,
    "mp2": _mpeg,
    "mp3": _mpeg,
    "ac3": _ac3,
    "eac3": _ac3,
    "dts": _dts,
    "flac": _flac,
}
