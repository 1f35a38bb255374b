"""Decoded files on disk, for sets small enough: the first pass decodes, every later one only reads.

An entry holds all frames of a file, scaled, and its whole waveform, resampled. Readers use it like an open file and
get the same frames; the workers and later runs share it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from vatt.datasets.decoding import EARLY_S, Decoder, open_media
from vatt.datasets.media import Frames, MediaError, MediaInfo, Waveform
from vatt.datasets.pictures import WHOLE, Part


class CachedMedia:
    """A decoded file, with the interface of `vatt.datasets.decoding.Media`."""

    bad_packets = 0

    def __init__(self, entry: Path, path: Path) -> None:
        self.path = path
        self._frames = np.load(entry / "frames.npy", mmap_mode="r")
        self._samples = np.load(entry / "samples.npy", mmap_mode="r")
        facts = np.load(entry / "facts.npz")
        self._times_s, self._rate = facts["times_s"], int(facts["sample_rate"])
        self.info = MediaInfo(
            duration_s=float(facts["duration_s"]),
            has_video=len(self._times_s) > 0,
            has_audio=len(self._samples) > 0,
            sample_rate=self._rate,
        )

    def __enter__(self) -> CachedMedia:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def frames(self, times_s: Sequence[float], part: Part = WHOLE) -> Frames:
        """See `Media.frames`; the part is the one the entry was made with."""
        if not self.info.has_video:
            raise MediaError(self.path, "no video track")
        places = np.searchsorted(self._times_s, np.asarray(times_s) + EARLY_S, side="right") - 1
        places = places.clip(0, len(self._times_s) - 1)
        return Frames(torch.from_numpy(self._frames[places]), torch.from_numpy(self._times_s[places]))

    def waveform(self, start_s: float, duration_s: float, sample_rate: int) -> Waveform:
        """See `Media.waveform`; the rate is the one the entry was made with."""
        wanted, first = round(duration_s * sample_rate), round(start_s * sample_rate)
        part = np.zeros(wanted, dtype=np.float32)
        begin, end = max(first, 0), min(first + wanted, len(self._samples))
        if end > begin:
            part[begin - first : end - first] = self._samples[begin:end] / np.float32(32767)
        return Waveform(torch.from_numpy(part), max(0, end - begin) / max(wanted, 1))


class DecodedCache:
    """A folder of decoded files.

    Args:
        folder: where; grows by frames x width x height x 3 bytes for each file.
        part: of the pictures, and how large.
        sample_rate: of the waveforms in Hz.
        decoder: see `open_media`.
    """

    def __init__(self, folder: str | Path, part: Part, sample_rate: int, decoder: Decoder = "pyav") -> None:
        self.folder, self.part, self.sample_rate, self.decoder = Path(folder), part, sample_rate, decoder

    def open(self, path: str | Path) -> CachedMedia:
        """The decoded file; it is decoded now unless it has been before.

        Raises:
            MediaError: the file cannot be read, or only in part: damaged files are not kept.
        """
        path = Path(path)
        try:
            state = path.stat()
        except OSError as error:
            raise MediaError(path, str(error.strerror)) from error
        facts = (str(path.resolve()), state.st_size, state.st_mtime_ns, self.part, self.sample_rate, self.decoder)
        entry = self.folder / sha256(repr(facts).encode()).hexdigest()[:24]
        if not entry.is_dir():
            self._decode(path, entry)
        return CachedMedia(entry, path)

    def _decode(self, path: Path, entry: Path) -> None:
        with open_media(path, self.decoder) as media:
            frames, times_s = np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0)
            if media.info.has_video:
                shown = media.all_frames(self.part)
                frames, times_s = shown.frames.numpy(), shown.times_s.numpy()
            sound = media.waveform(0.0, media.info.duration_s, self.sample_rate)
            if media.bad_packets:
                raise MediaError(path, f"{media.bad_packets} damaged packets")
            duration_s, has_audio = media.info.duration_s, media.info.has_audio
        samples = (sound.samples * 32767).round().to(torch.int16).numpy() if has_audio else np.zeros(0, np.int16)
        unfinished = entry.with_name(f"{entry.name}.{os.getpid()}")
        unfinished.mkdir(parents=True, exist_ok=True)
        np.save(unfinished / "frames.npy", frames)
        np.save(unfinished / "samples.npy", samples)
        np.savez(unfinished / "facts.npz", times_s=times_s, sample_rate=self.sample_rate, duration_s=duration_s)
        try:
            os.replace(unfinished, entry)
        except OSError:  # another worker was faster
            for file in unfinished.iterdir():
                file.unlink()
            unfinished.rmdir()
