"""Media files opened with PyAV: their packets and decoders, within limits of time and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import av

from vatt.media.formats import boxes, late_audio, mpeg_video, packets, png, repairs, xvid
from vatt.media.formats.allowed import CLOSED, HEAD, check_beginning, refusal
from vatt.media.formats.aspect import PixelAspect
from vatt.media.formats.extent_checks import Extent
from vatt.media.formats.fragments import REMOTE_BOXES
from vatt.media.sources.callbacks import Callbacks
from vatt.media.sources.files import OPEN_LIMIT_S, SHORTEST_OPEN_S, MediaFile, state
from vatt.media.timing.timestamps import RAW_VIDEO, has_guesses
from vatt.media.types import MediaError

av.logging.set_level(av.logging.PANIC)  # what matters is raised with the name of the file

MAX_VIDEO_PIXELS = 2**26  # of a frame: 8192 x 8192
MAX_IMAGE_PIXELS = 2**28  # of a still image; FFmpeg itself needs a margin, and reads up to about 16,250 x 16,250
PIXELS_PER_BYTE, SMALL_PIXELS = 2**13, 2**24  # a small file with more pixels is a decompression bomb
# JPEG needs a bit for each block of 8 x 8 pixels, and JPEG 2000 in practice more than that.
CODEC_PIXELS_PER_BYTE = {"mjpeg": 2**9, "jpeg2000": 2**9}
LEAVES_OUT = ("h264", "hevc")  # decoders that can skip frames to which no other one refers, exactly
# Still images that are recognized before FFmpeg opens them, and may be larger than frames of a video.
STILLS = re.compile(rb"\xff\xd8\xff|\x89PNG|II\*\0|MM\0\*|BM|RIFF.{4}WEBP", re.DOTALL)


class MediaInput:
    """A media file opened with PyAV. The file cannot make FFmpeg open other files.

    Tags that are not UTF-8, as in old AVI and WAV files, are accepted.

    Args:
        path: See `vatt.media.sources.files`.
        time_limit_s: Time limit for opening (clamped to between 1 and 60 s), and again for all reads after it, until
            `limit` is called.

    Attributes:
        container: The PyAV container.
        size: Number of bytes; None if the server does not report it.
        pixel_aspect: Aspect ratio of the pixels of the prepared video stream; None for still images, whose pixels count
            as square.
        extent: Checks of whether the header describes the whole file.

    Raises:
        MediaError: The file is empty, refers to other files, has an unsupported format, or has a header that would
            need gigabytes of memory; or opening takes too long.
        av.FFmpegError, OSError, ValueError: It cannot be opened.
    """

    def __init__(self, path: str, time_limit_s: float = math.inf) -> None:
        self.path, self.pixel_aspect = path, None
        self._last_frame: Any = None  # of the video, since the last seek
        open_limit_s = min(max(time_limit_s, SHORTEST_OPEN_S), OPEN_LIMIT_S)
        self._file = MediaFile(path, open_limit_s)
        self.size = self._file.size
        self._parts: list[Any] = []  # streams that were joined to others
        self._first: dict[int, Any] = {}  # the first of the streams that were joined, by index
        self.extent = Extent(self._file)
        try:
            self.container = self._open(open_limit_s)
            if self._file.seekable() and (streams := late_audio.unknown_streams(self.container)):
                self._inspect_audio(streams, open_limit_s)
        except BaseException:
            self._file.close()
            raise
        self.extent.container = self.container
        self._format = self.container.format.name
        for stream in self.container.streams.audio:
            if stream.codec_context is not None:
                repairs.replace_custom_layout(stream.codec_context)
        self.limit(time_limit_s)

    def limit(self, time_limit_s: float) -> None:
        """Set the time limit of all further reads together, in seconds from now."""
        self._file.limit(time_limit_s)

    def close(self) -> None:
        """Free the file and its decoders."""
        self._last_frame = None
        self.container.close()
        self._file.close()

    def demux(self, *streams: Any) -> Iterator[av.Packet]:
        """Yield the packets of these streams, or of all, to the end.

        Packets of joined streams are those of the first one (see `join`).

        Raises:
            av.FFmpegError, OSError: The file cannot be read any further.
            MediaError: The time limit is exceeded, or a server fails.
        """
        indices = {stream.index for stream in streams}
        parts = (stream for stream in self._parts if self._first[stream.index].index in indices)
        packets = self._packets(self.container.demux(*streams, *parts))
        if self._format == "mpeg":
            packets = mpeg_video.ascending(packets)
        if self._format == "ogg":
            packets = repairs.without_speex_headers(packets)
        return self._joined(packets) if self._parts else packets

    def _packets(self, remaining: Iterator[av.Packet]) -> Iterator[av.Packet]:
        while True:
            try:
                with self._callbacks.raising():
                    packet = next(remaining)
            except (StopIteration, IndexError):  # at the end PyAV looks for streams that began after it was opened
                return
            if not repairs.is_padding(packet, self._format):
                yield repairs.without_tag(packet, self._format)

    def _joined(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Yield packets, in which joined streams are replaced by the first of them."""
        current: dict[int, tuple[int, int]] = {}  # by first stream: index and first byte of the current part
        for packet in packets:
            first, index = self._first.get(packet.stream.index), packet.stream.index
            if first is not None:
                part, begins_at = current.get(first.index, (first.index, 0))
                # FFmpeg holds the last packets of a part back to the end of the file: they are dropped.
                if index != part and (not packet.size or (packet.pos is not None and packet.pos < begins_at)):
                    continue
                current[first.index] = index, begins_at if index == part else packet.pos or 0
                packet.stream = first
            yield packet

    def join(self, streams: Sequence[Any]) -> None:
        """Read streams of one codec that follow each other in the file as one, the first of them."""
        if len(streams) > 1:
            self._parts += streams[1:]
            self._first |= {stream.index: streams[0] for stream in streams}

    def decode(self, packet: av.Packet) -> list[Any]:
        """Return the frames of a packet.

        Raises:
            av.FFmpegError, OSError, ValueError: The packet is damaged.
            MediaError: The packet is encrypted, or decoding would take too much memory.
        """
        if packet.has_sidedata("encryption_info"):
            raise MediaError(self.path, f"the {packet.stream.type} track is encrypted")
        if packet.size and (reason := packets.problem(packet.stream.codec_context.name, packet)):
            raise MediaError(self.path, reason)
        if repairs.repeats_frame(packet):  # FFmpeg would end the decoder
            return self._repeated(packet)
        frames = packet.decode()
        if packet.stream.type == "video":
            self._last_frame = frames[-1] if frames else self._last_frame
        if self.pixel_aspect is not None and packet.stream.type == "video":
            for frame in frames:
                self.pixel_aspect.mark(frame)
        return frames

    def _repeated(self, packet: av.Packet) -> list[Any]:
        if self._last_frame is None:
            return []
        self._last_frame.pts, self._last_frame.time_base = packet.pts, packet.time_base
        return [self._last_frame]

    def reorder(self, packets: Iterator[av.Packet], stream: Any) -> Iterator[av.Packet]:
        """Yield packets of video so that the decoded frames have the timestamps at which they are presented.

        Args:
            packets: Packets of the stream, from its beginning or from a seek on.
            stream: Video stream of the container.
        """
        name, codec = self.container.format.name, stream.codec_context.name
        if codec == "mpeg4":
            return xvid.unpack(packets, stream, name == "avi")
        if name in RAW_VIDEO:
            return repairs.without_guesses(packets, is_dts=True)
        is_guessed = (name == "avi" and codec in LEAVES_OUT) or has_guesses(stream)
        return repairs.without_guesses(packets) if is_guessed else packets

    def seek(self, offset: int, stream: Any = None) -> None:
        """Seek to a key frame at or before a time.

        Args:
            offset: Time in units of the stream's time base, or in microseconds without a stream.
            stream: Stream of the container.

        Raises:
            av.FFmpegError, OSError, MediaError: See `demux`.
        """
        with self._callbacks.raising():
            self.container.seek(offset, stream=stream)
        self._last_frame = None
        if self.pixel_aspect is not None:
            self.pixel_aspect.reset()

    def __enter__(self) -> MediaInput:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def prepare(self, stream: Any) -> None:
        """Set up the decoder of a stream with one thread and without huge frames.

        Parallelism comes from the workers of the data loader.

        Args:
            stream: Video or audio stream of the container; not decoded yet.

        Raises:
            MediaError: The header declares frames that are too large. Larger frames in the stream are not decoded.
        """
        decoder = stream.codec_context
        decoder.thread_count = 1
        if stream.type == "video":
            is_still = is_still_format(self.container.format.name)
            self.pixel_aspect = None if is_still else PixelAspect(stream)
            limit = self._max_pixels(is_still, decoder.name)
            size = f"{decoder.width} x {decoder.height}"
            if decoder.width * decoder.height > limit:
                raise MediaError(
                    self.path, f"frames of {size} pixels are too large; the limit for a file of this size is {limit:,}"
                )
            decoder.options = {"max_pixels": str(limit)}

    def _max_pixels(self, is_still: bool, codec: str = "") -> int:
        limit, per_byte = MAX_IMAGE_PIXELS if is_still else MAX_VIDEO_PIXELS, CODEC_PIXELS_PER_BYTE.get(codec)
        return limit if self.size is None else min(limit, max(SMALL_PIXELS, self.size * (per_byte or PIXELS_PER_BYTE)))

    def _open(self, time_limit_s: float, options: dict[str, str] | None = None) -> Any:
        if self.size == 0:
            raise MediaError(self.path, "the file is empty (0 bytes)")
        is_still = self._file.seekable() and self._check()
        ignored = {"ignore_length": "1"} if self.extent.is_open_ended else {}
        self._callbacks = Callbacks(self._file, self._file.name)
        try:
            with self._callbacks.raising():
                return av.open(
                    self._callbacks,
                    mode="r",
                    options={"max_pixels": str(self._max_pixels(is_still))},
                    container_options=CLOSED | ignored | (options or {}),
                    timeout=(time_limit_s, None),
                    **repairs.ANY_TAGS,
                )
        except av.error.ExitError:
            raise MediaError(self.path, f"opening took longer than {time_limit_s:.3g} s") from None
        except av.FFmpegError as error:
            _, name, message = error.log or (0, "", "")
            if message.startswith("Format not on whitelist"):
                raise refusal(self.path, name) from None
            self.extent.refuse_unread_file_of_any_format()
            raise
        except OSError:  # FFmpeg seeks to a position that is impossible
            self.extent.refuse_unread_file_of_any_format()
            raise

    def _inspect_audio(self, streams: Sequence[Any], time_limit_s: float) -> None:
        """Open the file again so that the sample rates of these streams are known."""
        self._format = self.container.format.name
        key = (self.path, self.size, None if self._file.is_remote else state(self.path))
        late = late_audio.find_late_audio(self._packets(self.container.demux(*streams)), streams, key)
        self.container.close()
        self._file.seek(0)
        self.container = self._open(time_limit_s, late.options)
        late.apply(self.container)

    def _check(self) -> bool:
        """Refuse files that FFmpeg must not open; return whether the file is a still image."""
        head = self._file.read(HEAD)
        check_beginning(self.path, head)
        if self.size is not None:
            reason = boxes.problem(self._file, self.size, REMOTE_BOXES if self._file.is_remote else None)
            if reason or (reason := png.problem(self._file, self.size)):
                raise MediaError(self.path, reason)
            self.extent.check_header(head)
        self._file.seek(0)
        return STILLS.match(head) is not None


def is_still_format(name: str) -> bool:
    """Return whether an FFmpeg format name denotes a single still image."""
    return name == "image2" or name.endswith("_pipe")


def first_line(error: BaseException) -> str:
    """The first line of an error, without the path that FFmpeg appends."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).splitlines()[0]
