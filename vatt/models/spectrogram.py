"""The spectrogram tokenizer: waveform to log-mel patches (VATT, appendix A.4 and the released SpT)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vatt.models.positions import places
from vatt.models.precision import single_precision
from vatt.models.tokenizers import PatchTokenizer
from vatt.structures import ClipFormat, Patches


class SpectrogramTokenizer(PatchTokenizer):
    """Patches of a log-mel spectrogram, which is computed here from the waveform.

    Frames of 2,048 samples every 1,024 (Hann window, zeros after the end), magnitudes, 80 mel bands from 80 to
    7,600 Hz, log(1 + 10,000 m), and each clip scaled to [0, 1]: 150 frames for 3.2 s at 48 kHz, of which patches
    of 16 frames and 5 bands make 9 x 16 = 144 tokens. What is left over at the end (6 frames) is not used.

    Args:
        width: D.
        grid: patches along time and frequency. Waveforms of another length are taken too, on interpolated positions.
        patch: frames and bands of a patch.
        sample_rate: of the waveform, in Hz.
        num_mels: bands.
        window, hop: samples of a frame and between frames.
        dropout: on the embedded tokens.
        official_order: number the places by frequency first, as the released code does by mistake while its patches
            are in order of time: almost every patch then has another one's position.
        pre_projection, position_norm: see `PatchTokenizer`.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int] = (9, 16),
        patch: tuple[int, int] = (16, 5),
        sample_rate: int = 48_000,
        num_mels: int = 80,
        window: int = 2048,
        hop: int = 1024,
        dropout: float = 0.0,
        official_order: bool = False,
        pre_projection: bool = False,
        position_norm: bool = True,
    ) -> None:
        super().__init__(width, grid, patch[0] * patch[1], dropout, 1.0, pre_projection, position_norm)
        if num_mels != grid[1] * patch[1]:
            raise ValueError(f"{num_mels} mel bands are not {grid[1]} patches of {patch[1]}")
        if min(sample_rate, window, hop) < 1:
            raise ValueError(f"sample_rate, window and hop must be positive, not {sample_rate}, {window} and {hop}")
        self.patch, self.num_mels, self.sample_rate = tuple(patch), num_mels, sample_rate
        self.window_size, self.hop, self.official_order = window, hop, official_order
        self._tables()

    def _tables(self) -> None:
        """Window and filters, where the weights are and always in single precision; nothing that is saved."""
        device = self.project.weight.device
        self.window = torch.hann_window(self.window_size, device=device)
        self.filters = mel_filters(self.num_mels, self.window_size // 2 + 1, self.sample_rate, device=device)

    def _apply(self, *args: Any, **kwargs: Any) -> SpectrogramTokenizer:
        super()._apply(*args, **kwargs)  # moves, or changes the precision of, the weights
        self._tables()
        return self

    def spectrogram(self, wave: Tensor) -> Tensor:
        """(B, S) in [-1, 1] to (B, frames, bands) float32 in [0, 1]; a silent clip is 0.

        Give the waveform in single precision, whatever the model's is: half of it drowns quiet bands in rounding.
        """
        frames = math.ceil(wave.shape[1] / self.hop)
        padded = torch.nn.functional.pad(wave, (0, (frames - 1) * self.hop + self.window_size - wave.shape[1]))
        # Not autocast: log(1 + 10,000 m) of a quiet sound needs single precision.
        with single_precision(wave):
            spectrum = torch.fft.rfft(padded.float().unfold(1, self.window_size, self.hop) * self.window)
            mel = torch.log(1 + 1e4 * (spectrum.abs() @ self.filters))
            low, high = mel.amin(dim=(1, 2), keepdim=True), mel.amax(dim=(1, 2), keepdim=True)
            return torch.where(high > low, (mel - low) / (high - low).clamp(min=1e-30), 0.0)

    def patchify(self, raw: Tensor) -> Patches:
        """Cut the log-mel spectrogram of a waveform (B, S); inside a patch the order is time, band.

        Raises:
            ValueError: another shape, or a sound that is shorter than a patch.
        """
        pt, pf = self.patch
        if raw.ndim != 2:
            raise ValueError(f"a waveform is (B, S), not {tuple(raw.shape)}")
        grid = gt, gf = self._grid(raw.shape[1])
        mel = self.spectrogram(raw)
        x = mel[:, : gt * pt].reshape(mel.shape[0], gt, pt, gf, pf).permute(0, 1, 3, 2, 4)
        position = places(raw, grid)
        if self.official_order:
            by_frequency = places(raw[:1], (gf, gt))[..., [1, 0, 2]]
            position = by_frequency.expand(raw.shape[0], -1, -1)
        return Patches(x.reshape(mel.shape[0], gt * gf, pt * pf), position, grid)

    def grid_of(self, format: ClipFormat) -> tuple[int, ...]:
        return self._grid(format.num_samples)

    def _grid(self, samples: int) -> tuple[int, int]:
        frames = math.ceil(samples / self.hop)
        if frames < self.patch[0]:
            raise ValueError(
                f"a waveform is (B, S) of at least {(self.patch[0] - 1) * self.hop + 1} samples, not {samples}"
            )
        return frames // self.patch[0], self.grid[1]


def mel_filters(
    num_mels: int,
    num_bins: int,
    sample_rate: int,
    low: float = 80.0,
    high: float = 7600.0,
    device: torch.device | None = None,
) -> Tensor:
    """Triangular filters (bins, mels) that are straight lines on the mel scale, as TensorFlow makes them.

    torchaudio's are straight lines in Hz, which is not what the released model was made for. The bin of frequency 0
    belongs to no filter.

    Args:
        num_mels: bands.
        num_bins: bins of the spectrum, from 0 to half the sample rate.
        sample_rate: in Hz.
        low, high: in Hz, where the first filter begins and the last one ends.
        device: where they are made.
    """
    how = {"dtype": torch.float64, "device": device}
    edges = torch.linspace(_mel(low), _mel(high), num_mels + 2, **how)
    bins = torch.linspace(0.0, sample_rate / 2, num_bins, **how)[1:]
    mels = 1127.0 * torch.log1p(bins / 700.0)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    return torch.cat([filters.new_zeros(1, num_mels), filters]).float()


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)
