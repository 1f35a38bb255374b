"""List the tracks of a file, with what is known of each: codec, tags, whether it can be decoded, is silent, is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vatt.media.demuxing import MediaInput
from vatt.media.tracks.choice import NOT_A_VIDEO, Choice, candidates, choose_indices, file_version, try_track


@dataclass(frozen=True)
class TrackInfo:
    """A track of a file.

    Args:
        index: Number of the track in the file.
        kind: "video", "audio", "subtitle", "data", "attachment", or "image" for cover art.
        codec: Name of the codec; empty if no decoder is known.
        width, height: Size of a video in pixels, as stored.
        channels: Number of audio channels.
        sample_rate: Sample rate in Hz.
        language: Language code; empty if it is not known.
        title: Title of the track.
        default: Whether the track is marked as default.
        decodable: Whether its packets can be decoded; None if that was not tested.
        silent: Whether the audio stays below -60 dB; None if it was not tested, or if only a part of a silent track was
            decoded.
        chosen: Whether the track is read.
    """

    index: int
    kind: str
    codec: str
    width: int | None = None
    height: int | None = None
    channels: int | None = None
    sample_rate: int | None = None
    language: str = ""
    title: str = ""
    default: bool = False
    decodable: bool | None = None
    silent: bool | None = None
    chosen: bool = False


def list_tracks(media: MediaInput) -> list[TrackInfo]:
    """Return all tracks of a file; if there are several of a kind, each of them is tested.

    Args:
        media: The open file.

    Raises:
        MediaError: See `vatt.media.tracks.choice.choose_tracks`.
    """
    choice = choose_indices(media)
    tests = {}
    for kind in ("video", "audio"):
        streams = candidates(media.container, kind)
        if len(streams) > 1:
            of_kind = {stream.index: try_track(media.path, *file_version(media), stream.index) for stream in streams}
            if kind == "audio" and not any(silent is False for _, silent in of_kind.values()):
                of_kind = {index: try_track(media.path, *file_version(media), index, whole=True) for index in of_kind}
            tests |= of_kind
    return [_describe(stream, choice, tests.get(stream.index)) for stream in media.container.streams]


def describe_undecodable(container: Any) -> str:
    """Return which of video and audio a file has only in tracks without a decoder; empty if there are none.

    Args:
        container: PyAV container.
    """
    reasons = []
    for kind in ("video", "audio"):
        streams = [stream for stream in getattr(container.streams, kind) if not stream.disposition & NOT_A_VIDEO]
        if streams and all(stream.codec_context is None for stream in streams):
            number = ", ".join(str(stream.index) for stream in streams)
            reasons.append(f"its {kind} cannot be decoded: FFmpeg does not know the codec of track {number}")
    return "; ".join(reasons)


def _describe(stream: Any, choice: Choice, test: tuple[bool, bool | None] | None) -> TrackInfo:
    decoder, kind = stream.codec_context, stream.type
    is_video, is_audio = kind == "video", kind == "audio"
    if is_video and stream.disposition & NOT_A_VIDEO:
        kind = "image"
    return TrackInfo(
        index=stream.index,
        kind=kind,
        codec=decoder.codec.canonical_name if decoder is not None else "",
        width=decoder.width if is_video and decoder else None,
        height=decoder.height if is_video and decoder else None,
        channels=decoder.layout.nb_channels if is_audio and decoder else None,
        sample_rate=decoder.sample_rate if is_audio and decoder else None,
        language="" if stream.language in (None, "und") else stream.language,
        title=stream.metadata.get("title", ""),
        default=bool(stream.disposition & stream.disposition.__class__.default),
        decodable=False if decoder is None and (is_video or is_audio) else test and test[0],
        silent=test[1] if test and is_audio else None,
        chosen=stream.index in (*choice.video, *choice.audio),
    )
