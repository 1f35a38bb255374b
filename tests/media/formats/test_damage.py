from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from vatt.media.formats.damage import jpeg_is_whole
from vatt.media.inspection import read_packets
from vatt.preparation.scan.file import scan_file


def write_sound(
    path: Path,
    codec: str,
    samples: np.ndarray,
    sample_rate: int = 16_000,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """(S,) floats in [-1, 1] as a file of mono sound."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=sample_rate, layout="mono", options=options or {})
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for part in av.AudioResampler(format=stream.format, layout="mono", rate=sample_rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


def jpeg(size: int = 300, **options: object) -> bytes:
    pixels = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", **options)
    return file.getvalue()


@pytest.mark.parametrize("sample_rate", [44_100, 16_000])
def test_an_mp3_file_that_counts_its_frames_is_held_to_it(tmp_path: Path, sample_rate: int) -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(6 * sample_rate).clip(-1, 1)
    whole = write_sound(tmp_path / "whole.mp3", "libmp3lame", noise, sample_rate, options={"q": "2"})
    assert scan_file(str(whole), 3, 60.0).status == "ok"
    (tmp_path / "cut.mp3").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    facts = scan_file(str(tmp_path / "cut.mp3"), 3, 60.0)
    assert facts.status == "truncated"
    assert facts.reason.startswith("the header promises 6.")
    assert facts.duration_s == pytest.approx(3.0, abs=0.1)


def test_an_mp3_file_that_counts_nothing_is_not_held_to_a_guess(tmp_path: Path) -> None:
    rate = 16_000
    quiet_first = np.concatenate([np.zeros(6 * rate), np.random.default_rng(0).uniform(-0.5, 0.5, 6 * rate)])
    path = tmp_path / "variable.mp3"
    write_sound(path, "libmp3lame", quiet_first, rate, options={"q": "2"}, container_options={"write_xing": "0"})
    assert read_packets(str(path)).cut == ""
    assert scan_file(str(path), 3, 60.0).duration_s == pytest.approx(12.0, abs=0.15)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_picture_that_was_cut_off_is_noticed(tmp_path: Path, progressive: bool) -> None:
    thumbnail = b"\xff\xe1" + (len(jpeg(32)) + 2).to_bytes(2, "big") + jpeg(32)  # with an end marker of its own
    plain = jpeg(progressive=progressive)
    whole = plain[:2] + thumbnail + plain[2:]
    contents = {
        "whole": whole,
        "more": whole + bytes(range(256)) * 20,
        "small": jpeg(16),
        "small and more": jpeg(16) + b"more",
        "cut": whole[: len(whole) * 6 // 10],
        "short": whole[:-2],
    }
    for name, data in contents.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    found = {name: scan_file(str(tmp_path / f"{name}.jpg"), 3, 60.0) for name in contents}
    assert {name for name, facts in found.items() if facts.status == "truncated"} == {"cut", "short"}
    assert {name for name, facts in found.items() if facts.status == "ok"} == contents.keys() - {"cut", "short"}
    assert "end marker" in found["cut"].reason


def test_a_head_of_a_jpeg_picture_is_not_whole() -> None:
    data = jpeg()
    assert jpeg_is_whole(data)
    assert not any(jpeg_is_whole(data[:length]) for length in (0, 1, 2, 3, 4, 5, 20, 200))
