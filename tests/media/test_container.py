"""Frames and samples read from the middle of a file are those of a sequential decode."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.conftest import numbered_frames, read_number
from tests.media.clocks import MIDDLES_S, chirp, numbers, textured, write
from vatt.media import container
from vatt.media.decoding import open_media
from vatt.media.transcode import Encoding, check_whole, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

COUNT = 150
X265 = "log-level=none:keyint=1000:min-keyint=1000:scenecut=0"
ONE_GROUP = {
    "mpeg4": {"qmin": "2", "qmax": "3", "g": "600", "sc_threshold": str(10**9)},
    "libx264": {"crf": "14", "g": "1000", "sc_threshold": "0"},
    "libx265": {"crf": "18", "x265-params": X265},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "16", "b": "0", "g": "1000"},
}


def false_keys(path: Path, codec: str, options: dict[str, str]) -> Path:
    """A file whose packets are all flagged as key frames: MP4 without its table of key frames, AVI by its index."""
    data = bytearray(write(path, codec, frames=textured(COUNT), options=options))
    if path.suffix == ".avi":
        begin = data.rindex(b"idx1") + 8
        for at in range(begin, len(data) - 15, 16):
            data[at + 4] |= 0x10
    else:
        assert data.count(b"stss") == 1
        at = data.index(b"stss")
        data[at : at + 4] = b"free"
    path.write_bytes(data)
    return path


def check_windows(path: Path) -> None:
    with open_media(path) as media:
        whole = media.frames(MIDDLES_S[:COUNT])
        for start in (3, 40, 75, 140):
            with open_media(path) as fresh:
                for each in (media, fresh):
                    part = each.frames(MIDDLES_S[start : start + 5])
                    assert torch.equal(part.frames, whole.frames[start : start + 5])
                    assert torch.equal(part.times_s, whole.times_s[start : start + 5])
                    assert each.bad_packets == 0
    assert numbers(path, MIDDLES_S[:COUNT]) == list(range(COUNT))


@pytest.mark.parametrize("codec", ONE_GROUP)
def test_frames_after_a_seek_in_mp4_without_a_table_of_key_frames(tmp_path: Path, codec: str) -> None:
    path = false_keys(tmp_path / "a.mp4", codec, ONE_GROUP[codec])
    check_windows(path)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.reason) == ("ok", "")


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {"qmin": "2", "qmax": "3", "g": "600", "sc_threshold": str(10**9)}),
        ("mpeg4", {"qmin": "2", "qmax": "3", "g": "50", "bf": "2", "sc_threshold": str(10**9)}),
        ("msmpeg4v3", {"qmin": "2", "qmax": "3", "g": "50"}),
        ("libx264", {"crf": "14", "g": "60", "bf": "0"}),
    ],
)
def test_frames_after_a_seek_in_avi_with_wrong_flags(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    check_windows(false_keys(tmp_path / "a.avi", codec, options))


def test_groups_that_are_not_closed_and_intra_refresh(tmp_path: Path) -> None:
    for name, options in {"refresh": "intra-refresh=1:keyint=40", "scenes": "keyint=250:min-keyint=250"}.items():
        path = tmp_path / f"{name}.mp4"
        write(path, "libx264", frames=textured(COUNT), options={"crf": "14", "x264-params": options})
        check_windows(path)


def test_a_seek_that_lands_late_goes_back_further_and_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "BACK_S", 0.2)
    path = false_keys(tmp_path / "a.mp4", "mpeg4", ONE_GROUP["mpeg4"])
    with open_media(path) as media:
        goals: list[float | None] = []
        original = media._go_to
        media._go_to = lambda kind, start_s: goals.append(start_s) or original(kind, start_s)  # type: ignore[method-assign]
        media.frames([3.0])
    assert goals[:-1] == pytest.approx([3.0, 2.8, 2.6, 2.2, 1.4])
    assert goals[-1] is None


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_refuse_wrong_key_frames(tmp_path: Path, decoder: str) -> None:
    path = false_keys(tmp_path / "a.mp4", "mpeg4", ONE_GROUP["mpeg4"])
    try:
        with pytest.raises(MediaError, match="key frames are wrong"):
            open_media(path, decoder)  # type: ignore[arg-type]
    except ImportError as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "adpcm_ima_wav", 16_000),
        ("b.wav", "adpcm_ms", 16_000),
        ("c.wav", "g722", 16_000),
        ("d.wav", "g726", 8000),
        ("e.wav", "adpcm_yamaha", 16_000),
        ("a.caf", "adpcm_ima_qt", 44_100),
        ("a.aif", "adpcm_ima_qt", 44_100),
        ("a.w64", "adpcm_ima_wav", 16_000),
        ("f.wav", "pcm_s24le", 16_000),
        ("a.mp2", "mp2", 44_100),
        ("a.mp3", "libmp3lame", 8000),
    ],
)
def test_windows_of_compressed_audio(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = tmp_path / name
    write(path, None, codec, chirp(15.0, rate), rate)
    with open_media(path) as media:
        whole = media.waveform(0.0, 15.0, rate).samples
    for start_s in (2.3, 7.1, 13.4):
        with open_media(path) as media:
            part = media.waveform(start_s, 1.0, rate).samples
        first = round(start_s * rate)
        assert (part - whole[first : first + rate]).abs().max() < 1e-3


def test_empty_packets_repeat_the_frame_before_them(tmp_path: Path) -> None:
    path = tmp_path / "a.nut"  # whose muxer writes them; encoders of Theora and VP8 make them for still passages
    frames = numbered_frames(50)
    expected = [i if i < 20 or i % 10 < 3 else i // 10 * 10 + 2 for i in range(50)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25, options={"lag-in-frames": "0", "deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for number in range(50):
            if expected[number] == number:
                frame = av.VideoFrame.from_ndarray(frames[number], format="rgb24")
                frame.pts = number
                packets = stream.encode(frame)
            else:
                packets = [av.Packet(0)]
                packets[0].stream, packets[0].time_base = stream, stream.codec_context.time_base
                packets[0].pts = packets[0].dts = number
            container.mux(packets)
    with open_media(path) as media:
        result = media.all_frames()
        assert media.bad_packets == 0
        assert [read_number(frame) for frame in result.frames] == expected
        assert result.times_s.numpy() == pytest.approx(np.arange(50) / 25)
        assert result.until_s == pytest.approx(2.0)
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.reason, facts.fps) == ("ok", "", 25.0)
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    assert numbers(tmp_path / "new.mp4", MIDDLES_S[:50]) == expected


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.wav", "adpcm_ms", 48_000), ("b.wav", "adpcm_ima_wav", 22_050), ("a.w64", "adpcm_ms", 44_100)],
)
def test_frames_of_one_packet_of_audio_follow_each_other(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path, samples = tmp_path / name, chirp(6.0, rate)
    write(path, None, codec, samples, rate)
    transcode(str(path), tmp_path / "new.mp4", Encoding())
    for read in (path, tmp_path / "new.mp4"):
        with open_media(read) as media:
            decoded = media.waveform(0.0, 6.0, rate).samples.numpy()
        assert np.corrcoef(decoded, samples)[0, 1] > 0.99


def test_padding_of_w64_is_not_a_damaged_packet(tmp_path: Path) -> None:
    """50 blocks of GSM, of 65 bytes, are followed by 6 bytes of padding, which FFmpeg counts as data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        guid = kind + bytes.fromhex("f3acd3118cd100c04f8edb8a")
        return guid + struct.pack("<Q", 24 + len(data)) + data + bytes(-len(data) % 8)

    form = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, 65, 0, 2, 320)
    body = b"wave" + bytes.fromhex("f3acd3118cd100c04f8edb8a") + chunk(b"fmt ", form)
    body += chunk(b"data", bytes(50 * 65 + 6))
    riff = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", 24 + len(body))
    path = tmp_path / "a.w64"
    path.write_bytes(riff + body)
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(2.0, abs=0.01)
    assert check_whole(str(path)) == "w64"
    assert scan_file(str(path), 3, 60.0).status == "ok"
