"""An open media file as packets and decoded frames on one clock, whose second 0 is where the file begins to play."""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Literal

import av
import numpy as np

from vatt.datasets.media.demuxing import (
    SHORTEST_OPEN_S,
    MediaInput,
    first_line,
    is_still_format,
)
from vatt.datasets.media.facts import SLACK_S, MediaError, MediaInfo, longest_s
from vatt.datasets.media.tracks import choose_tracks

EARLY_S = 0.001  # Matroska rounds times to milliseconds: a frame this much later still counts as on time
NEAR_START_S = 1.5  # closer to the start of the file than this it is cheaper to decode than to seek
UNANCHORED = ("mpegts", "mpeg")  # formats whose times have no zero
UNSEEKABLE = ("mpeg",)  # a seek lands where the next packets have no times of their own, and FFmpeg guesses them
LEAVES_OUT = ("h264", "hevc")  # decoders that leave out a picture no other one needs, and give the others unchanged


class Container:
    """What `vatt.datasets.media.decoding.Media` reads its frames and samples from.

    Args:
        path: the file: see `vatt.datasets.media.source`.
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
        self._until = time.monotonic() + max(time_limit_s, SHORTEST_OPEN_S)
        self._open()
        self._begin_call(max(time_limit_s, SHORTEST_OPEN_S))
        try:
            self.info = self._probe()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free the file and its decoders."""
        self._input.close()

    def _open(self) -> None:
        self._check_time()
        self._must_reopen = True
        try:
            self._input = MediaInput(self.path, self._until - time.monotonic())
        except OSError as error:  # PyAV's errors for missing files and blocked reads are OSErrors too
            raise MediaError(self.path, first_line(error)) from error
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(self.path, f"no readable media: {first_line(error)}") from error
        self._input.limit(self._until - time.monotonic())
        self._container, size = self._input.container, self._input.size
        self._longest_s = longest_s(size)
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
        self._origin_s = self._begin_of_clock()
        self._fresh, self._must_reopen = True, False

    def _begin_of_clock(self) -> float:
        """What second 0 is in the file's own times."""
        if self._container.format.name in UNANCHORED and self._video is not None and self._video.start_time:
            # These begin at any time, and with sound that the encoder put in front: the first picture is 0.
            return float(self._video.start_time * self._video.time_base)
        # A start below zero belongs to samples that the decoder drops (the priming of AAC and Opus).
        return max(0.0, (self._container.start_time or 0) / av.time_base)

    def _probe(self) -> MediaInfo:
        video, audio = self._video, self._audio
        width, height = (video.codec_context.width, video.codec_context.height) if video else (0, 0)
        return MediaInfo(
            duration_s=self._duration_s(),
            has_video=video is not None,
            has_audio=audio is not None,
            width=width,
            height=height,
            fps=float(video.average_rate or 0) if video else 0.0,
            sample_rate=audio.codec_context.sample_rate if audio else 0,
            is_picture=video is not None and audio is None and is_still_format(self._container.format.name),
            video_codec=video.codec_context.name if video else "",
            audio_codec=audio.codec_context.name if audio else "",
            video_s=math.inf if self._input.is_joined else _end_s(video, self._origin_s),
            audio_s=math.inf if self._input.is_joined else _end_s(audio, self._origin_s),
        )

    def _duration_s(self) -> float:
        """From the header, or, where it does not say what can be, from the times of the packets.

        Raises:
            MediaError: their times cannot be right either.
        """
        # Matroska may count its duration from 0, wherever its times begin.
        is_unclear = "matroska" in self._container.format.name and self._origin_s > SLACK_S
        is_unclear = is_unclear or self._input.is_joined
        said_s = (self._container.duration or 0) / av.time_base
        if 0 < said_s <= self._longest_s and not is_unclear:
            return said_s
        if is_unclear:
            with suppress(av.FFmpegError, OSError):
                self._input.seek(self._container.duration or 0)
        end_s = 0.0
        for packet in self._demux(*self._container.streams):
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._origin_s)
        if end_s > self._longest_s:
            raise MediaError(
                self.path, f"its timestamps reach {end_s:.0f} s, which is implausible for its size in bytes"
            )
        return end_s

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
                times_s.append(float(stamp * packet.time_base) - self._origin_s)
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
        while True:
            self._check_time()
            try:
                yield next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.bad_packets += 1
                return

    def _decode_from(
        self, kind: Literal["video", "audio"], start_s: float, shown_s: Sequence[float] = ()
    ) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their times, beginning at or before ``start_s`` where the file has any there.

        With ``shown_s``, ascending times, pictures that are shown at none of them may be missing.
        """
        # A seek can land late (open groups of pictures, containers without an index): then go further back, and
        # at last to the beginning.
        self._begin_call(self.time_limit_s)
        start_s = max(start_s, self._begins_s(kind))
        for back_s in (0.0, 5.0, None):
            self._go_to(kind, None if back_s is None else start_s - back_s)
            whole = self._fresh
            frames = self._decode(kind, start_s, shown_s)
            first = next(frames, None)
            if whole or (first is not None and first[0] <= start_s + EARLY_S):
                break
        if first is not None:
            yield first
            yield from frames

    def _begins_s(self, kind: str) -> float:
        """When the track begins, as the header has it; never before the start of the file."""
        stream = self._stream(kind)
        return max(0.0, float((stream.start_time or 0) * stream.time_base) - self._origin_s)

    def _go_to(self, kind: str, start_s: float | None) -> None:
        """Seek to before ``start_s``, or to the very beginning of the file."""
        if self._fresh and (start_s is None or start_s < NEAR_START_S):
            return
        if start_s is not None and self._container.format.name not in UNSEEKABLE and not self._must_reopen:
            stream = self._stream(kind)
            try:
                self._input.seek(int((start_s + self._origin_s) / stream.time_base), stream=stream)
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
        # A seek in these formats lands anywhere: what the first packet holds may have begun in the one before.
        torn = not self._fresh and self._container.format.name in UNANCHORED
        packets = self._demux(stream)
        if self._container.format.name == "avi" and stream.codec_context.name in LEAVES_OUT:
            packets = _without_guesses(packets)
        if self._container.format.name in UNSEEKABLE:
            packets = self._from_key_before(packets, start_s)
        if shown_s and _can_leave_out(stream.codec_context):
            packets = self._leave_out(packets, shown_s)
        for packet in packets:
            try:
                frames = self._input.decode(packet)
            except (av.FFmpegError, OSError, ValueError):
                self.bad_packets += not torn
                continue
            finally:
                torn = False
            for frame in frames:
                stamp = frame.pts if frame.pts is not None else frame.dts
                at_s = next_s if stamp is None else float(stamp * stream.time_base) - self._origin_s
                next_s = at_s + step_s
                yield at_s, frame

    def _from_key_before(self, packets: Iterator[av.Packet], start_s: float) -> Iterator[av.Packet]:
        """Packets, read from the beginning of the file, without those that decoding from ``start_s`` on can spare."""
        held: list[av.Packet] = []
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                if float(packet.pts * packet.time_base) - self._origin_s > start_s + EARLY_S:
                    held.append(packet)
                    break
                held.clear()
            held.append(packet)
        yield from held
        yield from packets

    def _leave_out(self, packets: Iterator[av.Packet], shown_s: Sequence[float]) -> Iterator[av.Packet]:
        """The packets, with the decoder told to leave out pictures that nobody sees and no other picture needs."""
        held: list[av.Packet] = []
        known = True
        for packet in packets:
            held.append(packet)
            known = known and (packet.size == 0 or (packet.pts is not None and packet.dts is not None))
            if not known or (packet.dts is not None and self._at_s(packet.dts) > shown_s[-1] + EARLY_S):
                break  # every later picture is shown later
        if not known:
            yield from chain(held, packets)
            return
        stamps = sorted({packet.pts for packet in held if packet.size and not packet.is_discard})
        times_s = [self._at_s(stamp) for stamp in stamps]
        seen = {stamps[max(0, bisect_right(times_s, at_s + EARLY_S) - 1)] for at_s in shown_s} if stamps else set()
        decoder = self._video.codec_context
        try:
            for packet in chain(held, packets):
                decoder.skip_frame = "DEFAULT" if packet.pts in seen else "NONREF"
                yield packet
        finally:
            decoder.skip_frame = "DEFAULT"

    def _at_s(self, stamp: int) -> float:
        """Seconds of a stamp of the picture track."""
        return float(stamp * self._video.time_base) - self._origin_s


def _can_leave_out(decoder: Any) -> bool:
    """Whether a picture that FFmpeg calls a non-reference is one; in layered HEVC other layers may refer to it."""
    if decoder.name != "hevc":
        return decoder.name in LEAVES_OUT
    header = decoder.extradata or b""  # hvcC, ISO/IEC 14496-15, 8.3.3.1.2: numTemporalLayers in byte 21
    return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1


def _without_guesses(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Packets of AVI, which has no times of pictures: without those that FFmpeg invents, the decoder orders them."""
    for packet in packets:
        packet.pts = None
        yield packet


def _end_s(stream: Any, origin_s: float) -> float:
    """When a track ends, if the header says so."""
    if stream is None or not stream.duration:
        return math.inf
    return max(0.0, float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s)
