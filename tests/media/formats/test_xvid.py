from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import numbered_frames
from tests.media.clocks import MIDDLES_S, numbers, write, write_avi
from vatt.media.decoding import open_media
from vatt.media.formats.xvid import B_VOP, VOP
from vatt.media.transcode import Encoding, transcode
from vatt.preparation.scan.file import scan_file

COUNT = 100
NOT_CODED = VOP + b"\x50\x5f"  # a P-VOP with vop_coded 0
USER_DATA = b"\0\0\1\xb2DivX503b1393p\0"


def encode(path: Path, b_frames: int, frames: np.ndarray) -> list[bytes]:
    """Packets of MPEG-4 Part 2, a key frame every 12."""
    options = {
        "bf": str(b_frames),
        "b_strategy": "0",
        "qmin": "2",
        "qmax": "3",
        "g": "12",
        "sc_threshold": "1000000000",
    }
    write(path, "mpeg4", frames=frames, options=options)
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def vop_type(data: bytes) -> int:
    return data[data.find(VOP) + 4] >> 6


def pack(packets: Sequence[bytes]) -> list[bytes]:
    """Put each P-VOP and its first B-VOP into one chunk, followed by the other B-VOPs and an empty chunk."""
    chunks: list[bytes] = []
    for data in packets:
        if vop_type(data) != B_VOP:
            chunks.append(data)
        elif vop_type(chunks[-1]) != B_VOP and chunks[-1] != NOT_CODED:
            chunks[-1] += data
            chunks.append(NOT_CODED)
        else:
            chunks.insert(-1, data)
    head = chunks[0].index(VOP)
    return [chunks[0][:head] + USER_DATA + chunks[0][head:], *chunks[1:]]


@pytest.mark.parametrize("all_flagged", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("b_frames", [0, 1, 2])
def test_frames_of_avi_are_in_order(tmp_path: Path, b_frames: int, packed: bool, all_flagged: bool) -> None:
    path = tmp_path / "a.avi"
    packets = encode(path, b_frames, numbered_frames(COUNT))
    chunks = pack(packets) if packed else packets
    write_avi(path, chunks, [all_flagged or vop_type(chunk) == 0 for chunk in chunks])
    assert numbers(path, MIDDLES_S[:COUNT]) == list(range(COUNT))
    for start in (1, 11, 12, 13, 30, 47, 90):
        assert numbers(path, MIDDLES_S[start : start + 8]) == list(range(start, start + 8))
    with open_media(path) as media:
        shown = media.all_frames()
    assert len(shown.frames) == COUNT
    assert np.diff(shown.times_s).tolist() == pytest.approx([0.04] * (COUNT - 1))
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(4.0, abs=0.05))
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[:COUNT]) == list(range(COUNT))


def test_a_packed_bitstream_that_was_copied_into_mp4(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    chunks = pack(encode(path, 1, numbered_frames(COUNT)))
    write_avi(path, chunks, [vop_type(chunk) == 0 for chunk in chunks])
    with av.open(str(path)) as old, av.open(str(tmp_path / "a.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts, packet.stream = packet.dts, stream
                new.mux(packet)
    assert numbers(tmp_path / "a.mp4", MIDDLES_S[:COUNT]) == list(range(COUNT))
    assert numbers(tmp_path / "a.mp4", MIDDLES_S[55:63]) == list(range(55, 63))


def test_a_picture_that_is_not_coded_repeats_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    chunks = encode(path, 0, numbered_frames(COUNT))
    anchors = [i for i, chunk in enumerate(chunks) if vop_type(chunk) == 0 and i > 30]
    inserted = [*chunks[: anchors[0]], NOT_CODED, NOT_CODED, *chunks[anchors[0] :]]
    write_avi(path, inserted, [vop_type(chunk) == 0 for chunk in inserted])
    first = anchors[0]
    expected = [*range(first), first - 1, first - 1, *range(first, COUNT)]
    assert numbers(path, MIDDLES_S[: COUNT + 2]) == expected
    assert numbers(path, MIDDLES_S[first - 3 : first + 10]) == expected[first - 3 : first + 10]


@pytest.mark.parametrize("packed", [False, True])
def test_empty_slots_are_the_delay_of_an_encoder_or_repeat_pictures(tmp_path: Path, packed: bool) -> None:
    """XviD leaves slots empty at the beginning of a packed bitstream; elsewhere a program dropped a picture."""
    path = tmp_path / "a.avi"
    packets = encode(path, 2, numbered_frames(COUNT)) if packed else encode(path, 0, numbered_frames(COUNT))
    chunks = pack(packets) if packed else packets
    chunks = [*chunks[:1], b"", *chunks[1:3], b"", *chunks[3:]]
    write_avi(path, chunks, [i > 0 and bool(chunk) and vop_type(chunk) == 0 for i, chunk in enumerate(chunks)])
    expected = [*range(COUNT)] if packed else [0, 0, 1, 2, 2, *range(3, COUNT)]
    assert numbers(path, MIDDLES_S[: len(expected)]) == expected
    for start in (1, 5, 30, 47, 90):
        assert numbers(path, MIDDLES_S[start : start + 8]) == expected[start : start + 8]
