"""One file of a scan: its facts, and whether it can be used."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from vatt.media.decoding import open_media
from vatt.media.demuxing import first_line
from vatt.media.formats.damage import decode_pictures
from vatt.media.inspection import Packets, read_packets
from vatt.media.reader import Media
from vatt.media.sources.files import state
from vatt.media.tracks.choice import SILENT_DB
from vatt.media.tracks.packets import Track
from vatt.media.types import Levels, MediaError, NoMedia

CLIP_S = 3.2  # length of a decoded clip, the paper's
UNKNOWN_RATE = 16_000  # Hz at which audio is read that does not decode, to report why
FLOOR_DB = -120.0  # stands for digital silence, whose level is minus infinity


@dataclass(slots=True)  # a resumed scan holds those of all files
class FileFacts:
    """One row of a scan's report. The facts on video and audio are those of the tracks that are read.

    Args:
        path: as the manifest has it.
        status: "ok"; "damaged": something in it does not decode; "truncated": it ends before its header says;
            "unreadable"; "no media"; "missing"; "timeout"; "crashed".
        reason: why it is not ok.
        size: in bytes.
        modified_ns: time of the last change.
        container: FFmpeg's name of the format.
        duration_s: from second 0 of the file to the end of its data.
        num_streams: tracks of all kinds.
        tracks: All tracks as a JSON list of objects with the known fields of
            `vatt.media.tracks.listing.TrackInfo`.
        video_codec: empty without a picture; cover art does not count.
        width, height: Size of the upright frames in square pixels, as players show them.
        pixel_aspect: Width of a stored pixel divided by its height; 1 for square pixels.
        rotation: degrees counter-clockwise by which the stored picture is turned upright: 0, 90, 180 or 270.
        fps: frames per second, from the times of the packets.
        constant_fps: every frame stands where an even rate puts it, to the rounding of the container's clock.
        gop_s: longest stretch from a key frame to the next one or to the end: what a seek may have to decode.
        audio_codec: empty without sound.
        sample_rate: in Hz.
        channels: their number.
        layout: their arrangement, such as stereo.
        silent: the peak is below -60 dB, in what was decoded.
        peak_db, rms_db: levels of what was decoded, mixed to mono, in dB of full scale; -120 for digital silence.
        clipped_share: Share of the samples, mixed to mono, that are outside [-1, 1], such as integers stored as floats;
            peak_db is then above 0. They are clipped unless ``audio_overflow`` is "scale".
        cancelled: The channels cancel in the mono mix, as in stereo of opposite phase; see ``audio_downmix``.
        start_difference_s: start of the sound minus start of the picture.
        end_difference_s: end of the sound minus end of the picture.
        content_hash: see `vatt.media.inspection`.
        duplicate_of: path of the first file with the same content: the same hash, as long and as fast.
        num_clips: stretches that were to be decoded.
    """

    path: str
    status: str = "ok"
    reason: str = ""
    size: int | None = None
    modified_ns: int | None = None
    container: str = ""
    duration_s: float | None = None
    num_streams: int | None = None
    tracks: str = ""
    video_codec: str = ""
    width: int | None = None
    height: int | None = None
    pixel_aspect: float | None = None
    rotation: int | None = None
    fps: float | None = None
    constant_fps: bool | None = None
    gop_s: float | None = None
    audio_codec: str = ""
    sample_rate: int | None = None
    channels: int | None = None
    layout: str = ""
    silent: bool | None = None
    peak_db: float | None = None
    rms_db: float | None = None
    clipped_share: float | None = None
    cancelled: bool | None = None
    start_difference_s: float | None = None
    end_difference_s: float | None = None
    content_hash: str = ""
    duplicate_of: str = ""
    num_clips: int | None = None


def scan_file(path: str, num_clips: int, time_limit_s: float) -> FileFacts:
    """Everything about one file. What is wrong with it stands in the facts; nothing is raised for it.

    Args:
        path: see `vatt.media.sources.files`.
        num_clips: stretches of 3.2 s to decode, spread from the beginning to the end; a file no longer than all of
            them is decoded whole.
        time_limit_s: bound on each step of decoding.
    """
    facts = FileFacts(path, num_clips=num_clips)
    try:
        facts.size, facts.modified_ns = state(path)
        if facts.size == 0:
            raise NoMedia(path, "the file is empty (0 bytes)")
        packets = read_packets(path, time_limit_s)
        _describe(facts, packets)
        problems = _decode(facts, packets, num_clips, time_limit_s)
        facts.status = "truncated" if packets.cut else "damaged" if packets.problems or problems else "ok"
        facts.reason = "; ".join(filter(None, (packets.cut, *packets.problems, *problems)))
    except FileNotFoundError:
        facts.status, facts.reason = "missing", "there is no such file"
    except NoMedia as error:
        facts.status, facts.reason = "no media", error.reason
    except MediaError as error:
        facts.status, facts.reason = "unreadable", error.reason
    except (OSError, ArithmeticError) as error:
        facts.status, facts.reason = "unreadable", first_line(error)
    return facts


def clip_spans(duration_s: float, num_clips: int) -> list[tuple[float, float]]:
    """Begin and end of stretches of `CLIP_S`, spread evenly; the last one is open, so that the end is seen."""
    if num_clips == 1 or duration_s <= num_clips * CLIP_S:
        return [(0.0, math.inf if duration_s <= num_clips * CLIP_S else CLIP_S)]
    step_s = (duration_s - CLIP_S) / (num_clips - 1)
    spans = [(i * step_s, i * step_s + CLIP_S) for i in range(num_clips)]
    return [*spans[:-1], (spans[-1][0], math.inf)]


def _describe(facts: FileFacts, packets: Packets) -> None:
    """What header and packets tell."""
    video, audio = packets.video, packets.audio
    facts.container, facts.num_streams = packets.container, len(packets.listing)
    tracks = (
        {key: value for key, value in asdict(track).items() if value not in ("", None)} for track in packets.listing
    )
    facts.tracks = json.dumps(list(tracks), ensure_ascii=False)
    facts.content_hash = packets.content_hash()
    if video is not None:
        facts.video_codec, facts.width, facts.height = video.codec, video.width, video.height
    if video is not None and video.times_s:
        facts.fps, facts.constant_fps, facts.gop_s = video.fps(), video.constant_fps(), video.gop_s()
    if audio is not None:
        facts.audio_codec, facts.sample_rate = audio.codec, audio.sample_rate
        facts.channels, facts.layout = audio.channels, audio.layout
    if video is not None and audio is not None and video.times_s and audio.times_s:
        facts.start_difference_s = round(audio.begin_s - video.begin_s, 4)
        facts.end_difference_s = round(audio.end_s - video.end_s, 4)


def _decode(facts: FileFacts, packets: Packets, num_clips: int, time_limit_s: float) -> list[str]:
    """Decode clips: the sound and one picture as training does, all pictures for damage. Returns what is wrong.

    Raises:
        MediaError: Neither video nor audio can be decoded.
    """
    problems: list[str] = []
    readable = 0
    with open_media(facts.path, time_limit_s=time_limit_s) as media:
        facts.duration_s = round(packets.duration_s(media.info.duration_s), 4)
        spans = clip_spans(facts.duration_s, num_clips)
        if packets.audio is not None:
            try:
                readable += _measure(facts, media, spans)
            except MediaError as error:
                problems.append(error.reason)
            if media.bad_packets:
                problems.append(f"packets of the sound that do not decode: {media.bad_packets}")
        if packets.video is not None:
            try:
                readable += len(media.frames([spans[-1][0]]).times_s)
            except MediaError as error:
                problems.append(error.reason)
    if not readable:
        raise MediaError(facts.path, "; ".join(filter(None, (packets.cut, *problems))) or "nothing in it decodes")
    if packets.video is not None and packets.video.times_s:
        problems += _look(facts, packets.video, num_clips, time_limit_s)
    return problems


def _measure(facts: FileFacts, media: Media, spans: list[tuple[float, float]]) -> int:
    """Peak and mean power of the sound of stretches; returns how many samples there were."""
    levels = Levels()
    for begin_s, end_s in spans:
        length_s = max(0.0, min(end_s, facts.duration_s) - begin_s)
        levels += media.waveform(begin_s, length_s, media.info.sample_rate or UNKNOWN_RATE).levels
    if levels.samples:
        facts.peak_db, facts.rms_db = _db(levels.peak), _db(math.sqrt(levels.energy / levels.samples))
        facts.silent = facts.peak_db < SILENT_DB
        facts.clipped_share, facts.cancelled = round(levels.outside / levels.samples, 9), levels.is_cancelled
    return levels.samples


def _look(facts: FileFacts, video: Track, num_clips: int, time_limit_s: float) -> list[str]:
    """Size and rotation of the picture; returns what is damaged."""
    spans = clip_spans(video.end_s - video.begin_s, num_clips)
    pictures = decode_pictures(facts.path, video, spans, time_limit_s)
    if pictures.shown:
        facts.rotation, facts.pixel_aspect = pictures.rotation, round(float(pictures.pixel_aspect), 4)
        facts.width, facts.height = pictures.shown_size
    if not pictures.bad:
        return []
    where = "" if pictures.first_bad_s is None else f", the first at {pictures.first_bad_s:.2f} s"
    return [f"damaged or missing pictures: {pictures.bad} of {pictures.tried} decoded{where}"]


def _db(amplitude: float) -> float:
    return round(max(FLOOR_DB, 20 * math.log10(amplitude)), 2) + 0.0 if amplitude > 0 else FLOOR_DB  # never -0.0
