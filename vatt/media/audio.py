"""Decoded audio to a segment, a sample rate and the range [-1, 1]."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vatt.media.types import Levels
from vatt.structures import Overflow

MAX_RESAMPLE_TERMS = 1_000  # of the reduced ratio of two rates: the size of torchaudio's filter bank


def place(span: np.ndarray, samples: np.ndarray, at: int) -> tuple[int, int]:
    """Copy what of ``samples``, which begin at index ``at``, falls into ``span``; returns where it went."""
    begin, end = max(at, 0), min(at + len(samples), len(span))
    if end <= begin:
        return len(span), 0
    span[begin:end] = samples[begin - at : end - at]
    return begin, end


def measure(samples: np.ndarray, expected_energy: float) -> Levels:
    """Return the levels of (S,) float32 mono samples; see `Levels`."""
    magnitudes = np.abs(samples)
    return Levels(
        samples=len(samples),
        outside=int((magnitudes > 1).sum()),
        peak=float(magnitudes.max(initial=0)),
        energy=float(np.vdot(samples, samples)),
        expected_energy=expected_energy,
    )


def limit(samples: Tensor, overflow: Overflow) -> Tensor:
    """Bring (S,) samples into [-1, 1]: clip them, or divide them by their peak if it is larger than 1."""
    if overflow == "scale" and (peak := samples.abs().max().item()) > 1:
        samples = samples / peak
    return samples.clamp(-1.0, 1.0)


def decode_rate(source: int, target: int) -> int:
    """Return the rate to decode at: the file's own, unless torchaudio's filter for the ratio would be huge.

    Args:
        source: Sample rate of the file in Hz; 0 if none of its audio decodes, so that the rate is unknown.
        target: Sample rate of the result in Hz.
    """
    if source <= 0:
        return target
    divisor = np.gcd(source, target)
    return source if max(source, target) // divisor <= MAX_RESAMPLE_TERMS else target


def resample(samples: Tensor, source: int, target: int) -> Tensor:
    """(S,) samples at ``source`` Hz to ``target`` Hz (torchaudio's windowed sinc)."""
    return samples if source == target else _resampler(source, target)(samples)


@lru_cache(maxsize=16)
def _resampler(source: int, target: int) -> torch.nn.Module:
    try:
        from torchaudio.transforms import Resample
    except (ImportError, RuntimeError, OSError) as error:  # torchaudio checks its CUDA version on import
        raise ImportError(
            f"torchaudio cannot be imported beside torch {torch.__version__} ({error}); "
            'install the pair this package asks for: pip install --upgrade "vatt"'
        ) from error
    return Resample(source, target)
