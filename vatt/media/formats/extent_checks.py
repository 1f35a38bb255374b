"""Checks whether the header of an opened media file describes all of its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av

from vatt.media.formats import extent, joined
from vatt.media.formats.allowed import CLOSED
from vatt.media.formats.fragments import BEGINS, REMOTE_BOXES, inspect_fragments
from vatt.media.formats.repairs import ANY_TAGS
from vatt.media.sources.files import OPEN_LIMIT_S, MediaFile, Window
from vatt.media.timing.timestamps import UNINDEXED
from vatt.media.types import SLACK_S, MediaError

SECOND_FILE = "a second file begins at byte {}, which FFmpeg does not read completely: split the file there"
NOT_LATER = (
    "the fragment at byte {} is not later than the fragments before it (tfdt): fragments are out of order, or those of "
    "another recording begin there; split the file, or put its fragments in order"
)
CHANGES = (
    "a second file begins at byte {}, whose codecs, rates or sizes differ from those of the first: split the file there"
)


class Extent:
    """What the header of a file leaves out: a second file, restarts of timestamps, and the right duration.

    Args:
        file: The file, which FFmpeg reads as well.

    Attributes:
        container: The PyAV container, once the file is opened.
        is_open_ended: Whether the audio of a WAV or CAF file extends to the end of the file, contrary to its header.
        is_concatenated: Whether another AVI, Matroska or fragmented MP4 file follows in the same file, or may follow in
            Matroska without a size.
        is_fragmented: Whether the samples of an MP4 file are in fragments.
        movie_s: Duration in the header of an MP4 file in seconds; 0 for others.
    """

    def __init__(self, file: MediaFile) -> None:
        self._file, self._path, self._size = file, file.path, file.size
        self.container: Any = None
        self.is_open_ended, self.is_concatenated, self.is_fragmented, self.movie_s = False, False, False, 0.0
        self._second_movie_at: int | None = None
        self._parts_at: list[int] | None = []  # where the other AVI, Matroska or MP4 files begin; None if unknown

    def check_header(self, head: bytes) -> None:
        """Read what must be known before FFmpeg opens the file.

        Args:
            head: Bytes at the beginning of the file.

        Raises:
            MediaError: The file is an MP4 file that another one follows, or whose fragments are not in order, which
                FFmpeg does not read completely.
        """
        self.is_open_ended = extent.is_open_ended(self._file, self._size)
        self._parts_at = joined.parts(self._file, self._size) if not joined.is_of_unknown_size(self._file) else None
        self.is_concatenated = self._parts_at != []
        if head[4:8] == b"ftyp":
            self.movie_s = extent.movie_duration_s(self._file, self._size)
        if head[4:8] in BEGINS:
            self._check_fragments()

    def _check_fragments(self) -> None:
        fragments = inspect_fragments(self._file, self._size, REMOTE_BOXES if self._file.is_remote else None)
        self.is_fragmented, self._second_movie_at = fragments.is_fragmented, fragments.second_file_at
        if self._second_movie_at is not None:
            self._parts_at, self.is_concatenated = [self._second_movie_at], self.is_fragmented
            if not self.is_fragmented or fragments.not_later_at is not None:
                raise MediaError(self._path, SECOND_FILE.format(self._second_movie_at))
        if fragments.not_later_at is not None:
            raise MediaError(self._path, NOT_LATER.format(fragments.not_later_at))

    @property
    def may_restart(self) -> bool:
        """Whether the file may hold another one, or have a wrong duration, or timestamps that restart."""
        return self.container.format.name in joined.FORMATS or self._needs_times

    @property
    def _needs_times(self) -> bool:
        if self.container.format.name in UNINDEXED or self.is_open_ended or self.is_concatenated:
            return True
        if self.container.format.name == "avi" and any(map(_is_shorter_than_header, self.container.streams.audio)):
            return True
        return self.movie_s - (self.container.duration or 0) / av.time_base > SLACK_S

    def needs_all_packets(self) -> bool:
        """Return whether all packets must be read for the duration and for restarts of timestamps.

        Raises:
            MediaError: The file contains another one, which FFmpeg ignores or reads wrongly.
        """
        self._refuse_unread_file()
        name = self.container.format.name
        if name == "ogg":
            return self._has_links() or not self.container.duration
        if name == "mp3" and self.container.streams.audio:
            rate = self.container.streams.audio[0].codec_context.sample_rate
            samples_s = self.counted_samples() / max(rate, 1)
            return not samples_s or abs(samples_s - (self.container.duration or 0) / av.time_base) > SLACK_S
        return self._needs_times

    def refuse_unread_file_of_any_format(self) -> None:
        """Refuse a file that FFmpeg cannot open because a second file follows.

        Raises:
            MediaError: There is another file.
        """
        if self._size is None or self._file.is_remote:
            return
        at = joined.unread_in_any_format(self._file, self._size)
        if at is not None:
            raise MediaError(self._path, SECOND_FILE.format(at))

    def _refuse_unread_file(self) -> None:
        if self._size is None:
            return
        at = self._inspect(joined.unread, self._size, self.container.format.name, not self._file.is_remote)
        if at is not None:
            raise MediaError(self._path, SECOND_FILE.format(at))
        if self._parts_at is None:
            self._parts_at = [] if self._file.is_remote else self._inspect(joined.parts, self._size)
        for at in self._parts_at:
            self._refuse_changes(at)

    def _has_links(self) -> bool:
        """Return whether an Ogg file is chained, and refuse one whose later streams FFmpeg cannot decode."""
        links = self._inspect(extent.links)
        if links and self.container.streams.video:
            raise MediaError(self._path, SECOND_FILE.format(links[0]))
        for at in links if self._size is not None else ():
            self._refuse_changes(at)
        return bool(links)

    def _refuse_changes(self, at: int) -> None:
        if not joined.can_continue(joined.parameters(self.container), self._parameters_at(at)):
            raise MediaError(self._path, CHANGES.format(at))

    def _parameters_at(self, at: int) -> list[tuple[Any, ...]]:
        """Return the parameters of the decoders of a file that begins in this one; none if it cannot be opened."""
        file = Window(MediaFile(self._path, OPEN_LIMIT_S), at, self._size - at)
        try:
            with av.open(file, container_options=CLOSED, **ANY_TAGS) as container:
                return joined.parameters(container)
        except (av.FFmpegError, ValueError):
            return []
        finally:
            file.close()

    def counted_samples(self, first_at: int | None = None) -> int:
        """Return how many samples an MP3 file should have; 0 if it does not count its frames.

        Args:
            first_at: Byte at which the first packet begins, if it is known.
        """
        return self._inspect(extent.mp3_samples, first_at)

    def refuse_second_file(self, after: int, restarts: bool) -> None:
        """Refuse a file that contains another one, of which FFmpeg reads only a part.

        Args:
            after: Byte at which the last packet begins.
            restarts: Whether timestamps restart; FFmpeg then leaves out frames of fragmented MP4.

        Raises:
            MediaError: There is another file.
        """
        at = self._second_movie_at if restarts else None
        if at is None:
            at = self._inspect(extent.second_file, self.container.format.name, after)
        if at is not None:
            raise MediaError(self._path, SECOND_FILE.format(at))

    def container_end_s(self, packets_end_s: float) -> float:
        """Return when the container ends, in seconds on its own clock.

        The header of a complete FLV file states how long its last frame is presented; its packets do not.

        Args:
            packets_end_s: End of the last packet.
        """
        header_s = (self.container.duration or 0) / av.time_base
        if self.container.format.name != "flv" or header_s <= packets_end_s or self._size is None:
            return packets_end_s
        return header_s if self._inspect(extent.flv_is_complete, self._size) else packets_end_s

    def _inspect(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that reads the file, and restore the position of FFmpeg."""
        at = self._file.tell()
        try:
            return function(self._file, *args)
        finally:
            self._file.seek(at)


def _is_shorter_than_header(stream: Any) -> bool:
    """Return whether an audio stream of AVI has fewer packets in its index than its header gives."""
    index = stream.index_entries
    is_by_packet = len(index) > 1 and index[1].timestamp - index[0].timestamp == 1
    return is_by_packet and len(index) * float(stream.time_base) < stream.frames * float(stream.time_base) - SLACK_S
