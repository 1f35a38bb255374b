"""Headers that do not describe all data: streamed WAV, chained Ogg, a second FLV or ASF file, and wrong durations."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

CHUNK = re.compile(rb"[ -~]{4}")
UNKNOWN_SIZES = (0, 0xFFFFFFFF, 2**64 - 1)  # of programs that write to a pipe
NEAR_MAXIMUM = 4096  # SoX and others write the largest signed or unsigned number, rounded or less the headers
WAVES = (b"RIFF", b"RF64", b"BW64")  # the last two have 64-bit sizes
FLV_SIZE = re.compile(rb"filesize\0(.{8})", re.DOTALL)  # of onMetaData, Adobe Flash Video File Format, annex E.5
SIGNATURES = {"flv": b"FLV\1", "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")}  # at the beginning of a file
SEARCHED = 2**16  # bytes after the last packet in which a second file may begin
MP3_HEAD = 4096  # bytes at the beginning of an MP3 file, after a tag, in which its frames may be counted
PAGE = re.compile(rb"OggS\0[\x00-\x07]")  # RFC 3533, section 6; of a first page of a stream, bit 1 is set
BLOCK = 2**20  # bytes that are searched at once
LEAST_S = 0.1  # shorter data after the audio are not audio
MAX_CHUNKS = 1000

# The first frame of an MP3 file may be silent and count the frames: Xing's tag behind the header and the side
# information, whose length depends on version and channels, or Fraunhofer's.
_COUNTED = re.compile(
    rb"\xff([\xe2-\xff])..(?:(?:..)?(?:.{9}|.{17}|.{32})(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})"
    rb"|.{32}VBRI.{10}(.{4}))",
    re.DOTALL,
)


def is_open_ended(file: BinaryIO, size: int) -> bool:
    """Return whether the audio of a WAV or CAF file extends to the end of the file, contrary to its header.

    The header has no size, the largest one in place of an unknown one, or one that is too small, such as after an
    overflow of 32 bits, and no other chunk follows the audio.

    Args:
        file: File that is open for reading.
        size: Number of its bytes.
    """
    head = _read(file, 0, 12)
    if head[:4] == b"caff":
        return _is_open_ended_caf(file)
    is_long = head[:4] != b"RIFF"
    if head[:4] not in WAVES or head[8:12] != b"WAVE":
        return False
    at, bytes_per_s, long_length = 12, 0, 0
    for _ in range(MAX_CHUNKS):
        head = _read(file, at, 24)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == b"fmt ":
            bytes_per_s = int.from_bytes(head[16:20], "little")
        if head[:4] == b"ds64":  # EBU Tech 3306
            long_length = int.from_bytes(head[16:24], "little")
        if head[:4] == b"data" or len(head) < 8:
            break
        at += 8 + length + length % 2
    if head[:4] != b"data":
        return False
    if is_long:
        length = long_length
    end = at + 8 + length + length % 2
    if length in UNKNOWN_SIZES or (end > size and _is_near_maximum(length)):
        return True
    if size - end < max(8, LEAST_S * bytes_per_s):
        return False
    head = _read(file, end, 8)
    return not CHUNK.match(head) or end + 8 + int.from_bytes(head[4:], "little") > size


def _is_near_maximum(length: int) -> bool:
    return any(0 <= maximum - length <= NEAR_MAXIMUM for maximum in (2**31, 2**32))


def _is_open_ended_caf(file: BinaryIO) -> bool:
    """Apple Core Audio Format Specification 1.0: the size of the data may be -1."""
    at = 8
    for _ in range(MAX_CHUNKS):
        head = _read(file, at, 12)
        length = int.from_bytes(head[4:12], "big", signed=True)
        if head[:4] == b"data" or len(head) < 12 or length < 0:
            return head[:4] == b"data" and length == -1
        at += 12 + length
    return False


def movie_duration_s(file: BinaryIO, size: int) -> float:
    """Return the duration in the header of an MP4 file (ISO/IEC 14496-12, section 8.2.2); 0 without one.

    Args:
        file: File that is open for reading.
        size: Number of its bytes.
    """
    at = 0
    for _ in range(MAX_CHUNKS):
        head = _read(file, at, 48)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if kind == b"moov" and head[12:16] == b"mvhd":
            wide = head[16] == 1
            scale_at = 36 if wide else 28
            scale = int.from_bytes(head[scale_at : scale_at + 4], "big")
            ticks = int.from_bytes(head[scale_at + 4 : scale_at + (12 if wide else 8)], "big")
            is_known = ticks != 2 ** (64 if wide else 32) - 1
            return ticks / scale if scale and is_known else 0.0
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if length < 8 or not kind.isalnum():
            break
        at += length
    return 0.0


def links(file: BinaryIO) -> list[int]:
    """Return the bytes at which streams of an Ogg file begin after others have ended.

    Args:
        file: File that is open for reading.
    """
    file.seek(0)
    result, begin, rest, is_beginning = list[int](), 0, b"", True
    while block := file.read(BLOCK):
        data = rest + block
        for page in PAGE.finditer(data):
            is_first = data[page.start() + 5] & 2 > 0
            if is_first and not is_beginning and len(result) < MAX_CHUNKS:
                result.append(begin + page.start())
            is_beginning = is_first
        rest = data[-5:]
        begin += len(data) - len(rest)
    return result


def mp3_samples(file: BinaryIO, at: int | None = None) -> int:
    """Return how many samples an MP3 file should have; 0 if it does not count its frames.

    Args:
        file: File that is open for reading.
        at: Byte at which the first packet begins; None looks for it.
    """
    if at is None:
        at = MP3_HEAD
        head = _read(file, 0, 10)
        if head[:3] == b"ID3":  # ID3v2.4.0, section 3.1
            at += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    begin = max(0, at - MP3_HEAD)
    match = _COUNTED.search(_read(file, begin, at - begin))
    if match is None:
        return 0
    is_version_1 = match[1][0] >> 3 & 3 == 3
    return int.from_bytes(match[2] or match[3], "big") * (1152 if is_version_1 else 576)


def flv_is_complete(file: BinaryIO, size: int) -> bool:
    """Return whether an FLV file has as many bytes as its header says."""
    match = FLV_SIZE.search(_read(file, 0, SEARCHED))
    return match is not None and struct.unpack(">d", match[1])[0] == size


def second_file(file: BinaryIO, container: str, after: int) -> int | None:
    """Return the byte at which a second FLV or ASF file begins, which FFmpeg does not read; None if there is none.

    Args:
        file: File that is open for reading.
        container: FFmpeg's name of the format.
        after: Byte at which the last packet begins.
    """
    signature = SIGNATURES.get(container)
    if signature is None:
        return None
    offset = _read(file, after, SEARCHED).find(signature)
    return None if offset < 0 else after + offset


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
