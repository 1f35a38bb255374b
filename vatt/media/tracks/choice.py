"""Selection of the tracks of a file that are read.

Of several tracks of a kind, the first one that can be decoded and, for audio, is not silent is read. As in players,
default tracks come first, and commentaries, dubs and tracks for people with impairments last. Tracks of a transport
stream that continue each other under several PIDs are read as one.

Decoding and silence are tested only if there are several tracks of a kind, at a fixed number of positions. If all audio
tracks are silent there, up to an hour of each is decoded. The choice depends on the file alone, and is cached until the
file changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import av
import numpy as np

from vatt.media.demuxing import MediaInput, first_line
from vatt.media.sources.files import OPEN_LIMIT_S, split_member, state
from vatt.media.sources.remote import is_url
from vatt.media.sources.transport import Pid, continues, find_pids
from vatt.media.types import MediaError

Kind = Literal["video", "audio"]
SILENT_DB = -60.0  # a peak below this is silence
MIN_MEAN = 64  # samples of a frame from which its constant offset is subtracted
POSITIONS, TEST_S = 16, 1.0  # number of positions at which an audio track is tested, and the duration of each test
WHOLE_S = 3600.0  # this much of each audio track is decoded if all are silent at the tested positions
MAX_PACKETS = 10_000  # of all tracks that are read at one position
NOT_A_VIDEO = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
SECONDARY = (
    av.stream.Disposition.comment
    | av.stream.Disposition.dub
    | av.stream.Disposition.hearing_impaired
    | av.stream.Disposition.visual_impaired
    | av.stream.Disposition.descriptions
    | av.stream.Disposition.dependent
)
REMUX = "remux the file first (ffmpeg -merge_pmt_versions 1 -i FILE -map 0 -c copy NEW.mkv)"
SECONDARY_TITLE = re.compile(r"\bcommentar|\bdescripti|\bkommentar", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """Indices of the tracks that are read.

    Args:
        video, audio: The tracks of each kind that are read one after the other; empty without any.
    """

    video: tuple[int, ...] = ()
    audio: tuple[int, ...] = ()


def choose_tracks(media: MediaInput) -> tuple[Any, Any]:
    """Choose the video and the audio track of a file, and join the tracks that continue them.

    Args:
        media: The open file. If the tracks have to be tested, the file is opened a second time.

    Returns:
        PyAV streams; None where there is no such track that can be decoded.

    Raises:
        MediaError: Testing is not possible or takes too long, or a track continues in one that cannot be read.
    """
    choice = choose_indices(media)
    for indices in (choice.video, choice.audio):
        media.join([media.container.streams[index] for index in indices])
    first = [indices[0] if indices else None for indices in (choice.video, choice.audio)]
    video, audio = (None if index is None else media.container.streams[index] for index in first)
    return video, audio


def choose_indices(media: MediaInput) -> Choice:
    """Return the indices of the tracks that are read.

    Raises:
        MediaError: See `choose_tracks`.
    """
    video, audio = (candidates(media.container, kind) for kind in ("video", "audio"))
    if len(video) < 2 and len(audio) < 2 and not _is_local_ts(media):
        return Choice(tuple(stream.index for stream in video), tuple(stream.index for stream in audio))
    try:
        return _choose(media.path, *file_version(media))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(media.path, f"its tracks cannot be tested: {first_line(error)}") from error


def file_version(media: MediaInput) -> tuple[int, int]:
    """Return numbers that change with the file: its size, and for local files the time of the last change."""
    return media.size or 0, 0 if is_url(split_member(media.path)[0]) else state(media.path)[1]


def candidates(container: Any, kind: Kind) -> list[Any]:
    """Return the tracks of a kind that have a decoder, in the order in which a player prefers them."""
    streams = [stream for stream in getattr(container.streams, kind) if stream.codec_context is not None]
    if kind == "video":
        streams = [stream for stream in streams if not stream.disposition & NOT_A_VIDEO]
        first = container.streams.best("video")
    else:
        videos = candidates(container, "video")
        # With several programs in a transport stream, the audio is that of the program of the video.
        first = container.streams.best("audio", related=videos[0]) if len(videos) > 1 else None

    def rank(stream: Any) -> tuple[bool, ...]:
        title = stream.metadata.get("title", "") + stream.metadata.get("handler_name", "")
        secondary = bool(stream.disposition & SECONDARY) or bool(SECONDARY_TITLE.search(title))
        is_default = bool(stream.disposition & stream.disposition.__class__.default)
        return (stream is not first and first is not None, secondary, not is_default)

    return sorted(streams, key=rank)


@lru_cache(maxsize=100_000)
def _choose(path: str, size: int, changed_ns: int) -> Choice:
    chosen: dict[str, tuple[int, ...]] = {}
    with MediaInput(path, OPEN_LIMIT_S) as media:
        pids = find_pids(path, size) if _is_local_ts(media) else {}
        for number, pid in pids.items():
            if pid.changes_at is not None:
                reason = (
                    f"PID {number} is {pid.kind} first and carries another kind of track near byte {pid.changes_at}"
                )
                raise MediaError(path, f"{reason}: split the file there")
        for kind in ("video", "audio"):
            streams, usable = candidates(media.container, kind), []
            for stream in streams if len(streams) > 1 else ():
                decodable, silent = try_track(path, size, changed_ns, stream.index)
                if decodable and silent is False:
                    usable.insert(0, stream)
                    break
                if decodable:
                    usable.append(stream)
            else:
                several = usable if kind == "audio" and len(usable) > 1 else ()
                tests = ((stream, try_track(path, size, changed_ns, stream.index, whole=True)) for stream in several)
                audible = (stream for stream, (_, silent) in tests if silent is False)
                usable = [*islice(audible, 1), *usable]
            first = next(iter(usable or streams), None)
            chosen[kind] = () if first is None else _chain(path, first, streams, pids)
    return Choice(**chosen)


@lru_cache(maxsize=100_000)
def try_track(path: str, size: int, changed_ns: int, index: int, whole: bool = False) -> tuple[bool, bool | None]:
    """Return whether a track can be decoded, and whether it is silent; a video never is.

    It is not known to be silent (None) if only a part was decoded.
    """
    frames = errors = 0
    with MediaInput(path, OPEN_LIMIT_S) as media:
        stream = media.container.streams[index]
        is_audio = stream.type == "audio"  # read now: a stream must not be used after its file is closed
        media.prepare(stream)
        positions = [None] if whole else _positions(media.container, stream)
        is_complete = len(positions) == 1 and (media.container.duration or 0) / av.time_base <= WHOLE_S
        for position_s in positions:
            for packet in _packets_at(media, stream, position_s, WHOLE_S if whole else POSITIONS * TEST_S):
                if packet.has_sidedata("encryption_info"):
                    return False, False
                try:
                    decoded = media.decode(packet)
                except (av.FFmpegError, OSError, ValueError):
                    errors += 1
                    continue
                frames += len(decoded)
                if frames > errors and (not is_audio or any(map(_is_audible, decoded))):
                    return bool(frames), False
    decodable = frames > errors
    return decodable, is_complete or None if decodable and is_audio else False


def _positions(container: Any, stream: Any) -> list[float | None]:
    """Return the positions in seconds at which a track is tested; None is the beginning of the file."""
    duration_s = (container.duration or 0) / av.time_base
    if stream.type == "video" or duration_s <= POSITIONS * TEST_S:
        return [None]
    start_s, step_s = (container.start_time or 0) / av.time_base, duration_s / POSITIONS
    return [None, *(start_s + number * step_s for number in range(1, POSITIONS))]


def _packets_at(media: MediaInput, stream: Any, position_s: float | None, longest_s: float) -> Iterator[av.Packet]:
    """Yield the packets of a track from a position on, for a bounded time."""
    until_s = math.inf
    try:
        if position_s is not None:
            media.seek(round(position_s * av.time_base))
        for number, packet in enumerate(media.demux()):
            if packet.stream.index == stream.index:
                yield packet
            if packet.dts is not None and packet.time_base is not None:
                at_s = float(packet.dts * packet.time_base)
                until_s = min(until_s, at_s + (longest_s if position_s is None else TEST_S))
                if at_s > until_s:
                    return
            if number >= MAX_PACKETS * max(1.0, longest_s / (POSITIONS * TEST_S)):
                return
    except (av.FFmpegError, OSError):  # cannot be read further, or cannot seek
        return


def _is_audible(frame: Any) -> bool:
    """Return whether a frame of audio is not silent. A constant (DC) offset of a channel is silence."""
    samples = _packed(frame)
    if len(samples) >= MIN_MEAN:
        samples = samples - samples.mean(axis=0)
    return samples.size > 0 and float(np.abs(samples).max()) >= 10 ** (SILENT_DB / 20)


def _packed(frame: Any) -> np.ndarray:
    """Return the (S, channels) samples of a frame; PyAV misreads planar audio of more than 8 channels."""
    parts = av.AudioResampler(format="flt").resample(frame)
    channels = frame.layout.nb_channels
    return np.concatenate([part.to_ndarray().reshape(-1, channels) for part in parts]) if parts else np.zeros((0, 1))


def _is_local_ts(media: MediaInput) -> bool:
    return media.container.format.name == "mpegts" and not is_url(media.path)


def _chain(path: str, first: Any, streams: Sequence[Any], pids: dict[int, Pid]) -> tuple[int, ...]:
    """Return the indices of a track and of those that continue it, in the order of the file.

    Raises:
        MediaError: One of them has another codec, or FFmpeg does not know it.
    """
    if first.id not in pids:
        return (first.index,)
    chain, known = [first.id], {stream.id: stream for stream in first.container.streams}
    others = [stream.id for stream in streams] + [number for number in pids if number not in known]
    for number in others:
        pid = pids.get(number)
        if pid is None or pid.kind not in ("", first.type) or not all(continues(pid, pids[part]) for part in chain):
            continue
        if number not in known:
            if pid.kind:
                raise MediaError(path, f"the {first.type} continues under PID {number}, which FFmpeg ignores: {REMUX}")
            continue
        codec = known[number].codec_context.name
        if _family(codec) != _family(first.codec_context.name):
            reason = f"the {first.type} continues under PID {number} in another codec ({codec})"
            raise MediaError(path, f"{reason}: split the file there")
        chain.append(number)
    return tuple(known[number].index for number in sorted(chain, key=lambda number: pids[number].offsets[0]))


def _family(codec: str) -> str:
    """Return the name of a codec, or of those that FFmpeg cannot distinguish before it reads packets."""
    return re.sub(r"^mp[123](float)?$", "MPEG audio", re.sub(r"^mpeg[12]video$", "MPEG video", codec))
