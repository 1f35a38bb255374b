"""Measuring two ways of doing the same: in turns, medians, and the memory that tensors take at most."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from vatt.structures import Batch, ClipFormat


def medians(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, the median of several rounds in which they take turns, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, do in ways.items():
            synchronise()
            began = time.perf_counter()
            do()
            synchronise()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes(do: Callable[[], object]) -> int:
    """The most memory that tensors made by a function have at once."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        do()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        do()
    held = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def random_clips(format: ClipFormat, clips: int, device: str) -> Batch:
    """Clips of random numbers."""
    valid = torch.ones(clips, dtype=torch.bool, device=device)
    frames = (clips, format.num_frames, 3, format.size, format.size)
    half = torch.bfloat16 if device == "cuda" else torch.float32
    return {
        "id": [str(i) for i in range(clips)],
        "events": [],
        "video": torch.empty(frames, device=device, dtype=half).uniform_(-1, 1),
        "audio": torch.empty(clips, format.num_samples, device=device).uniform_(-1, 1),
        "text": torch.randint(1, 1000, (clips, format.num_texts, format.num_words), device=device),
        "video_valid": valid,
        "audio_valid": valid,
        "text_valid": valid[:, None].expand(-1, format.num_texts),
    }
