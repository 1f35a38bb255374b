from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import numbered_frames, read_number
from tests.media.clocks import MIDDLES_S, RATE, numbers, pitch, tone, write
from tests.media.movies import fragments
from vatt.media.decoding import open_media
from vatt.media.formats.boxes import iterate_boxes
from vatt.media.formats.fragments import Fragments, inspect_fragments
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
STYP = struct.pack(">I4s4sI4s", 20, b"styp", b"msdh", 0, b"msdh")


def write_fragmented(path: Path, video: str | None = "libx264", audio: str | None = None, first: int = 0) -> bytes:
    """Write 4 s in fragments of 1 s: numbered frames, and a tone of 440 Hz, or of 880 Hz if ``first`` is not 0."""
    options = {"g": "25", "bf": "0", "sc_threshold": "0"}
    frames = numbered_frames(200)[first : first + 100]
    samples = tone(880 if first else 440, 4.0, RATE)
    container_options = FRAGMENTED | ({} if video else {"frag_duration": "1000000"})
    return write(path, video, audio, samples, frames=frames, options=options, container_options=container_options)


def split(data: bytes) -> tuple[bytes, list[bytes]]:
    """Return the header of a fragmented file, and its fragments."""
    header, result, begin = b"", list[bytes](), 0
    for kind, _, end in iterate_boxes(io.BytesIO(data), 0, len(data)):
        if kind == b"moof":
            result.append(data[begin:end])
        elif kind == b"mdat":
            result[-1] += data[begin:end]
        elif not result:
            header += data[begin:end]
        begin = end
    return header, result


def delay(data: bytes, seconds: int) -> bytes:
    """Add a time to the decode times (tfdt) of all fragments."""
    result, scales, at = bytearray(data), list[int](), 0
    while (at := data.find(b"mdhd", at + 1)) > 0:
        scales.append(int.from_bytes(data[at + 16 : at + 20]))
    while (at := data.find(b"tfhd", at + 1)) > 0:
        scale, time_at = scales[int.from_bytes(data[at + 8 : at + 12]) - 1], data.find(b"tfdt", at) + 8
        end = time_at + (8 if data[time_at - 4] else 4)
        ticks = int.from_bytes(data[time_at:end]) + seconds * scale
        result[time_at:end] = ticks.to_bytes(end - time_at)
    return bytes(result)


@pytest.mark.parametrize("seconds", [2, 3000])
@pytest.mark.parametrize(("video", "audio"), [("libx264", None), (None, "aac"), ("libx264", "aac")])
def test_fragments_that_begin_late(tmp_path: Path, video: str | None, audio: str | None, seconds: int) -> None:
    """Second 0 is the beginning of the first fragment, as in segments of a long DASH presentation."""
    path, early = tmp_path / "late.mp4", tmp_path / "early.mp4"
    data = write_fragmented(early, video, audio)
    path.write_bytes(delay(data, seconds))
    with open_media(path) as late, open_media(early) as expected:
        assert late.info.duration_s == pytest.approx(expected.info.duration_s, abs=1e-3)
        assert late.info.duration_s == pytest.approx(4.0, abs=0.05)
        assert (late.info.video_s, late.info.audio_s) == pytest.approx((expected.info.video_s, expected.info.audio_s))
        if video:
            times_s = [0.0, 0.5, 2.5, 3.9]
            result, frames = late.frames(times_s).frames, expected.frames(times_s).frames
            assert list(map(read_number, result)) == list(map(read_number, frames))
        if audio:
            late_samples, samples = (media.waveform(1.0, 1.0, 16_000).samples for media in (late, expected))
            assert (late_samples - samples).abs().max() < 1e-4
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.reason, facts.duration_s) == ("ok", "", pytest.approx(4.0, abs=0.05))
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    with open_media(tmp_path / "new.mp4") as media:
        assert media.info.duration_s == pytest.approx(4.0, abs=0.1)


def test_a_header_with_the_first_segments_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    header, parts = split(write_fragmented(path))
    path.write_bytes(header + b"".join(parts[2:]))
    with open_media(path) as media:
        assert (media.info.duration_s, media.info.video_s) == pytest.approx((2.0, 2.0), abs=0.01)
    assert scan_file(str(path), 3, 60.0).duration_s == pytest.approx(2.0, abs=0.01)
    assert numbers(path, MIDDLES_S[:50]) == list(range(50, 100))


@pytest.mark.parametrize("offset_s", ["2", "1000"])
@pytest.mark.parametrize(("name", "video", "audio"), [("a.nut", "libx264", "mp2"), ("a.wtv", "mpeg2video", "mp2")])
def test_other_files_whose_clock_begins_late(tmp_path: Path, name: str, video: str, audio: str, offset_s: str) -> None:
    path, samples = tmp_path / name, tone(440, 4.0, RATE)
    options = {"output_ts_offset": offset_s}
    write(path, video, audio, samples, frames=numbered_frames(100), options={"bf": "0"}, container_options=options)
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(4.0, abs=0.06)
        assert media.info.video_s in (pytest.approx(4.0, abs=0.06), np.inf)
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, facts.duration_s) == ("ok", pytest.approx(4.0, abs=0.06))
    assert numbers(path, [0.06, 2.06, 3.9]) == pytest.approx([1, 51, 97], abs=1)
    assert pitch(path, 3.0) == 440


@pytest.mark.parametrize("between", [b"", STYP, None])
@pytest.mark.parametrize(("video", "audio"), [("libx264", None), (None, "aac"), ("libx264", "aac")])
def test_fragments_whose_times_restart_are_an_error(
    tmp_path: Path, video: str | None, audio: str | None, between: bytes | None
) -> None:
    path = tmp_path / "a.mp4"
    header, parts = split(write_fragmented(path, video, audio))
    second_header, second = split(write_fragmented(path, video, audio, first=100))
    between = second_header[second_header.index(b"moov") - 4 :] if between is None else between
    first = header + b"".join(parts)
    path.write_bytes(first + between + b"".join(second))
    _check_refused(path, len(first + between))


@pytest.mark.parametrize(("video", "audio"), [("libx264", None), (None, "aac"), ("libx264", "aac")])
def test_fragments_in_wrong_order_are_an_error(tmp_path: Path, video: str | None, audio: str | None) -> None:
    path = tmp_path / "a.mp4"
    header, parts = split(write_fragmented(path, video, audio))
    path.write_bytes(header + parts[0] + parts[2] + parts[1] + parts[3])
    _check_refused(path, len(header + parts[0] + parts[2]))


def _check_refused(path: Path, at: int) -> None:
    """Check that reader, scan and prepare refuse a file and name a byte."""
    with pytest.raises(MediaError, match=f"fragment at byte {at} is not later"):
        open_media(path)
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.status, f"byte {at} " in facts.reason) == ("unreadable", True)
    with pytest.raises(MediaError, match=f"byte {at} "):
        transcode(str(path), path.with_name("new.mp4"), Encoding())


def test_fragments_are_inspected() -> None:
    def inspect(content: bytes, max_boxes: int | None = None) -> Fragments:
        return inspect_fragments(io.BytesIO(content), len(content), max_boxes)  # type: ignore[arg-type]

    content = fragments(3, 5)
    header, parts = split(content)
    assert inspect(content) == Fragments(True)
    assert inspect(header + parts[0] + parts[0]) == Fragments(True, None, len(header + parts[0]))
    assert inspect(header + parts[0] + parts[0], 3) == Fragments(True)
    assert inspect(content + content) == Fragments(True, len(content), len(content + header))
    assert inspect(header + fragments(2, 0)[len(header) :]) == Fragments(True)  # without samples
    assert inspect(content[: len(header) + 20]) == Fragments(True)
