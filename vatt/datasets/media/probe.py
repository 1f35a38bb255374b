"""What the packets of a media file tell: frame rate, key frames, ends of the tracks, and whether it was cut off.

The header of a file says what its writer meant to write, the packets say what is there. All of them are read, and none
is decoded.

**Duplicates by content.** The content hash is taken over the packets of picture and sound, in order, with the names
of the codecs, the size of the picture, the number of pictures that are shown (an edit list hides others), and the rate
and the channels of the sound. It is equal for copies, and for the same streams in another container (MP4 and Matroska),
under other tags or with another rotation. It differs as soon as anything was encoded anew, and for MPEG-TS, which
writes the packets of H.264 differently. Containers round times, so these are not in it: whoever compares hashes must
compare lengths and rates as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import av
import numpy as np

from vatt.datasets.media.damage import jpeg_is_whole
from vatt.datasets.media.demuxing import MediaInput, first_line, repeats_frame
from vatt.datasets.media.facts import SLACK_S, MediaError, NoMedia, longest_s
from vatt.datasets.media.remote import is_url
from vatt.datasets.media.source import read_bytes
from vatt.datasets.media.timeline import compute_timeline
from vatt.datasets.media.timestamps import UNANCHORED, Timestamps, TrackTimes
from vatt.datasets.media.tracks import TrackInfo, choose_tracks, describe_undecodable, list_tracks

CUT_S = 0.5  # data that end this much before the header says were cut off
GAP_S = 0.5  # sound that pauses for so long has lost packets; encoders that save on silence pause for 0.4 s
EVEN_S = 0.0015  # Matroska rounds times to milliseconds: an even frame rate strays by so much
# Formats whose header says how long the file is; for the others FFmpeg estimates it from the data.
PROMISING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "flac", "asf", "wav")
PICTURES = ("image2", "jpeg_pipe")  # formats of single JPEG pictures


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


@dataclass
class Packets:
    """All packets of a file.

    Args:
        container: FFmpeg's name of the format.
        video, audio: The tracks that are read (see `vatt.datasets.media.tracks`); None without a packet.
        listing: All tracks of the file.
        longest_s: Longest plausible duration of the file in seconds (`vatt.datasets.media.facts.longest_s`).
        begin_s, end_s: of everything, on the container's own clock.
        is_measured: Whether readers also measure the duration by the times of all packets.
        cut: how it is known that the file was cut off; empty if it was not.
        problems: what else is wrong, in words.
    """

    container: str
    listing: list[TrackInfo]
    video: Track | None
    audio: Track | None
    longest_s: float = math.inf
    begin_s: float = 0.0
    end_s: float = 0.0
    is_measured: bool = False
    cut: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def tracks(self) -> list[Track]:
        """Picture and sound, as far as they are there."""
        return [track for track in (self.video, self.audio) if track is not None]

    def duration_s(self, said_s: float) -> float:
        """Length of picture and sound: what the header says, but only if it knows and the data agree.

        Args:
            said_s: by the header, or estimated by FFmpeg.
        """
        if self.is_measured:
            return said_s
        ends_s = [track.end_s for track in self.tracks if track.times_s]
        found_s = max(ends_s, default=self.end_s) - self.begin_s
        if self.cut:
            return min(said_s, found_s)
        if found_s > self.longest_s:
            return said_s
        # The last packet of audio may be as long as the others by the container, and have fewer samples.
        last_s = (
            self.audio.last_packet_s
            if self.audio is not None and self.audio.end_s == max(ends_s, default=math.nan)
            else 0.0
        )
        if 0 < said_s <= found_s < said_s + last_s:
            return said_s
        if not ends_s or abs(found_s - said_s) <= SLACK_S or not all(track.timed for track in self.tracks):
            return said_s
        return found_s

    def content_hash(self) -> str:
        """Hexadecimal, 32 digits: see the head of this file."""
        return blake2b(b"".join(track.digest for track in self.tracks), digest_size=16).hexdigest()


def read_packets(path: str, time_limit_s: float = math.inf) -> Packets:
    """Read every packet of a file.

    Args:
        path: see `vatt.datasets.media.source`.
        time_limit_s: Time limit for opening, and for all reads after it, in seconds.

    Raises:
        NoMedia: The file is not a media file, or has neither video nor audio.
        MediaError: It cannot be opened, refers to other files, or reading takes longer than the limit.
        OSError: a server fails.
    """
    try:
        opened = MediaInput(path, time_limit_s)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _not_opened(path, error) from None
    with opened as media:
        container = media.container
        listing = list_tracks(media)
        video, audio = (None if stream is None else Track(stream) for stream in choose_tracks(media))
        found = Packets(container.format.name, listing, video, audio, longest_s(opened.size))
        found.is_measured = opened.needs_all_packets()
        if undecodable := describe_undecodable(container):
            found.problems.append(undecodable)
        if not found.tracks:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
            raise NoMedia(path, f"no video or audio track that can be decoded ({kinds})")
        _read(media, found)
        found.video, found.audio = (track if track and track.packets else None for track in (video, audio))
        if not found.tracks:
            raise MediaError(path, "no packet of picture or sound is in it")
        _look_for_an_early_end(media, found)
    return found


def _read(media: MediaInput, found: Packets) -> None:
    tracks = {track.index: track for track in found.tracks}
    partial: list[tuple[float, int, int]] = []  # time, stream and number of incomplete packets
    end_s, last_is_partial = 0.0, False
    try:
        for packet in media.demux():
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # PyAV's mark for the end of a stream
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            last_is_partial = packet.is_corrupt and not media.is_open_ended  # whose last packet is always incomplete
            if last_is_partial:
                partial.append((end_s, packet.stream_index, getattr(tracks.get(packet.stream_index), "packets", 0)))
            if packet.stream_index in tracks and (packet.size or repeats_frame(packet)):
                track = tracks[packet.stream_index]
                track.add(packet)
                is_jpeg = found.container in PICTURES and track.codec == "mjpeg" and track.packets == 1
                if is_jpeg and not jpeg_is_whole(bytes(packet)):
                    found.cut = "the picture ends before its end marker"
    except (av.FFmpegError, OSError) as error:
        found.problems.append(f"cannot be read further than {end_s:.2f} s: {first_line(error)}")
    timeline, times = compute_timeline([track.stamps for track in found.tracks])
    if found.is_measured:
        last_position = max(track.stamps.last_position for track in found.tracks)
        media.refuse_second_file(last_position, restarts=bool(timeline.restarts_s))
    for track in found.tracks:
        if track.packets:
            track.finish(times[track.index])
        if track.gap is not None:
            found.problems.append(f"no sound from {track.gap[0]:.2f} s to {track.gap[1]:.2f} s: lost packets")
    if timeline.restarts_s and not found.is_measured:
        found.problems.append(f"its timestamps restart at {timeline.restarts_s[0]:.2f} s")
    timed = [track for track in found.tracks if track.times_s]
    found.begin_s = min((track.begin_s for track in timed), default=0.0)
    if found.container not in UNANCHORED:
        found.begin_s = max(0.0, found.begin_s)
    found.end_s = max((track.end_s for track in timed), default=end_s)
    found.end_s = media.container_end_s(found.end_s) if found.is_measured else max(found.end_s, end_s)
    if found.end_s > found.longest_s:
        found.problems.append(f"its timestamps reach {found.end_s:.0f} s, which is implausible for its size in bytes")
    if last_is_partial:
        found.cut = f"cut off within a packet at {partial.pop()[0]:.2f} s"
    partial = [part for part in partial if not _is_at_restart(times.get(part[1]), part[2])]
    if partial:
        found.problems.append(f"packets that are not whole: {len(partial)}, the first at {partial[0][0]:.2f} s")


def _is_at_restart(times: TrackTimes | None, number: int) -> bool:
    """Return whether a packet counts as corrupt only because the continuity counter of MPEG-TS restarts near it."""
    return times is not None and not times.restarts.isdisjoint(range(number, number + 3))


def _look_for_an_early_end(media: MediaInput, found: Packets) -> None:
    container = media.container
    if found.container == "mp3" and found.audio is not None:
        # FFmpeg does not tell whether it found a count of the frames or estimated the duration.
        promised_s = media.counted_samples(found.audio.first_at) / max(found.audio.sample_rate, 1)
    elif found.container in PROMISING:
        promised_s = (container.duration or 0) / av.time_base
    else:
        return
    if found.container == "avi" and found.video is not None:  # FFmpeg corrects its duration by the size of the file
        promised_s = max(promised_s, found.video.promised_s)
    if promised_s - found.end_s > CUT_S:
        found.cut = f"the header promises {promised_s:.2f} s, the data end at {found.end_s:.2f} s"


def _not_opened(path: str, error: Exception) -> MediaError:
    """Why FFmpeg does not open a file, as far as its first bytes tell."""
    head = b""
    if not is_url(path):
        try:
            head = read_bytes(path, 0, 512)
        except OSError as unreadable:
            return MediaError(path, first_line(unreadable))
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return NoMedia(path, "a web page (HTML), perhaps in place of a failed download")
    if head and not any(head):
        return NoMedia(path, "begins with zeros, like a file that was never filled")
    if head and all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return NoMedia(path, "plain text")
    said = (getattr(error, "log", None) or (0, "", ""))[2].strip()
    if "moov atom not found" in said:  # which FFmpeg also says of anything that is only called .mp4
        if head[4:8] in (b"ftyp", b"mdat", b"free", b"wide"):
            return MediaError(path, "has no index (moov atom): cut off, or never finished")
        said = ""
    return MediaError(path, first_line(error) + (f" ({said})" if said else ""))
