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
from dataclasses import dataclass, field
from hashlib import blake2b

import av

from vatt.media.demuxing import MediaInput, first_line
from vatt.media.formats.damage import jpeg_is_whole
from vatt.media.formats.repairs import repeats_frame
from vatt.media.opening import OPENING_ERRORS, opening_error
from vatt.media.timing.timeline import compute_timeline
from vatt.media.timing.timestamps import UNANCHORED, TrackTimes
from vatt.media.tracks.choice import choose_tracks
from vatt.media.tracks.listing import TrackInfo, describe_undecodable, list_tracks
from vatt.media.tracks.packets import Track
from vatt.media.types import SLACK_S, MediaError, NoMedia, longest_s

CUT_S = 0.5  # data that end this much before the header says were cut off
# Formats whose header says how long the file is; for the others FFmpeg estimates it from the data.
PROMISING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv", "flac", "asf", "wav")
PICTURES = ("image2", "jpeg_pipe")  # formats of single JPEG pictures


@dataclass
class Packets:
    """All packets of a file.

    Args:
        container: FFmpeg's name of the format.
        video, audio: The tracks that are read (see `vatt.media.tracks.choice`); None without a packet.
        listing: All tracks of the file.
        longest_s: Longest plausible duration of the file in seconds (`vatt.media.types.longest_s`).
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

    def duration_s(self, header_s: float) -> float:
        """Length of picture and sound: what the header says, but only if it knows and the data agree.

        Args:
            header_s: by the header, or estimated by FFmpeg.
        """
        if self.is_measured:
            return header_s
        ends_s = [track.end_s for track in self.tracks if track.times_s]
        measured_s = max(ends_s, default=self.end_s) - self.begin_s
        if self.cut:
            return min(header_s, measured_s)
        if measured_s > self.longest_s:
            return header_s
        # The last packet of audio may be as long as the others by the container, and have fewer samples.
        last_s = (
            self.audio.last_packet_s
            if self.audio is not None and self.audio.end_s == max(ends_s, default=math.nan)
            else 0.0
        )
        if 0 < header_s <= measured_s < header_s + last_s:
            return header_s
        if not ends_s or abs(measured_s - header_s) <= SLACK_S or not all(track.timed for track in self.tracks):
            return header_s
        return measured_s

    def content_hash(self) -> str:
        """Hexadecimal, 32 digits: see the head of this file."""
        return blake2b(b"".join(track.digest for track in self.tracks), digest_size=16).hexdigest()


def read_packets(path: str, time_limit_s: float = math.inf) -> Packets:
    """Read every packet of a file.

    Args:
        path: see `vatt.media.sources.files`.
        time_limit_s: Time limit for opening, and for all reads after it, in seconds.

    Raises:
        NoMedia: The file is not a media file, or has neither video nor audio.
        MediaError: It cannot be opened, refers to other files, or reading takes longer than the limit.
        OSError: a server fails.
    """
    try:
        opened = MediaInput(path, time_limit_s)
    except OPENING_ERRORS as error:
        raise opening_error(path, error) from None
    with opened as media:
        container = media.container
        listing = list_tracks(media)
        video, audio = (None if stream is None else Track(stream) for stream in choose_tracks(media))
        packets = Packets(container.format.name, listing, video, audio, longest_s(opened.size))
        packets.is_measured = opened.extent.needs_all_packets()
        if undecodable := describe_undecodable(container):
            packets.problems.append(undecodable)
        if not packets.tracks:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
            raise NoMedia(path, f"no video or audio track that can be decoded ({kinds})")
        _read(media, packets)
        packets.video, packets.audio = (track if track and track.packets else None for track in (video, audio))
        if not packets.tracks:
            raise MediaError(path, "no packet of picture or sound is in it")
        _look_for_an_early_end(media, packets)
    return packets


def _read(media: MediaInput, packets: Packets) -> None:
    tracks = {track.index: track for track in packets.tracks}
    partial: list[tuple[float, int, int]] = []  # time, stream and number of incomplete packets
    end_s, last_is_partial = 0.0, False
    try:
        for packet in media.demux():
            if packet.dts is None and packet.pts is None and not packet.size:
                continue  # PyAV's mark for the end of a stream
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            last_is_partial = packet.is_corrupt and not media.extent.is_open_ended  # whose last packet is never whole
            if last_is_partial:
                partial.append((end_s, packet.stream_index, getattr(tracks.get(packet.stream_index), "packets", 0)))
            if packet.stream_index in tracks and (packet.size or repeats_frame(packet)):
                track = tracks[packet.stream_index]
                track.add(packet)
                is_jpeg = packets.container in PICTURES and track.codec == "mjpeg" and track.packets == 1
                if is_jpeg and not jpeg_is_whole(bytes(packet)):
                    packets.cut = "the picture ends before its end marker"
    except (av.FFmpegError, OSError) as error:
        packets.problems.append(f"cannot be read further than {end_s:.2f} s: {first_line(error)}")
    timeline, times = compute_timeline([track.stamps for track in packets.tracks])
    if packets.is_measured:
        last_position = max(track.stamps.last_position for track in packets.tracks)
        media.extent.refuse_second_file(last_position, restarts=bool(timeline.restarts_s))
    for track in packets.tracks:
        if track.packets:
            track.finish(times[track.index])
        if track.gap is not None:
            packets.problems.append(f"no sound from {track.gap[0]:.2f} s to {track.gap[1]:.2f} s: lost packets")
    if timeline.restarts_s and not packets.is_measured:
        packets.problems.append(f"its timestamps restart at {timeline.restarts_s[0]:.2f} s")
    timed = [track for track in packets.tracks if track.times_s]
    packets.begin_s = min((track.begin_s for track in timed), default=0.0)
    if packets.container not in UNANCHORED:
        packets.begin_s = max(0.0, packets.begin_s)
    packets.end_s = max((track.end_s for track in timed), default=end_s)
    packets.end_s = media.extent.container_end_s(packets.end_s) if packets.is_measured else max(packets.end_s, end_s)
    if packets.end_s > packets.longest_s:
        packets.problems.append(
            f"its timestamps reach {packets.end_s:.0f} s, which is implausible for its size in bytes"
        )
    if last_is_partial:
        packets.cut = f"cut off within a packet at {partial.pop()[0]:.2f} s"
    partial = [part for part in partial if not _is_at_restart(times.get(part[1]), part[2])]
    if partial:
        packets.problems.append(f"packets that are not whole: {len(partial)}, the first at {partial[0][0]:.2f} s")


def _is_at_restart(times: TrackTimes | None, number: int) -> bool:
    """Return whether a packet counts as corrupt only because the continuity counter of MPEG-TS restarts near it."""
    return times is not None and not times.restarts.isdisjoint(range(number, number + 3))


def _look_for_an_early_end(media: MediaInput, packets: Packets) -> None:
    container = media.container
    if not any(track.times_s for track in packets.tracks):  # such as of ADPCM in WAV
        return
    if packets.container == "mp3" and packets.audio is not None:
        # FFmpeg does not tell whether it found a count of the frames or estimated the duration.
        promised_s = media.extent.counted_samples(packets.audio.first_at) / max(packets.audio.sample_rate, 1)
    elif packets.container in PROMISING:
        promised_s = (container.duration or 0) / av.time_base
    else:
        return
    if packets.container == "avi" and packets.video is not None:  # FFmpeg corrects its duration by the size of the file
        promised_s = max(promised_s, packets.video.promised_s)
    if promised_s - packets.end_s > CUT_S:
        packets.cut = f"the header promises {promised_s:.2f} s, the data end at {packets.end_s:.2f} s"
