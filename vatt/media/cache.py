"""Decoded files on disk or in memory, for sets small enough: the first pass decodes, every later one only reads.

An entry holds all frames of a file, scaled to what a model wants, and its whole waveform, resampled. Readers use it
like an open file, but crops that enlarge are less sharp; the workers and, on disk, later runs share it. Where there is
no room for an entry it is made every time, and dropped after use: samples do not depend on how full the disk was.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import torch

from vatt.errors import InputError
from vatt.media.container import EARLY_S
from vatt.media.decoding import TIME_LIMIT_S, open_media
from vatt.media.frames import WHOLE, WHOLE_BOX, Part, Region
from vatt.media.sources.files import state
from vatt.media.sources.remote import is_url
from vatt.media.transcode import DISK_FULL
from vatt.media.types import Frames, Levels, MediaError, MediaInfo, Waveform
from vatt.structures import Downmix

KEPT_FREE, KEPT_FREE_BYTES = 0.1, 10 * 2**30  # of a disk, the lesser of this share and so much is left alone
VERSION = 7  # of what an entry holds
UNFINISHED = ".part"
ABANDONED_S = 3600.0  # an entry that is not finished after so long never will be
SHM, MINE = Path("/dev/shm"), "vatt-cache-"  # where caches in memory are, and how their names begin

Decoded = tuple[np.ndarray, np.ndarray, dict[str, Any]]  # frames, samples, facts


class CachedMedia:
    """A decoded file, with the interface of `vatt.media.decoding.Media`.

    Args:
        path: of the file.
        frames: (T, 3, H, W) uint8.
        samples: (S,) int16; float32 if some were outside [-1, 1].
        facts: all else, as `DecodedCache` writes it.
    """

    bad_packets = 0

    def __init__(self, path: str, frames: np.ndarray, samples: np.ndarray, facts: dict[str, Any]) -> None:
        self.path, self._frames, self._samples = path, frames, samples
        self._times_s, self._until_s = np.asarray(facts["times_s"], np.float64), facts["until_s"]
        self._begin, self._rate, self._levels = facts["sound_begin"], facts["sample_rate"], Levels(**facts["levels"])
        self.info = MediaInfo(
            duration_s=facts["duration_s"],
            has_video=len(self._times_s) > 0,
            has_audio=len(self._samples) > 0,
            sample_rate=self._rate,
            is_picture=facts["is_picture"],
            video_s=facts["video_s"],
            audio_s=facts["audio_s"],
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

    def waveform(self, start_s: float, duration_s: float, sample_rate: int, downmix: Downmix = "mean") -> Waveform:
        """See `Media.waveform`; rate and downmix are those the entry was made with."""
        wanted, first = round(duration_s * sample_rate), round(start_s * sample_rate) - self._begin
        part = np.zeros(wanted, dtype=np.float32)
        begin, end = max(first, 0), min(first + wanted, len(self._samples))
        if end <= begin:
            return Waveform(torch.from_numpy(part), 0, 0)
        scale = 32767 if self._samples.dtype == np.int16 else 1
        part[begin - first : end - first] = self._samples[begin:end] / np.float32(scale)
        return Waveform(torch.from_numpy(part), begin - first, end - first, self._levels)


def memory_folder() -> str:
    """A folder in memory, which this process and those it starts share, and which is gone after it ends.

    A process that is killed leaves its folder behind; the next one that makes a folder removes it.

    Raises:
        InputError: the system has none.
    """
    if not SHM.is_dir():
        raise InputError("this system has no /dev/shm for a cache in memory: give data.cache a folder on disk")
    for left in SHM.glob(f"{MINE}*"):
        if (held := _lock(left, wait=False)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)
    while True:
        folder, owner = tempfile.mkdtemp(prefix=MINE, dir=SHM), os.getpid()
        # Held until this process has ended, and those that it forked, however they end.
        if _lock(Path(folder), wait=True) is not None and os.path.isdir(folder):
            break  # else another process has taken it for a folder left behind

    def remove() -> None:
        if os.getpid() == owner:  # a forked worker that ends is not the end
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _lock(folder: Path, wait: bool) -> int | None:
    """Take hold of a folder for as long as the descriptor is open; None if another process has it, or it is gone."""
    import fcntl  # not on every system, as /dev/shm

    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone, no folder, or another user's
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        return None
    return handle


class DecodedCache:
    """A folder of decoded files.

    A file is not added if the disk, or the memory, would have less than a tenth of its space left, or 10 GiB if that is
    less; it is decoded every time then.

    Args:
        folder: where; grows by frames x width x height x 3 bytes for each file. "memory" is a `memory_folder`.
        part: of the pictures, and how large.
        sample_rate: of the waveforms in Hz.
        time_limit_s: bound on decoding the picture, or the sound, of one file.
        downmix: See `vatt.structures.ClipFormat`.
    """

    def __init__(
        self,
        folder: str | Path,
        part: Part,
        sample_rate: int,
        time_limit_s: float = TIME_LIMIT_S,
        downmix: Downmix = "mean",
    ) -> None:
        self.folder = Path(memory_folder() if folder == "memory" else folder)
        self.part, self.sample_rate, self.time_limit_s, self.downmix = part, sample_rate, time_limit_s, downmix
        self._said = False
        for left in self.folder.glob("[0-9a-f]" * 24 + f".*{UNFINISHED}"):
            if _is_older(left, ABANDONED_S):
                shutil.rmtree(left, ignore_errors=True)

    def open(self, path: str | Path) -> CachedMedia:
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
        facts = (*facts, self.sample_rate, self.downmix, VERSION)
        entry = self.folder / sha256(repr(facts).encode()).hexdigest()[:24]
        if entry.is_dir():
            try:
                return _read(entry, path)
            except (OSError, ValueError, EOFError, KeyError) as error:
                warnings.warn(f"{entry} of {path} is damaged, and made again: {error}", stacklevel=2)
                shutil.rmtree(entry, ignore_errors=True)
        arrays = self._decode(path)
        self._keep(entry, *arrays)
        return CachedMedia(path, *arrays)

    def _decode(self, path: str) -> Decoded:
        with open_media(path, time_limit_s=self.time_limit_s) as media:
            frames, times_s, until_s = np.zeros((0, 3, 1, 1), np.uint8), np.zeros(0), 0.0
            if media.info.has_video:
                shown = media.all_frames(self.part)
                frames, times_s, until_s = shown.frames.numpy(), shown.times_s.numpy(), shown.until_s
                until_s = math.inf if media.info.is_picture else until_s
            sound = media.waveform(0.0, media.info.duration_s, self.sample_rate, self.downmix)
            if media.bad_packets:
                raise MediaError(path, f"{media.bad_packets} damaged packets")
            info = media.info
        samples = sound.samples[sound.begin : sound.end]
        if not sound.levels.outside:
            samples = (samples.clamp(-1.0, 1.0) * 32767).round().to(torch.int16)
        samples = samples.numpy()
        facts = {
            "times_s": times_s.tolist(),
            "until_s": until_s,
            "sound_begin": sound.begin,
            "levels": asdict(sound.levels),
            "sample_rate": self.sample_rate,
            "duration_s": info.duration_s,
            "is_picture": info.is_picture,
            "video_s": info.video_s,
            "audio_s": info.audio_s,
        }
        return frames, samples, facts

    def _keep(self, entry: Path, frames: np.ndarray, samples: np.ndarray, facts: dict[str, Any]) -> None:
        """Write an entry whole or not at all; not at all if there is no room for it."""
        there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.is_dir())
        space, said = shutil.disk_usage(there), json.dumps(facts).encode()
        wanted = frames.nbytes + samples.nbytes + len(said)
        if space.free - wanted < min(KEPT_FREE * space.total, KEPT_FREE_BYTES):
            return self._say_full()
        unfinished = entry.with_name(f"{entry.name}.{uuid4().hex}{UNFINISHED}")  # containers may have equal pids
        try:
            unfinished.mkdir(parents=True)
            _write(unfinished / "frames.npy", lambda file: np.save(file, frames))
            _write(unfinished / "samples.npy", lambda file: np.save(file, samples))
            _write(unfinished / "facts.json", lambda file: file.write(said))
            os.replace(unfinished, entry)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if error.errno in (*DISK_FULL, None):  # NumPy gives none when a disk is full
                self._say_full()
            elif not entry.is_dir():  # else another worker was faster
                raise

    def _say_full(self) -> None:
        if not self._said:
            self._said = True
            warnings.warn(f"the cache at {self.folder} is full; further files are decoded every time", stacklevel=2)


def _read(entry: Path, path: str) -> CachedMedia:
    frames, samples = (np.load(entry / f"{name}.npy", mmap_mode="r") for name in ("frames", "samples"))
    return CachedMedia(path, frames, samples, json.loads((entry / "facts.json").read_bytes()))


def _write(file: Path, save: Callable[[BinaryIO], Any]) -> None:
    with file.open("wb") as opened:
        save(opened)
        opened.flush()
        os.fsync(opened.fileno())  # else a crash of the system could leave an entry of empty files


def _is_older(path: Path, age_s: float) -> bool:
    try:
        return max(found.stat().st_mtime for found in (path, *path.iterdir())) < time.time() - age_s
    except OSError:  # finished, or removed, meanwhile
        return False
