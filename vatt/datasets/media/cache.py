"""Decoded files on disk or in memory, for sets small enough: the first pass decodes, every later one only reads.

An entry holds all frames of a file, scaled to what a model wants, and its whole waveform, resampled. Readers use it
like an open file, but crops that enlarge are less sharp; the workers and, on disk, later runs share it.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from vatt.datasets.media.container import EARLY_S
from vatt.datasets.media.decoding import TIME_LIMIT_S, open_media
from vatt.datasets.media.facts import Frames, MediaError, MediaInfo, Waveform
from vatt.datasets.media.media import Media
from vatt.datasets.media.pictures import WHOLE, WHOLE_BOX, Part, Region
from vatt.datasets.media.source import is_url, state
from vatt.errors import InputError

KEPT_FREE = 0.1  # share of a disk that is left alone
VERSION = 4  # of what an entry holds


class CachedMedia:
    """A decoded file, with the interface of `vatt.datasets.media.decoding.Media`."""

    bad_packets = 0

    def __init__(self, entry: Path, path: str) -> None:
        self.path = path
        self._frames = np.load(entry / "frames.npy", mmap_mode="r")
        self._samples = np.load(entry / "samples.npy", mmap_mode="r")
        facts = np.load(entry / "facts.npz")
        self._times_s, self._until_s = facts["times_s"], float(facts["until_s"])
        self._begin, self._rate = int(facts["sound_begin"]), int(facts["sample_rate"])
        self.info = MediaInfo(
            duration_s=float(facts["duration_s"]),
            has_video=len(self._times_s) > 0,
            has_audio=len(self._samples) > 0,
            sample_rate=self._rate,
            is_picture=bool(facts["is_picture"]),
        )

    def __enter__(self) -> CachedMedia:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def frames(self, times_s: Sequence[float], region: Region = WHOLE) -> Frames:
        """See `Media.frames`; the box of the region is the one the entry was made with."""
        if not self.info.has_video:
            raise MediaError(self.path, "no video track")
        places = np.searchsorted(self._times_s, np.asarray(times_s) + EARLY_S, side="right") - 1
        places = places.clip(0, len(self._times_s) - 1)
        frames = torch.from_numpy(self._frames[places])
        cut = replace(region, box=WHOLE_BOX).cut(frames.shape[3], frames.shape[2])
        return Frames(cut.apply(frames).contiguous(), torch.from_numpy(self._times_s[places]), self._until_s)

    def waveform(self, start_s: float, duration_s: float, sample_rate: int) -> Waveform:
        """See `Media.waveform`; the rate is the one the entry was made with."""
        wanted, first = round(duration_s * sample_rate), round(start_s * sample_rate) - self._begin
        part = np.zeros(wanted, dtype=np.float32)
        begin, end = max(first, 0), min(first + wanted, len(self._samples))
        if end <= begin:
            return Waveform(torch.from_numpy(part), 0, 0)
        part[begin - first : end - first] = self._samples[begin:end] / np.float32(32767)
        return Waveform(torch.from_numpy(part), begin - first, end - first)


def memory_folder() -> str:
    """A folder in memory, which this process and those it starts share, and which is gone after it ends.

    Raises:
        InputError: the system has none.
    """
    shm = Path("/dev/shm")
    if not shm.is_dir():
        raise InputError("this system has no /dev/shm for a cache in memory: give data.cache a folder on disk")
    folder, owner = tempfile.mkdtemp(prefix="vatt-", dir=shm), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked worker that ends is not the end
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


class DecodedCache:
    """A folder of decoded files.

    A file is no longer added when the disk, or the memory, would have less than a tenth of its space left; it is
    decoded every time then.

    Args:
        folder: where; grows by frames x width x height x 3 bytes for each file. "memory" is a `memory_folder`.
        part: of the pictures, and how large.
        sample_rate: of the waveforms in Hz.
        time_limit_s: bound on decoding the picture, or the sound, of one file.
    """

    def __init__(self, folder: str | Path, part: Part, sample_rate: int, time_limit_s: float = TIME_LIMIT_S) -> None:
        self.folder = Path(memory_folder() if folder == "memory" else folder)
        self.part, self.sample_rate, self.time_limit_s = part, sample_rate, time_limit_s
        self._said = False

    def open(self, path: str | Path) -> CachedMedia | Media:
        """The decoded file; it is decoded now unless it has been before.

        Raises:
            MediaError: the file cannot be read, or only in part: damaged files are not kept.
        """
        path = str(path)
        try:
            size, changed_ns = state(path)
        except OSError as error:
            raise MediaError(path, str(error.strerror or error)) from error
        facts = (path if is_url(path) else str(Path(path).resolve()), size, changed_ns, self.part)
        facts = (*facts, self.sample_rate, VERSION)
        entry = self.folder / sha256(repr(facts).encode()).hexdigest()[:24]
        if not entry.is_dir():
            if self._is_full():
                return open_media(path, time_limit_s=self.time_limit_s)
            self._decode(path, entry)
        return CachedMedia(entry, path)

    def _is_full(self) -> bool:
        there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.is_dir())
        space = shutil.disk_usage(there)
        full = space.free < KEPT_FREE * space.total
        if full and not self._said:
            self._said = True
            warnings.warn(f"the cache at {self.folder} is full; further files are decoded every time", stacklevel=2)
        return full

    def _decode(self, path: str, entry: Path) -> None:
        with open_media(path, time_limit_s=self.time_limit_s) as media:
            frames, times_s, until_s = np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0), 0.0
            if media.info.has_video:
                shown = media.all_frames(self.part)
                frames, times_s, until_s = shown.frames.numpy(), shown.times_s.numpy(), shown.until_s
                until_s = math.inf if media.info.is_picture else until_s
            sound = media.waveform(0.0, media.info.duration_s, self.sample_rate)
            if media.bad_packets:
                raise MediaError(path, f"{media.bad_packets} damaged packets")
            duration_s, is_picture = media.info.duration_s, media.info.is_picture
        samples = (sound.samples[sound.begin : sound.end] * 32767).round().to(torch.int16).numpy()
        unfinished = entry.with_name(f"{entry.name}.{os.getpid()}")
        unfinished.mkdir(parents=True, exist_ok=True)
        np.save(unfinished / "frames.npy", frames)
        np.save(unfinished / "samples.npy", samples)
        np.savez(
            unfinished / "facts.npz",
            times_s=times_s,
            until_s=until_s,
            sound_begin=sound.begin,
            sample_rate=self.sample_rate,
            duration_s=duration_s,
            is_picture=is_picture,
        )
        try:
            os.replace(unfinished, entry)
        except OSError:  # another worker was faster
            for file in unfinished.iterdir():
                file.unlink()
            unfinished.rmdir()
