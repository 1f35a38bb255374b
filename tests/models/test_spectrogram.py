from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vatt.models.spectrogram import SpectrogramTokenizer, mel_filters


def slow_log_mel(wave: np.ndarray, sample_rate: int, window: int, hop: int, num_mels: int) -> np.ndarray:
    """One frame and one band at a time, from the definitions."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1 + hertz / 700.0)

    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    edges = np.linspace(mel(80.0), mel(7600.0), num_mels + 2)
    rows = []
    for start in range(0, len(wave), hop):
        frame = np.zeros(window)
        part = wave[start : start + window]
        frame[: len(part)] = part
        magnitude = np.abs(np.fft.rfft(frame * hann))
        row = []
        for band in range(num_mels):
            low, centre, high = edges[band : band + 3]
            total = 0.0
            for k in range(1, len(magnitude)):
                at = mel(k * sample_rate / window)
                total += magnitude[k] * max(0.0, min((at - low) / (centre - low), (high - at) / (high - centre)))
            row.append(math.log(1 + 1e4 * total))
        rows.append(row)
    found = np.array(rows)
    return (found - found.min()) / (found.max() - found.min())


def test_the_spectrogram_against_its_definition() -> None:
    tokenizer = SpectrogramTokenizer(8, (2, 4), (4, 5), sample_rate=16_000, num_mels=20, window=256, hop=128)
    t = np.arange(1_200) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.05 * np.random.default_rng(0).normal(size=1_200)
    found = tokenizer.spectrogram(torch.from_numpy(wave).float()[None])[0].numpy()
    assert found.shape == (10, 20)
    assert np.abs(found - slow_log_mel(wave, 16_000, 256, 128, 20)).max() < 1e-4


def test_the_papers_token_counts() -> None:
    tokenizer = SpectrogramTokenizer(8)
    wave = torch.rand(2, 153_600) - 0.5
    assert tokenizer.spectrogram(wave).shape == (2, 150, 80)
    patches = tokenizer.patchify(wave)
    assert patches.x.shape == (2, 144, 80)
    assert patches.grid == (9, 16)


def test_patches_are_what_a_strided_convolution_sees() -> None:
    tokenizer = SpectrogramTokenizer(8, (2, 4), (4, 5), num_mels=20)
    wave = torch.randn(2, 9 * 1024)  # 9 frames, of which 8 are used
    kernel = tokenizer.project.weight.reshape(8, 1, 4, 5)
    expected = F.conv2d(tokenizer.spectrogram(wave)[:, None], kernel, tokenizer.project.bias, stride=(4, 5))
    found = tokenizer.project(tokenizer.patchify(wave).x)
    assert torch.allclose(found, expected.flatten(2).transpose(1, 2), atol=1e-5)


def test_places_are_the_patches_own_or_the_released_codes() -> None:
    wave = torch.randn(1, 153_600)
    fixed, official = SpectrogramTokenizer(8), SpectrogramTokenizer(8, official_order=True)
    expected = [[t, f, 0] for t in range(9) for f in range(16)]
    assert fixed.patchify(wave).position[0].tolist() == expected
    released = official.patchify(wave).position[0].tolist()
    assert released == [[t, f, 0] for f in range(16) for t in range(9)]
    # Each place once, but hardly any where it belongs: 2 of 144.
    assert sorted(released) == sorted(expected)
    assert sum(a == b for a, b in zip(released, expected, strict=True)) == 2


def test_silence_longer_sounds_and_clips_of_a_batch() -> None:
    tokenizer = SpectrogramTokenizer(8, (2, 4), (4, 5), num_mels=20).eval()
    assert tokenizer.spectrogram(torch.zeros(1, 8192)).abs().max() == 0
    assert tokenizer(torch.randn(1, 16 * 1024)).grid == (4, 4)
    waves = torch.randn(2, 8192) * torch.tensor([[1.0], [1e-3]])
    together = tokenizer(waves).x
    assert torch.allclose(together[1], tokenizer(waves[1:]).x[0], atol=1e-5)


def test_filters_cover_their_band_and_leave_out_the_rest() -> None:
    filters = mel_filters(80, 1025, 48_000)
    hertz = torch.linspace(0, 24_000, 1025)
    assert filters[0].abs().max() == 0
    assert filters[(hertz < 80) | (hertz > 7600)].abs().max() == 0
    assert filters.min() == 0
    assert filters.max() <= 1


@pytest.mark.parametrize(
    ("wave", "message"),
    [(torch.zeros(1, 15 * 1024), "of at least 15361 samples"), (torch.zeros(2, 3, 4), r"not \(2, 3, 4\)")],
)
def test_wrong_shapes_are_named(wave: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectrogramTokenizer(8)(wave)


def test_bands_must_be_whole_patches() -> None:
    with pytest.raises(ValueError, match="80 mel bands are not 15 patches of 5"):
        SpectrogramTokenizer(8, (9, 15))


def test_half_precision_leaves_the_spectrogram_as_it_is() -> None:
    """Rounded windows and filters leak a tone into every band."""
    exact = SpectrogramTokenizer(8, (2, 4), (4, 5), num_mels=20)
    half = SpectrogramTokenizer(8, (2, 4), (4, 5), num_mels=20)
    half.load_state_dict(exact.state_dict())
    half = half.bfloat16()
    tone = 0.5 * torch.sin(2 * torch.pi * 440 / 48_000 * torch.arange(8192.0))[None]
    assert torch.equal(half.spectrogram(tone), exact.spectrogram(tone))
    found, expected = half(tone).x.float(), exact(tone).x
    assert half(tone).x.dtype == torch.bfloat16
    assert (found - expected).norm() < 2e-2 * expected.norm()


def test_it_is_built_and_counted_without_memory() -> None:
    with torch.device("meta"):
        tokenizer = SpectrogramTokenizer(8)
        assert tokenizer(torch.empty(1, 153_600)).x.shape == (1, 144, 8)
    assert tokenizer.to_empty(device="cpu").filters.abs().sum() > 0
