"""Facts on the packets of one track: times, frame rate, key frames, gaps and a hash of their content."""

from __future__ import annotations

import math
from bisect import bisect_left
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import av
import numpy as np

from vatt.media.timing.timestamps import Timestamps, TrackTimes

GAP_S = 0.5  # sound that pauses for so long has lost packets; encoders that save on silence pause for 0.4 s
EVEN_S = 0.0015  # Matroska rounds times to milliseconds: an even frame rate strays by so much


class Track:
    """The packets of the picture or of the sound.

    Args:
        stream: of PyAV.

    Attributes:
        times_s: when the packets are shown, ascending once all are read.
        keys_s: the times of the key frames.
        timed: every packet has a time.
        packets: how many there are.
        first_at: byte at which the first one begins, if that is known.
        last_packet_s: Duration of the last packet in seconds, as the container gives it.
        gap: beginning and end of the first long pause of a sound, in seconds.
        promised_s: the duration that the header of an AVI file promises; for others it means nothing.
    """

    def __init__(self, stream: Any) -> None:
        decoder = stream.codec_context
        self.index, self.kind, self.codec = stream.index, stream.type, decoder.codec.canonical_name
        self.width, self.height = (decoder.width, decoder.height) if self.kind == "video" else (0, 0)
        self.sample_rate, self.layout, self.channels = 0, "", 0
        if self.kind == "audio":
            self.sample_rate, self.channels = decoder.sample_rate, decoder.layout.nb_channels
            self.layout = "" if decoder.layout.name.endswith("channels") else decoder.layout.name  # "2 channels"
        self.times_s: list[float] = []
        self.keys_s: list[float] = []
        self.timed = True
        self.packets = 0
        self.first_at: int | None = None
        self.gap: tuple[float, float] | None = None
        self._base_s = float(stream.time_base)
        self.promised_s = stream.frames * self._base_s
        # In MP4 the first packets of AAC lie before the start: their samples are dropped.
        self._start_s = -math.inf if stream.start_time is None else stream.start_time * self._base_s
        self._until_s = -math.inf
        self.last_packet_s = 0.0
        self.stamps = Timestamps(stream)
        self._keys: list[bool] = []
        about = f"{self.codec} {self.width} {self.height} {self.sample_rate} {self.channels}"
        self._hash = blake2b(about.encode())

    def add(self, packet: av.Packet) -> None:
        """Take note of the next packet."""
        self.first_at = self.first_at if self.packets else packet.pos
        self.packets += 1
        self._hash.update(packet)
        self.stamps.add(packet)
        self._keys.append(packet.is_keyframe)
        self.timed = self.timed and packet.pts is not None

    def finish(self, times: TrackTimes) -> None:
        """Store the times of all packets, which are computed after the last one."""
        begins_s, ends_s = times.times_s()
        known = ~np.isnan(begins_s)
        begins_s, ends_s = begins_s[known], ends_s[known]
        self.times_s = np.sort(begins_s).tolist()
        self.keys_s = np.sort(begins_s[np.array(self._keys, bool)[known]]).tolist()
        if not self.times_s:
            return
        self._until_s = times.end_s()
        self.last_packet_s = float(ends_s[begins_s.argmax()] - begins_s.max())
        gaps = np.flatnonzero(begins_s[1:] - np.maximum.accumulate(ends_s)[:-1] > GAP_S)
        if self.kind == "audio" and len(gaps):
            self.gap = float(ends_s[: gaps[0] + 1].max()), float(begins_s[gaps[0] + 1])

    @property
    def digest(self) -> bytes:
        """Hash of everything the packets hold, and of how many pictures are shown."""
        hidden = self.kind == "video" and bool(self.times_s) and self.count(-math.inf, self.begin_s - EVEN_S)
        whole = self._hash.copy()
        whole.update(f"{self.packets - hidden}".encode())
        return whole.digest()

    @property
    def begin_s(self) -> float:
        """Start on the container's own clock."""
        return max(self.times_s[0], self._start_s)

    @property
    def end_s(self) -> float:
        """End on the container's own clock; a last picture without a duration is shown as long as the others."""
        return self._until_s

    def fps(self) -> float | None:
        """Frames per second; None for less than two frames."""
        return round(1 / self._step_s(), 3) if self._step_s() else None

    def constant_fps(self) -> bool | None:
        """Whether every frame stands where an even rate puts it; None if that cannot be known."""
        step_s = self._step_s()
        if len(self.times_s) < 3 or not self.timed or not step_s:
            return None
        slack_s = min(max(EVEN_S, 1.1 * self._base_s), step_s / 4)
        return all(abs(at_s - self.times_s[0] - i * step_s) <= slack_s for i, at_s in enumerate(self.times_s))

    def gop_s(self) -> float | None:
        """Longest stretch from a key frame to the next one, or to the end; None without key frames."""
        return round(max(b - a for a, b in pairwise([*self.keys_s, self.end_s])), 3) if self.keys_s else None

    def count(self, begin_s: float, end_s: float) -> int:
        """Packets shown in a span, its end excluded."""
        return bisect_left(self.times_s, end_s) - bisect_left(self.times_s, begin_s)

    def _step_s(self) -> float:
        return (self.times_s[-1] - self.times_s[0]) / (len(self.times_s) - 1) if len(self.times_s) > 1 else 0.0
