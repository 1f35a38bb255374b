"""The clock of an open media file: its second 0, the timeline of its packets, and the ends of file and tracks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import av

from vatt.media.demuxing import MediaInput
from vatt.media.formats.repairs import repeats_frame
from vatt.media.sources.files import state
from vatt.media.sources.remote import is_url
from vatt.media.timing.timeline import Timeline, cached_timeline, compute_timeline
from vatt.media.timing.timestamps import UNANCHORED, UNINDEXED, Timestamps
from vatt.media.types import SLACK_S, MediaError, longest_s

FROM_ZERO = ("matroska,webm", "nut", "wtv")  # formats whose duration may be counted from 0
Demux = Callable[..., Iterator[av.Packet]]


class Clock:
    """The clock on which a file is presented, from its header and, where that is wrong, from all packets.

    Args:
        media: The file.
        video, audio: Its tracks; None without one.

    Attributes:
        origin_s: Second 0 in the file's own times.
        timeline: Timeline by all packets; None if it was not read, or if the timestamps of the file are right.
    """

    def __init__(self, media: MediaInput, video: Any, audio: Any) -> None:
        self._media, self._container, self._video, self._audio = media, media.container, video, audio
        self._longest_s = longest_s(media.size)
        self.timeline: Timeline | None = None
        self.origin_s = self._begin_of_clock()

    def _begin_of_clock(self) -> float:
        """What second 0 is in the file's own times."""
        if self._container.format.name in UNANCHORED:
            # These begin at any time, also before 0, and with audio that the encoder put in front of the video.
            if self._video is not None and self._video.start_time is not None:
                return float(self._video.start_time * self._video.time_base)
            return (self._container.start_time or 0) / av.time_base
        # A start below zero belongs to samples that the decoder drops (the priming of AAC and Opus).
        start_s = max(0.0, (self._container.start_time or 0) / av.time_base)
        if self._container.format.name in UNINDEXED and self._video is not None and self._video.start_time is not None:
            # FLV, ASF, Ogg and raw video begin with such samples as well.
            video_s = float(self._video.start_time * self._video.time_base)
            start_s = video_s if start_s < video_s <= start_s + SLACK_S else start_s
        return start_s

    def read_timeline(self, demux: Demux) -> None:
        """Read the timeline of a file whose header may not describe all of it.

        Args:
            demux: Returns the packets of streams.

        Raises:
            OSError: The state of the file cannot be read.
            MediaError: The file contains another one, or reading takes too long.
        """
        media = self._media
        file = (media.size, 0) if is_url(media.path) else state(media.path)
        streams = (stream.index for stream in (self._video, self._audio) if stream is not None)
        self.timeline = cached_timeline((media.path, *file, *streams), lambda: self._compute_timeline(demux))
        if media.container.format.name == "asf" and self.timeline is not None and self._video is not None:
            begin_s, _ = self.timeline.spans_s.get(self._video.index, (math.nan, math.nan))  # with B-frames
            self.origin_s = begin_s if self.origin_s < begin_s <= self.origin_s + SLACK_S else self.origin_s

    def _compute_timeline(self, demux: Demux) -> Timeline | None:
        """Return the timeline of the file, by all of its packets; None if its own timestamps are right."""
        if not self._media.extent.needs_all_packets():
            return None
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        stamps = {stream.index: Timestamps(stream) for stream in streams}
        for packet in demux(*streams):
            if packet.size or repeats_frame(packet):
                stamps[packet.stream_index].add(packet)
        timeline, _ = compute_timeline(list(stamps.values()))
        last_position = max(track.last_position for track in stamps.values())
        self._media.extent.refuse_second_file(last_position, restarts=bool(timeline.restarts_s))
        end_s = self._media.extent.container_end_s(timeline.end_s)
        if end_s > timeline.end_s and self._video is not None:  # of the last frame
            begin_s, _ = timeline.spans_s[self._video.index]
            timeline = replace(timeline, spans_s=timeline.spans_s | {self._video.index: (begin_s, end_s)}, end_s=end_s)
        return timeline

    def duration_s(self, demux: Demux) -> float:
        """Return the duration in seconds: by the timeline if there is one, else by the header, else by the packets.

        Args:
            demux: Returns the packets of streams.

        Raises:
            MediaError: The times of the packets are implausible as well.
        """
        if self.timeline is not None and not math.isnan(self.timeline.end_s):
            return self._plausible(max(0.0, self.timeline.end_s - self.origin_s))
        is_unclear = self._counts_from_zero and self.origin_s > SLACK_S
        header_s = (self._container.duration or 0) / av.time_base
        if self._container.format.name == "avi" and self._audio is not None and self.end_s(self._audio) < math.inf:
            header_s = max(header_s, self.end_s(self._audio))
        if 0 < header_s <= self._longest_s and not is_unclear:
            return header_s
        # If the seek lands after the last packet, the whole file is read.
        for target in (self._container.duration or 0, self._container.start_time or 0) if is_unclear else (None,):
            if target is not None:
                with suppress(av.FFmpegError, OSError):
                    self._media.seek(target)
            end_s = self._last_packet_end_s(demux)
            if end_s > 0:
                break
        return self._plausible(end_s)

    def _last_packet_end_s(self, demux: Demux) -> float:
        """Return the end of the last packet from the position in the file on; 0 without one."""
        end_s = 0.0
        for packet in demux(*self._container.streams):
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base) - self.origin_s)
        return end_s

    @property
    def _counts_from_zero(self) -> bool:
        """Whether the duration of the header may be counted from 0, wherever the times of the file begin."""
        return self._container.format.name in FROM_ZERO or self._media.extent.is_fragmented

    def _plausible(self, end_s: float) -> float:
        """Return a duration if it is plausible for the size of the file."""
        if end_s > self._longest_s:
            raise MediaError(
                self._media.path, f"its timestamps reach {end_s:.0f} s, which is implausible for its size in bytes"
            )
        return end_s

    def end_s(self, stream: Any) -> float:
        """Return the end of a track, by its packets if all were read, or else by the header; infinite if unknown."""
        if stream is None:
            return math.inf
        if self.timeline is not None:
            span_s = self.timeline.spans_s.get(stream.index, (0.0, math.nan))
            return math.inf if math.isnan(span_s[1]) else max(0.0, span_s[1] - self.origin_s)
        ticks = stream.duration or 0
        if self._container.format.name == "avi" and stream.type == "audio":
            ticks = max(ticks, stream.frames)  # its header may count bytes, its index counts packets
        if not ticks:
            return math.inf
        if self._counts_from_zero:
            return max(0.0, float(ticks * stream.time_base) - self.origin_s)
        return max(0.0, float(((stream.start_time or 0) + ticks) * stream.time_base) - self.origin_s)
