"""Packets and decoded frames of an open media file, with times in seconds from where it begins to play."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import av
import numpy as np

from vatt.media.demuxing import MediaInput, first_line, is_still_format
from vatt.media.formats.repairs import repeats_frame
from vatt.media.opening import OPENING_ERRORS, opening_error
from vatt.media.sources.files import SHORTEST_OPEN_S
from vatt.media.timing.clock import Clock
from vatt.media.timing.timeline import shift_timestamps
from vatt.media.timing.timestamps import RAW_VIDEO, UNANCHORED, begins_link
from vatt.media.tracks.choice import choose_tracks
from vatt.media.tracks.listing import describe_undecodable
from vatt.media.tracks.selection import EARLY_S, can_leave_out, from_key_before, from_last_before, leave_out
from vatt.media.types import MediaError, MediaInfo

NEAR_START_S = 1.5  # closer to the start of the file than this it is cheaper to decode than to seek
UNSEEKABLE = ("mpeg",)  # a seek lands where the next packets have no times of their own, and FFmpeg guesses them
# Formats of audio in which FFmpeg seeks by the average number of bytes per second, which is exact for PCM only.
BYTE_RATE = ("wav", "w64", "aiff", "au", "caf", "voc", "sox", "xwma", "nistsphere")
OGG_CODECS = ("opus", "vorbis")  # for others, FFmpeg gives wrong timestamps after a seek in Ogg
# Seconds after which decoders of these codecs give the same samples wherever they start. Others may never do so.
CONVERGENCE_S = {"adpcm_ima_wav": 0.0, "adpcm_ms": 0.0, "flac": 0.0, "g722": 5.0, "g726": 5.0, "gsm_ms": 5.0}
BACK_S = 5.0  # a seek that lands late is repeated this much earlier, and then twice as much


class Container:
    """What `vatt.media.decoding.Media` reads its frames and samples from.

    Args:
        path: the file: see `vatt.media.sources.files`.
        time_limit_s: Time limit for opening the file, and for all reads of one call, in seconds.

    Attributes:
        info: what the file holds.
        bad_packets: packets that could not be decoded so far.

    Raises:
        MediaError: The file is missing, empty or not a media file, refers to other files, or takes too long to open.
    """

    def __init__(self, path: str, time_limit_s: float) -> None:
        self.path, self.time_limit_s = path, time_limit_s
        self.bad_packets = 0
        self._decoder_message = ""  # of FFmpeg, for the last packet that could not be decoded
        self._until = time.monotonic() + max(time_limit_s, SHORTEST_OPEN_S)
        self._open()
        self._begin_call(max(time_limit_s, SHORTEST_OPEN_S))
        try:
            self.info = self._probe()
        except BaseException as error:
            self.close()
            if isinstance(error, ArithmeticError):
                raise MediaError(path, f"its header has invalid numbers: {first_line(error)}") from error
            raise

    def close(self) -> None:
        """Free the file and its decoders."""
        self._input.close()

    def _open(self) -> None:
        self._check_time()
        self._must_reopen = True
        try:
            self._input = MediaInput(self.path, self._until - time.monotonic())
        except OPENING_ERRORS as error:
            raise opening_error(self.path, error) from error
        self._input.limit(self._until - time.monotonic())
        self._container = self._input.container
        try:
            self._video, self._audio = choose_tracks(self._input)
            for stream in (self._video, self._audio):
                if stream is not None:
                    self._input.prepare(stream)
            if self._video is None and self._audio is None:
                raise MediaError(self.path, "no video or audio track that can be decoded")
        except MediaError:
            self.close()
            raise
        self._clock = Clock(self._input, self._video, self._audio)
        self._fresh, self._must_reopen = True, False
        if self._input.extent.may_restart:
            bad_packets = self.bad_packets
            try:
                self._clock.read_timeline(self._demux)
            except OSError as error:
                self.close()
                raise MediaError(self.path, first_line(error)) from error
            except BaseException:
                self.close()
                raise
            finally:
                self.bad_packets = bad_packets  # they are counted when they are decoded
        self._is_sequential = self._needs_sequential_read()

    def _needs_sequential_read(self) -> bool:
        """Return whether seeking is inexact, so that the file is always read from its beginning."""
        name, codec = self._container.format.name, ""
        if self._audio is not None:
            codec = self._audio.codec_context.codec.canonical_name
        if codec and (
            (name in BYTE_RATE and not codec.startswith("pcm_")) or (name == "ogg" and codec not in OGG_CODECS)
        ):
            return True
        timeline = self._clock.timeline
        return name in (*UNSEEKABLE, *RAW_VIDEO) or (timeline is not None and bool(timeline.shifts))

    def _probe(self) -> MediaInfo:
        video, audio = self._video, self._audio
        width, height = (video.codec_context.width, video.codec_context.height) if video else (0, 0)
        return MediaInfo(
            duration_s=self._clock.duration_s(self._demux),
            has_video=video is not None,
            has_audio=audio is not None,
            width=width,
            height=height,
            fps=float(video.average_rate or 0) if video else 0.0,
            sample_rate=audio.codec_context.sample_rate if audio else 0,
            is_picture=video is not None and audio is None and is_still_format(self._container.format.name),
            video_codec=video.codec_context.name if video else "",
            audio_codec=audio.codec_context.name if audio else "",
            video_s=self._clock.end_s(video),
            audio_s=self._clock.end_s(audio),
            undecodable=describe_undecodable(self._container),
        )

    def packet_times_s(self) -> np.ndarray | None:
        """When the packets of picture and sound begin, ascending; None if some do not tell.

        Raises:
            MediaError: reading takes too long.
        """
        self._begin_call(self.time_limit_s)
        self._go_to("video", None)
        streams, times_s = [stream for stream in (self._video, self._audio) if stream is not None], array("d")
        for packet in self._demux(*streams):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None:
                times_s.append(float(stamp * packet.time_base) - self._clock.origin_s)
            elif packet.size:
                return None
        return np.sort(np.frombuffer(times_s))

    def _begin_call(self, time_limit_s: float) -> None:
        """Set the time limit of all reads of one call."""
        self._until = time.monotonic() + time_limit_s
        self._input.limit(time_limit_s)

    def _check_time(self) -> None:
        if time.monotonic() >= self._until:
            raise MediaError(self.path, f"reading took longer than {self.time_limit_s:g} s")

    def _demux(self, *streams: Any) -> Iterator[av.Packet]:
        """Packets until the end, or until the container cannot be read any further."""
        self._fresh = False
        packets = self._input.demux(*streams)
        timeline = self._clock.timeline
        shifts = {} if timeline is None else timeline.shifts
        counts = dict.fromkeys(shifts, 0)
        while True:
            self._check_time()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.bad_packets += 1
                return
            # These files are read from the beginning: see `_needs_sequential_read`.
            if shifts and (packet.size or repeats_frame(packet)):
                shift_timestamps(packet, shifts.get(packet.stream_index, ()), counts)
            yield packet

    def _decode_from(
        self, kind: Literal["video", "audio"], start_s: float, shown_s: Sequence[float] = ()
    ) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their times, beginning at or before ``start_s`` where the file has any there.

        With ``shown_s``, ascending times, pictures that are shown at none of them may be missing.
        """
        # A seek can land late (open groups of pictures, containers without an index), or at a packet that is wrongly
        # flagged as a key frame: then go further back, and at last to the beginning.
        self._begin_call(self.time_limit_s)
        start_s = max(start_s, self._begins_s(kind))
        back_s: float | None = 0.0
        while True:
            self._go_to(kind, None if back_s is None else start_s - back_s)
            whole = self._fresh
            frames = self._decode(kind, start_s, shown_s)
            first = next(frames, None)
            if whole or (first is not None and first[0] <= start_s + EARLY_S):
                break
            back_s = max(BACK_S, 2 * back_s)
            if back_s >= start_s:
                back_s = None
        if first is not None:
            yield first
            yield from frames

    def _begins_s(self, kind: str) -> float:
        """When the track begins, as the header has it; never before the start of the file."""
        stream = self._stream(kind)
        return max(0.0, float((stream.start_time or 0) * stream.time_base) - self._clock.origin_s)

    def _go_to(self, kind: str, start_s: float | None) -> None:
        """Seek to before ``start_s``, or to the very beginning of the file."""
        if self._fresh and (start_s is None or start_s < NEAR_START_S or self._is_sequential):
            return
        if start_s is not None and not self._is_sequential and not self._must_reopen:
            stream = self._stream(kind)
            try:
                self._input.seek(int((start_s + self._clock.origin_s) / stream.time_base), stream=stream)
            except (av.FFmpegError, OSError):
                pass  # a container that cannot seek is read from its beginning
            else:
                self._fresh = False
                return
        self.close()
        self._fresh = False
        self._open()

    def _stream(self, kind: str) -> Any:
        return self._video if kind == "video" else self._audio

    def _decode(self, kind: str, start_s: float, shown_s: Sequence[float]) -> Iterator[tuple[float, Any]]:
        stream = self._stream(kind)
        step_s = 1.0 / float(stream.average_rate) if kind == "video" and stream.average_rate else 0.0
        next_s = 0.0
        # A seek in these formats lands anywhere: the content of the first packet may begin in the one before.
        is_partial = not self._fresh and self._container.format.name in UNANCHORED
        # Frames between a seek and the first key frame refer to others that were not decoded.
        needs_key = not self._fresh and kind == "video"
        packets = self._video_packets(start_s) if kind == "video" else self._audio_packets(start_s)
        # After a restart, FFmpeg computes no decoding timestamps, which `leave_out` needs.
        restarts = self._clock.timeline is not None and bool(self._clock.timeline.restarts_s)
        if shown_s and not restarts and can_leave_out(stream.codec_context):
            packets = self._leave_out(packets, shown_s)
        is_ogg = kind == "audio" and self._container.format.name == "ogg"
        for packet in packets:
            if is_ogg and begins_link(packet):
                stream.codec_context.flush_buffers()  # links of a chained file do not overlap
            try:
                frames = self._input.decode(packet)
            except (av.FFmpegError, OSError, ValueError) as error:
                self._decoder_message = (getattr(error, "log", None) or ("", "", first_line(error)))[2].strip()
                self.bad_packets += not (is_partial or needs_key)
                continue
            finally:
                is_partial = False
            for frame in frames:
                stamp = frame.pts if frame.pts is not None else frame.dts
                at_s = next_s if stamp is None else float(stamp * stream.time_base) - self._clock.origin_s
                # Only the first frame of a packet of audio has a timestamp.
                next_s = at_s + (step_s if kind == "video" else frame.samples / max(frame.sample_rate, 1))
                if needs_key and not frame.key_frame:
                    if at_s > start_s + EARLY_S:
                        return
                    continue
                needs_key = False
                yield at_s, frame

    def _video_packets(self, start_s: float) -> Iterator[av.Packet]:
        packets = self._input.reorder(self._demux(self._video), self._video)
        return from_key_before(packets, start_s, self._at_s) if self._is_sequential else packets

    def _audio_packets(self, start_s: float) -> Iterator[av.Packet]:
        packets = self._demux(self._audio)
        if not self._is_sequential:
            return packets
        if self._container.format.name in (*BYTE_RATE, "ogg"):
            start_s -= CONVERGENCE_S.get(self._audio.codec_context.codec.canonical_name, math.inf)
        return from_last_before(packets, start_s, partial(self._at_s, kind="audio"))

    def _leave_out(self, packets: Iterator[av.Packet], shown_s: Sequence[float]) -> Iterator[av.Packet]:
        return leave_out(packets, shown_s, self._at_s, self._video.codec_context)

    def _at_s(self, stamp: int, kind: str = "video") -> float:
        """Seconds of a timestamp of a track."""
        return float(stamp * self._stream(kind).time_base) - self._clock.origin_s
