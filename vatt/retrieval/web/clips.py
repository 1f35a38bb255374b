"""Segments of media files as MP4 files that every browser plays: H.264 and AAC, transcoded on request."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vatt.datasets.loading.processes import Failure, Processes
from vatt.media.segments import Stretch
from vatt.media.sources.files import state
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.retrieval.web.temporary import TemporaryFolder
from vatt.retrieval.web.uploads import BUSY, MIB, Busy

MAX_CLIP_S = 30.0  # longest segment; the rest of a longer one is not transcoded
CACHE_BYTES, MAX_CLIPS = 256 * MIB, 256  # of the cache; errors count as clips
PROCESSES, MAX_WAITING = 2, 16  # clips that are transcoded in parallel, and that wait
ERROR_S = 300.0  # after which a segment that could not be transcoded is tried again
CLIP_LIMIT_S, WAIT_LIMIT_S = 60.0, 90.0  # time limits of transcoding, and of a request including its wait
STOPPING = "the server is stopping"
ENCODING = Encoding(short_side=480, gop=50, crf=23, fps=60.0)

Key = tuple[str, tuple[int, int], float, float]  # source, its state, start and end in seconds


@dataclass
class _Clip:
    path: Path
    task: asyncio.Task[None]
    users: int = 0  # requests that wait for it or send it
    begin_s: float = field(default_factory=time.monotonic)

    @property
    def error(self) -> BaseException | None:
        """Error because of which there is no file, or None."""
        if self.task.cancelling():
            return asyncio.CancelledError()
        return self.task.exception() if self.task.done() else None

    @property
    def is_current(self) -> bool:
        """Whether the file or its error can be reused. Only media errors are, since others may be temporary."""
        is_kept = isinstance(self.error, MediaError) and time.monotonic() < self.begin_s + ERROR_S
        return self.error is None or is_kept


class Clips:
    """Least recently used cache of transcoded segments in a private directory. Call its methods from one event loop.

    Concurrent requests for a segment share it. Files are decoded in other processes: a file that hangs or crashes its
    decoder fails alone.

    Args:
        cache_bytes: Maximum size of the finished clips, except those that are being sent.

    Attributes:
        folder: The directory. It is deleted when the process exits.
        processes: Processes that transcode. Started with the first clip or earlier.
    """

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self.cache_bytes = cache_bytes
        self._directory = TemporaryFolder("vatt-clips-")
        self.folder = self._directory.path
        self._clips: OrderedDict[Key, _Clip] = OrderedDict()
        self.processes = Processes(PROCESSES, CLIP_LIMIT_S, fatal=lambda error: isinstance(error, OSError))
        self._slots = asyncio.Semaphore(PROCESSES)
        self._numbers = itertools.count()
        self._is_stopping = False

    @asynccontextmanager
    async def clip(self, source: str, start_s: float, end_s: float) -> AsyncIterator[Path]:
        """Provide a segment as an MP4 file, which exists until the end of the ``async with`` block.

        Args:
            source: File, member of a shard or URL, as `vatt.media.decoding.open_media` opens it.
            start_s: Time in the source that becomes second 0.
            end_s: End of the segment in seconds; at most `MAX_CLIP_S` after the start.

        Raises:
            MediaError: The segment cannot be transcoded, or that takes too long.
            OSError: The source does not exist, or the disk is full.
            Busy: Too many clips are waiting, or the server is stopping.
        """
        end_s = min(end_s, start_s + MAX_CLIP_S)
        key = source, await asyncio.to_thread(state, source), start_s, end_s
        clip = self._clips.get(key)
        if clip is None or not clip.is_current:
            if self._is_stopping:
                raise Busy(STOPPING)
            if sum(not clip.task.done() for clip in self._clips.values()) >= PROCESSES + MAX_WAITING:
                raise Busy(BUSY)
            path = self.folder / f"{next(self._numbers)}.mp4"
            clip = self._clips[key] = _Clip(path, asyncio.create_task(self._transcode(key, path)))
        self._clips.move_to_end(key)
        clip.users += 1
        try:
            async with asyncio.timeout(WAIT_LIMIT_S):
                await asyncio.shield(clip.task)  # other requests may wait for it
        except TimeoutError:
            raise Busy(BUSY) from None
        else:
            yield clip.path
        finally:
            clip.users -= 1
            if not clip.users:
                clip.task.cancel()  # has no effect on a finished one
            self._evict()

    def cancel(self) -> None:
        """Cancel the clips that are not finished. Requests for them, and for further ones, raise `Busy`."""
        self._is_stopping = True
        for clip in self._clips.values():
            clip.task.cancel()

    def close(self) -> None:
        """Stop the processes and delete the clips."""
        self.processes.stop()
        self._directory.delete()

    async def _transcode(self, key: Key, path: Path) -> None:
        source, _, start_s, end_s = key
        try:
            async with self._slots:
                result = await self.processes.call(transcode, source, path, ENCODING, Stretch(start_s, end_s))
        except BrokenProcessPool:
            raise Busy(BUSY) from None
        except asyncio.CancelledError:
            if self._is_stopping:
                raise Busy(STOPPING) from None
            raise
        if isinstance(result, Failure):
            raise MediaError(source, result.reason)

    def _evict(self) -> None:
        """Delete the least recently used clips, and files of failed ones."""
        sizes = {path: path.stat().st_size for path in self.folder.iterdir()}
        total = sum(sizes.values())
        for key, clip in list(self._clips.items()):
            if (total > self.cache_bytes or len(self._clips) > MAX_CLIPS) and not clip.users:
                del self._clips[key]
                total -= sizes.get(clip.path, 0)
        for path in sizes.keys() - {clip.path for clip in self._clips.values() if clip.error is None}:
            path.unlink()
