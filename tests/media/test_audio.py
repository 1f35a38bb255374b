"""Audio with many channels, samples outside [-1, 1], or channels that cancel, in all readers."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.media.test_transcode import whole
from vatt.media.audio import limit
from vatt.media.cache import DecodedCache
from vatt.media.decoding import open_media
from vatt.media.frames import Part
from vatt.media.types import Levels, MediaError
from vatt.preparation.scan.file import FileFacts, scan_file
from vatt.structures import Downmix

RATE = 16_000
TONE = np.sin(2 * np.pi * 60 * np.arange(RATE) / RATE)  # low enough for the LFE channel of AAC
FLOAT, PCM = 3, 1  # format tags of WAV


def write_wav(path: Path, samples: np.ndarray, mask: int | None = None) -> Path:
    """(S,) or (S, C) as WAV: 16-bit integers for int16, else floats; with a channel mask, in the extensible format."""
    samples = samples.reshape(len(samples), -1)
    tag, width, channels = PCM if samples.dtype == np.int16 else FLOAT, samples.dtype.itemsize, samples.shape[1]
    sizes = struct.pack("<HIIHH", channels, RATE, RATE * channels * width, channels * width, 8 * width)
    form = struct.pack("<H", tag) + sizes
    if mask is not None:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        form = struct.pack("<H", 0xFFFE) + sizes + struct.pack("<HHI", 22, 8 * width, mask) + guid
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def channels_of(count: int) -> np.ndarray:
    """(S, C) int16: a tone in every channel, of amplitude 1 / (C + 1) in the first one to C / (C + 1) in the last."""
    return (np.outer(TONE, np.arange(1, count + 1) / (count + 1)) * 32767).astype(np.int16)


def encode(path: Path, codec: str, layout: str, samples: np.ndarray) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=48_000 if codec == "libopus" else RATE, layout=layout, bit_rate=1_000_000)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def amplitude(path: Path, downmix: Downmix = "mean", rate: int = RATE) -> float:
    """Amplitude of the tone in the middle of a file."""
    with open_media(path) as media:
        return media.waveform(0.25, 0.5, rate, downmix).samples.square().mean().mul(2).sqrt().item()


def scanned(path: Path) -> FileFacts:
    return scan_file(str(path), 3, 60.0)


@pytest.mark.parametrize(
    ("channels", "mask"),
    [(8, None), (8, 0x63F), (8, 0x130F), (8, 0), (8, 3), (9, None), (16, None), (18, 0x3FFFF), (36, None), (64, None)],
)  # fmt: skip
def test_all_channels_of_wav_are_averaged_in_their_order(tmp_path: Path, channels: int, mask: int | None) -> None:
    path = write_wav(tmp_path / "many.wav", channels_of(channels), mask)
    first = 1 / (channels + 1)
    for rate in (RATE, 22_050):
        assert amplitude(path, rate=rate) == pytest.approx(0.5, rel=0.002)
        assert amplitude(path, "first", rate) == pytest.approx(first, rel=0.002)
    assert scanned(path).peak_db == pytest.approx(20 * np.log10(0.5), abs=0.02)
    assert amplitude(whole(path)) == pytest.approx(0.5, rel=0.02)
    with DecodedCache(tmp_path / "cache", Part(), RATE, downmix="first").open(path) as media:
        assert media.waveform(0.25, 0.5, RATE).samples.abs().max() == pytest.approx(first, rel=0.002)


@pytest.mark.parametrize(
    ("name", "codec", "layout", "channels"),
    [
        ("film.mkv", "flac", "7.1", 8),
        ("film.mp4", "aac", "7.1", 8),
        ("film.webm", "libopus", "7.1", 8),
        ("ambisonic.mkv", "pcm_s16le", "16 channels", 16),
        ("ambisonic.mov", "pcm_s16le", "ambisonic 2", 9),
        ("custom.caf", "pcm_f32le", "7.1", 8),  # FFmpeg reads these two in a custom order of channels
        ("custom.aiff", "pcm_s16be", "7.1", 8),
    ],
)
def test_all_channels_of_other_codecs_are_averaged(
    tmp_path: Path, name: str, codec: str, layout: str, channels: int
) -> None:
    path = encode(tmp_path / name, codec, layout, channels_of(channels))
    assert scanned(path).channels == channels
    assert amplitude(path) == pytest.approx(0.5, rel=0.03)
    assert amplitude(path, "first") == pytest.approx(1 / (channels + 1), rel=0.03)
    assert amplitude(whole(path)) == pytest.approx(0.5, rel=0.03)  # re-encoded, or copied


def test_channels_that_a_decoder_does_not_support_are_named(tmp_path: Path) -> None:
    path = encode(tmp_path / "24.tta", "tta", "24 channels", channels_of(24))
    reason = r"\(tta, .* channels\): Invalid number of channels$"
    with open_media(path) as media, pytest.raises(MediaError, match=reason):
        media.waveform(0.0, 1.0, RATE)


def test_more_channels_than_ffmpeg_converts_are_an_error(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "65.wav", channels_of(65))
    with open_media(path) as media, pytest.raises(MediaError, match="has 65 channels; at most 64 can be read"):
        media.waveform(0.0, 1.0, RATE)


@pytest.mark.parametrize(
    ("samples", "peak", "share"),
    [
        ((20_000 * TONE).astype(np.float32), 20_000, 1.0),  # integers written as floats
        ((1.05 * TONE).astype(np.float32), 1.05, 0.197),  # a loud master
        (1.5 * TONE, 1.5, 0.535),
        (np.stack([3 * TONE, TONE], axis=1), 2.0, 2 / 3),  # the mono mix is what is clipped
        (TONE, 1.0, 0.0),
    ],
)
def test_samples_outside_the_range_are_measured_and_kept(
    tmp_path: Path, samples: np.ndarray, peak: float, share: float
) -> None:
    path = write_wav(tmp_path / "loud.wav", samples)
    facts = scanned(path)
    assert facts.status == "ok"
    assert facts.peak_db == pytest.approx(20 * np.log10(peak), abs=0.02)
    assert facts.clipped_share == pytest.approx(share, abs=0.01)
    mono = samples.reshape(len(samples), -1).mean(axis=1)
    caches = [DecodedCache(tmp_path / "cache", Part(), RATE) for _ in range(2)]
    for media in (open_media(path), *(cache.open(path) for cache in caches)):  # the second one reads the entry
        with media:
            sound = media.waveform(0.25, 0.5, RATE)
        assert sound.samples.numpy() == pytest.approx(mono[RATE // 4 :][: RATE // 2], abs=peak * 1e-4)
        assert sound.levels.is_clipped == (share > 0)


def test_audio_is_clipped_or_scaled_into_the_range() -> None:
    samples = torch.tensor([-4.0, -0.5, 0.5, 2.0])
    assert limit(samples, "clip").tolist() == [-1.0, -0.5, 0.5, 1.0]
    assert limit(samples, "scale").tolist() == [-1.0, -0.125, 0.125, 0.5]
    assert torch.equal(limit(samples / 8, "scale"), samples / 8)


def test_prepared_audio_is_scaled_where_aac_would_saturate(tmp_path: Path) -> None:
    for level in (0.5, 1.5, 20_000):
        path = write_wav(tmp_path / "loud.wav", (level * TONE).astype(np.float32))
        with open_media(whole(path)) as media:
            samples = media.waveform(0.25, 0.5, RATE).samples.numpy()
        expected = min(level, 0.95) * TONE[RATE // 4 :][: RATE // 2]
        assert np.square(samples - expected).mean() < 0.001 * np.square(expected).mean()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_invalid_samples_are_damage(tmp_path: Path, value: float) -> None:
    samples = (0.5 * TONE).astype(np.float32)
    samples[RATE // 2] = value
    path = write_wav(tmp_path / "damaged.wav", samples)
    with open_media(path) as media:
        result = media.waveform(0.25, 0.5, RATE).samples
        assert media.bad_packets == 1
    samples[RATE // 2] = 0
    assert torch.equal(result, torch.from_numpy(samples[RATE // 4 :][: RATE // 2]))
    assert scanned(path).status == "damaged"
    with pytest.raises(MediaError, match="damaged"):
        whole(path)


def _noise(channels: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (len(TONE), channels))


@pytest.mark.parametrize(
    ("samples", "is_cancelled"),
    [
        (np.outer(TONE, [0.5, -0.5]), True),
        (np.outer(TONE, [0.5, -0.45]), True),  # nearly
        (np.outer(TONE, [0.3, -0.3, 0.3, -0.3]), True),
        (_noise(1) * [0.5, -0.5], True),
        (np.outer(TONE, [0.5, -0.25]), False),
        (np.outer(TONE, [0.5, 0.0]), False),
        (np.outer(TONE, [0.5, 0.5]), False),
        (_noise(2), False),
        (_noise(64), False),
        (np.outer(TONE, [1e-4, -1e-4]), False),  # silence
        (0.5 * TONE, False),
    ],
)
def test_channels_that_cancel_are_reported(tmp_path: Path, samples: np.ndarray, is_cancelled: bool) -> None:
    path = write_wav(tmp_path / "phase.wav", samples)
    assert scanned(path).cancelled is is_cancelled
    with DecodedCache(tmp_path / "cache", Part(), RATE).open(path) as media:
        assert media.waveform(0.25, 0.5, RATE).levels.is_cancelled is is_cancelled
    first = samples.reshape(len(samples), -1)[:, 0]
    with open_media(path) as media:
        sound = media.waveform(0.25, 0.5, RATE, "first")
    assert sound.samples.numpy() == pytest.approx(first[RATE // 4 :][: RATE // 2], abs=1e-6)
    assert not sound.levels.is_cancelled


def test_a_silent_first_channel_is_reported(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "right.wav", np.outer(TONE, [0.0, 0.5]))
    with open_media(path) as media:
        assert media.waveform(0.25, 0.5, RATE, "first").levels.is_cancelled
        assert not media.waveform(0.25, 0.5, RATE, "mean").levels.is_cancelled


def test_levels_of_segments_add_up() -> None:
    total = Levels(10, 1, 2.0, 3.0, 4.0) + Levels(20, 2, 1.0, 5.0, 6.0)
    assert total == Levels(30, 3, 2.0, 8.0, 10.0)
    assert not Levels().is_cancelled
    assert not Levels().is_clipped
