"""Decoded sound to the asked span and rate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MAX_RESAMPLE_TERMS = 1_000  # of the reduced ratio of two rates: the size of torchaudio's filter bank


def place(span: np.ndarray, samples: np.ndarray, at: int) -> tuple[int, int]:
    """Copy what of ``samples``, which begin at index ``at``, falls into ``span``; returns where it went."""
    begin, end = max(at, 0), min(at + len(samples), len(span))
    if end <= begin:
        return len(span), 0
    span[begin:end] = samples[begin - at : end - at]
    return begin, end


def decode_rate(source: int, target: int) -> int:
    """The rate to decode at: the file's own, unless torchaudio's filter for the ratio would be huge."""
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
