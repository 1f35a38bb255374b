"""Media files that were concatenated byte by byte: where the second and later ones begin in the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from vatt.media.formats.repairs import tag_length

MATROSKA, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # identifiers of EBML elements, RFC 9559
MATROSKA_HEAD = re.compile(MATROSKA + rb".{1,60}?\x42\x82.(?:matroska|webm)", re.DOTALL)
BLOCK, OVERLAP = 2**20, 128  # bytes that are searched at once; no signature is longer than the overlap
MAX_PARTS = 1000
# WavPack 4 and 5 file format: flags of the first block of a sequence, by their second byte.
WAVPACK_INITIAL = b"[" + b"".join(re.escape(bytes([byte])) for byte in range(256) if byte & 8) + b"]"
OWN_HEADERS = ("alac", "flac", "tta")  # codecs whose headers also describe a whole file, such as its length


def parts(file: BinaryIO, size: int) -> list[int]:
    """Return the bytes at which AVI or Matroska files begin after the first one.

    Args:
        file: File that is open for reading.
        size: Number of its bytes.
    """
    result, at = list[int](), 0
    for _ in range(MAX_PARTS):
        head = _read(file, at, 64)
        if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"AVIX"):
            is_first, end = head[8:12] == b"AVI ", at + _even(8 + int.from_bytes(head[4:8], "little"))
        elif head[:4] == MATROSKA:
            is_first, end = True, _matroska_end(file, head, at)
        else:
            break
        if at and is_first:
            result.append(at)
        if end is None:
            return result + list(_positions(file, MATROSKA_HEAD, at + 4))
        at = end
    return result


def is_of_unknown_size(file: BinaryIO) -> bool:
    """Return whether the header of a Matroska file has no size, as in live recordings."""
    head = _read(file, 0, 64)
    return head[:4] == MATROSKA and _matroska_end(file, head, 0) is None


def unread(file: BinaryIO, size: int, container: str, can_search: bool) -> int | None:
    """Return the byte at which a second file begins that FFmpeg ignores, or reads wrongly; None if there is none.

    The second file begins with the same signature as the first one, after the end that the header gives.

    Args:
        file: File that is open for reading.
        size: Number of its bytes.
        container: FFmpeg's name of the format.
        can_search: Whether to read all of the file where its header gives no end.
    """
    if container not in FORMATS:
        return None
    signature, end_of = FORMATS[container]
    begin = tag_length(_read(file, 0, 10))
    end = end_of(_read(file, begin, 128)) if end_of is not None else 0
    if container == "tta":
        end = _tta_end(file, begin)
    end = end if begin + end <= size else 0
    return next(_positions(file, signature, begin + (end or 1)), None) if end or can_search else None


def unread_in_any_format(file: BinaryIO, size: int) -> int | None:
    """Return the byte at which a second file begins in a file that FFmpeg cannot open; None if there is none.

    Args:
        file: File that is open for reading.
        size: Number of its bytes.
    """
    head = _read(file, tag_length(_read(file, 0, 10)), 128)
    names = (name for name, (signature, _) in FORMATS.items() if signature.match(head))
    return next((at for name in names if (at := unread(file, size, name, can_search=True)) is not None), None)


def parameters(container: Any) -> list[tuple[Any, ...]]:
    """Return what the decoder of each stream of a PyAV container is set up with."""
    result = list[tuple[Any, ...]]()
    is_ogg = container.format.name == "ogg"
    for stream in (*container.streams.video, *container.streams.audio):
        decoder = stream.codec_context
        name = decoder.codec.canonical_name
        size = (decoder.width, decoder.height) if stream.type == "video" else (decoder.sample_rate, decoder.layout.name)
        if is_ogg and name == "flac":  # frames have the other parameters
            size = (int.from_bytes((decoder.extradata or b"")[2:4]),)
        result.append((name, *size, b"" if name in OWN_HEADERS or is_ogg else decoder.extradata))
    return result


def can_continue(first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]) -> bool:
    """Return whether decoders with the first `parameters` can decode streams with the second ones.

    In Ogg, the largest block of FLAC (RFC 9639, section 8.2) may become smaller.
    """
    if len(first) == len(second) == 1 and first[0][0] == second[0][0] == "flac" and len(first[0]) == 3:
        return second[0][1] <= first[0][1]
    return first == second


def _wav_end(head: bytes) -> int:
    """Resource Interchange File Format, and EBU Tech 3306 for 64-bit sizes."""
    length = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" and head[12:16] == b"ds64":
        length = int.from_bytes(head[20:28], "little")
    return 0 if length in (0, 0xFFFFFFFF) else _even(8 + length)


def _au_end(head: bytes) -> int:
    length = int.from_bytes(head[8:12])
    return 0 if length == 0xFFFFFFFF else int.from_bytes(head[4:8]) + length


def _mxf_end(head: bytes) -> int:
    """Return the position of the footer (SMPTE ST 377-1, section 7.1); 0 if the header does not give it."""
    value = 17 + (head[16] & 0x7F if head[16] & 0x80 else 0)
    return int.from_bytes(head[value + 24 : value + 32])


def _tta_end(file: BinaryIO, begin: int) -> int:
    """Return the length of a file by its table of frames (TTA1 format: header of 22 bytes, table, frames)."""
    head = _read(file, begin, 22)
    rate, samples = int.from_bytes(head[10:14], "little"), int.from_bytes(head[14:18], "little")
    count = -(-samples // max(1, rate * 256 // 245))
    table = memoryview(_read(file, begin + 22, 4 * count))
    sizes = sum(int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4))
    return 22 + 4 * count + 4 + sizes


def _signature(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# By FFmpeg's format name: signature of a file (of a second one only, where the format repeats its beginning, or data
# may look like it), and a function that returns its length from its first bytes, 0 if unknown. For MXF this is the
# footer, a lower bound of the end.
FORMATS: dict[str, tuple[re.Pattern[bytes], Callable[[bytes], int] | None]] = {
    "wav": (_signature(rb"(?:RIFF|RF64|BW64).{4}WAVE"), _wav_end),
    "aiff": (_signature(rb"FORM.{4}AIF[FC]"), lambda head: _even(8 + int.from_bytes(head[4:8]))),
    "w64": (
        _signature(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"),
        lambda head: int.from_bytes(head[16:24], "little"),
    ),
    "au": (_signature(rb"\.snd\0\0.{6}\0\0\0[\1-\x1c]\0...\0\0\0"), _au_end),
    "tta": (_signature(rb"TTA1[\1-\3]\0.\0.\0...\0"), None),
    "flac": (_signature(rb"fLaC[\0\x80]\0\0\x22"), None),
    "mxf": (_signature(rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02[\1-\4]"), _mxf_end),
    "nut": (_signature(rb"nut/multimedia container\0"), None),
    "voc": (_signature(rb"Creative Voice File\x1a"), None),
    "rm": (_signature(rb"\.RMF\0\0\0\x12"), None),
    "xwma": (_signature(rb"RIFF.{4}XWMA"), _wav_end),
    "qcp": (_signature(rb"RIFF.{4}QLCM"), _wav_end),
    "caf": (_signature(rb"caff\0\x01\0\0desc"), None),
    "sox": (_signature(rb"\.SoX..\0\0.{16}[\1-\x40]\0\0\0|XoS\.\0\0.{18}\0\0\0[\1-\x40]"), None),
    "wv": (_signature(rb"wvpk.{4}[\2-\x10]\x04\0.{5}\0{4}.{5}" + WAVPACK_INITIAL), None),
    "ape": (_signature(rb"MAC .\x0f\0\0\x34\0\0\0"), None),
    "tak": (_signature(rb"tBaK\x01[\x06-\x40]\0\0"), None),
    "dsf": (_signature(rb"DSD \x1c\0{7}"), None),
    "nistsphere": (_signature(rb"NIST_1A\n   1024\n"), None),
    "wtv": (_signature(rb"\xb7\xd8\0\x20\x37\x49\xda\x11\xa6\x4e\0\x07\xe9\x5e\xad\x8d\x8c\xc3\xd2\xc2"), None),
    "ivf": (_signature(rb"DKIF\0\0\x20\0[ -~]{4}"), None),
    "yuv4mpegpipe": (_signature(rb"YUV4MPEG2 [A-Z]"), None),
    "gif": (_signature(rb"(?<=;)GIF8[79]a"), None),  # after the trailer of the first file
    "apng": (_signature(rb"(?<=IEND\xae\x42\x60\x82)\x89PNG\r\n\x1a\n"), None),
    "gxf": (_signature(rb"(?<=\0\0\0\0\x01\xfb\0\0\0\x10\0\0\0\0\xe1\xe2)\0\0\0\0\x01\xbc"), None),
}


def _positions(file: BinaryIO, signature: re.Pattern[bytes], begin: int) -> Iterator[int]:
    """Yield the bytes from ``begin`` on at which a signature matches."""
    file.seek(begin)
    rest, last = b"", -1
    while block := file.read(BLOCK):
        data = rest + block
        for match in signature.finditer(data):
            if (at := begin + match.start()) > last:
                last = at
                yield at
        rest = data[-OVERLAP:]
        begin += len(data) - len(rest)


def _matroska_end(file: BinaryIO, head: bytes, at: int) -> int | None:
    """Return the end of a Matroska file that begins at a byte; None if its header has no size."""
    segment_at = at + sum(_element_size(head, 4)[:2])
    segment = _read(file, segment_at, 12)
    if segment[:4] != SEGMENT or len(segment) < 12:
        return segment_at
    begin, length, is_known = _element_size(segment, 4)
    return segment_at + begin + length if is_known else None


def _element_size(data: bytes, at: int) -> tuple[int, int, bool]:
    """Return where the content of an EBML element begins, its length, and whether that is known (RFC 8794, section 6).

    Args:
        data: Bytes of the element from its identifier on.
        at: Where its size begins.
    """
    count = 9 - data[at].bit_length() if data[at] else 8
    value = int.from_bytes(data[at : at + count], "big") - (1 << 7 * count)
    return at + count, value, value != (1 << 7 * count) - 1


def _even(length: int) -> int:
    return length + length % 2


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
