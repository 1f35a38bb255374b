"""The one file that opens media: frames at given times and the waveform of a given span, on one clock.

Second 0 is where the file begins to play, for picture and sound alike: 0 in formats whose times begin there, the
first picture in MPEG streams, whose times begin anywhere. PyAV decodes; decord can be chosen for the frames of the
files it reads exactly. Decoding is bounded in time, skips packets that are damaged and counts them, and raises
`MediaError` with the reason where nothing can be had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vatt.datasets.media import Frames, MediaError, MediaInfo, Waveform
from vatt.datasets.pictures import WHOLE, Painter, Part
from vatt.datasets.sound import decode_rate, place, resample

Decoder = Literal["pyav", "decord"]
DECODERS: tuple[Decoder, ...] = ("pyav", "decord")

TIME_LIMIT_S = 60.0  # for one call; a clip takes milliseconds
OPEN_LIMIT_S = 20.0  # for one blocking read
EARLY_S = 0.001  # Matroska rounds times to milliseconds: a frame this much later still counts as on time
PREROLL_S = 0.3  # sound decoded ahead of a span: Opus wants 80 ms, MP3 and AAC a few packets
GAP_S = 0.04  # sound that jumps by more than this is placed by its own time, less is a rounded timestamp
NEAR_START_S = 1.5  # closer to the start of the file than this it is cheaper to decode than to seek
UNANCHORED = ("mpegts", "mpeg")  # formats whose times have no zero

av.logging.set_level(av.logging.PANIC)  # what matters is raised with the name of the file


def open_media(path: str | Path, decoder: Decoder = "pyav", time_limit_s: float = TIME_LIMIT_S) -> Media:
    """Open a media file; use it in a ``with`` statement.

    Args:
        path: the file.
        decoder: "pyav", or "decord" to read the frames with decord.
        time_limit_s: bound on each call to `Media.frames` and `Media.waveform`; decord knows none.

    Raises:
        MediaError: the file is missing, empty or no media.
        ImportError: decord is asked for and not installed.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, not {decoder!r}")
    return Media(Path(path), decoder, time_limit_s)


class Media:
    """An open media file. Not to be shared between threads or processes.

    Attributes:
        info: what the file holds.
        bad_packets: packets that could not be decoded so far.
    """

    def __init__(self, path: Path, decoder: Decoder, time_limit_s: float) -> None:
        self.path, self.decoder, self.time_limit_s = path, decoder, time_limit_s
        self.bad_packets = 0
        self._open()
        self.info = self._probe()

    def __enter__(self) -> Media:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the file and its decoders."""
        self._container.close()

    def frames(self, times_s: Sequence[float], part: Part = WHOLE) -> Frames:
        """The frames shown at the given times.

        Args:
            times_s: T ascending times in seconds.
            part: of the picture, and how large.

        Raises:
            MediaError: no picture track, nothing decodes, or the time limit is passed.
        """
        if self._video is None:
            raise MediaError(self.path, "no video track")
        if len(times_s) == 0 or any(b < a for a, b in pairwise(times_s)):
            raise ValueError("times_s must be ascending and not empty")
        read = self._frames_decord if self.decoder == "decord" else self._frames_pyav
        return read(list(times_s), part)

    def all_frames(self, part: Part = WHOLE) -> Frames:
        """Every frame of the file, for short files: see `frames`."""
        if self._video is None:
            raise MediaError(self.path, "no video track")
        picture = Painter(part)
        frames, times_s, until_s = [], [], 0.0
        for at_s, frame in self._decode_from("video", 0.0):
            frames.append(picture(frame))
            times_s.append(at_s)
            until_s = self._shown_until(at_s, frame)
        if not frames:
            raise MediaError(self.path, "no frame of the video could be decoded")
        return Frames(torch.stack(frames), torch.tensor(times_s, dtype=torch.float64), until_s)

    def waveform(self, start_s: float, duration_s: float, sample_rate: int) -> Waveform:
        """The sound from ``start_s`` on for ``duration_s``, mixed to mono (mean of the channels).

        Args:
            start_s: beginning in seconds.
            duration_s: length in seconds.
            sample_rate: of the result in Hz; S = round(duration_s * sample_rate).

        Raises:
            MediaError: nothing of the track decodes, or the time limit is passed. A file without sound is no
                error: it gives silence, of which nothing is covered.
        """
        wanted = round(duration_s * sample_rate)
        if self._audio is None:
            return Waveform(torch.zeros(wanted), 0, 0)
        rate = decode_rate(self.info.sample_rate, sample_rate)
        # A margin on both sides lets the resampling filter see real sound at the edges of the span.
        margin = 0 if rate == sample_rate else -(-rate // 50)
        first = round(start_s * rate) - margin
        span = np.zeros(round(duration_s * rate) + 2 * margin, dtype=np.float32)
        begin, end = self._fill(span, first, rate)
        samples = resample(torch.from_numpy(span), rate, sample_rate)
        skip = round(margin * sample_rate / rate)
        samples = pad(samples[skip : skip + wanted], (0, max(0, wanted + skip - len(samples))))
        begin, end = (min(wanted, max(0, round((i - margin) * sample_rate / rate))) for i in (begin, end))
        return Waveform(samples.clamp(-1.0, 1.0), begin, max(begin, end))

    # ---- one clock -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            if self.path.stat().st_size == 0:
                raise MediaError(self.path, "the file is empty (0 bytes)")
            self._container = av.open(str(self.path), timeout=(OPEN_LIMIT_S, OPEN_LIMIT_S))
        except OSError as error:  # PyAV's errors for missing files and blocked reads are OSErrors too
            raise MediaError(self.path, _words(error)) from error
        except (av.FFmpegError, ValueError) as error:
            raise MediaError(self.path, f"no readable media: {_words(error)}") from error
        self._video = _best(self._container, "video")
        self._audio = _best(self._container, "audio")
        for stream in (self._video, self._audio):
            if stream is not None:
                stream.codec_context.thread_count = 1  # the workers of a loader are the parallelism
        if self._video is None and self._audio is None:
            self._container.close()
            raise MediaError(self.path, "neither a video nor an audio track that can be decoded")
        self._origin_s = self._begin_of_clock()
        self._fresh = True

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
            video_codec=video.codec_context.name if video else "",
            audio_codec=audio.codec_context.name if audio else "",
        )

    def _duration_s(self) -> float:
        """From the header, or, where it does not say, from the times of the packets."""
        if self._container.duration:
            return self._container.duration / av.time_base
        end_s, limit = 0.0, self._deadline()
        for packet in self._demux(self._container.streams, limit):
            if packet.pts is not None and packet.time_base is not None:
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._origin_s)
        return end_s

    def _deadline(self) -> float:
        return time.monotonic() + self.time_limit_s

    def _demux(self, streams: Any, deadline: float) -> Iterator[av.Packet]:
        """Packets until the end, or until the container cannot be read any further."""
        self._fresh = False
        packets = self._container.demux(streams)
        while True:
            if time.monotonic() > deadline:
                raise MediaError(self.path, f"reading took longer than {self.time_limit_s:g} s")
            try:
                yield next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.bad_packets += 1
                return

    def _decode_from(self, kind: Literal["video", "audio"], start_s: float) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their times, beginning at or before ``start_s`` where the file has any there."""
        # A seek can land late (open groups of pictures, containers without an index): then go further back, and
        # at last to the beginning.
        start_s = max(start_s, self._begins_s(kind))
        for back_s in (0.0, 5.0, None):
            self._go_to(kind, None if back_s is None else start_s - back_s)
            whole = self._fresh
            frames = self._decode(kind)
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
        if start_s is not None:
            stream = self._stream(kind)
            try:
                self._container.seek(int((start_s + self._origin_s) / stream.time_base), stream=stream)
            except (av.FFmpegError, OSError):
                pass  # a container that cannot seek is read from its beginning
            else:
                self._fresh = False
                return
        self._container.close()
        self._open()

    def _stream(self, kind: str) -> Any:
        return self._video if kind == "video" else self._audio

    def _decode(self, kind: str) -> Iterator[tuple[float, Any]]:
        stream = self._stream(kind)
        step_s = 1.0 / float(stream.average_rate) if kind == "video" and stream.average_rate else 0.0
        deadline, next_s = self._deadline(), 0.0
        # A seek in these formats lands anywhere: what the first packet holds may have begun in the one before.
        torn = not self._fresh and self._container.format.name in UNANCHORED
        for packet in self._demux(stream, deadline):
            try:
                frames = packet.decode()
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

    # ---- picture ---------------------------------------------------------------------------------------------

    def _frames_pyav(self, times_s: list[float], part: Part) -> Frames:
        picture = Painter(part)
        chosen: list[Tensor] = []
        shown_at: list[float] = []
        before: tuple[float, Any] | None = None
        until_s = math.inf
        for at_s, frame in self._decode_from("video", times_s[0]):
            # Each asked time gets the last frame that begins at or before it.
            while len(chosen) < len(times_s) and at_s > times_s[len(chosen)] + EARLY_S:
                shown = before or (at_s, frame)
                chosen.append(picture(shown[1]))
                shown_at.append(shown[0])
            if len(chosen) == len(times_s):
                break
            before = (at_s, frame)
        if before is None and not chosen:
            raise MediaError(self.path, "no frame of the video could be decoded")
        if len(chosen) < len(times_s):  # the last frame stands in for all later ones
            until_s = self._shown_until(*before)
        while len(chosen) < len(times_s):
            chosen.append(picture(before[1]))
            shown_at.append(before[0])
        return Frames(torch.stack(chosen), torch.tensor(shown_at, dtype=torch.float64), until_s)

    def _shown_until(self, at_s: float, frame: Any) -> float:
        """When a frame, if it is the last one, gives way: after its own duration, or the usual one."""
        own_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        usual_s = 1.0 / float(self._video.average_rate) if self._video.average_rate else 0.0
        return at_s + max(own_s, usual_s)

    def _frames_decord(self, times_s: list[float], part: Part) -> Frames:
        if self._container.format.name in UNANCHORED:
            raise MediaError(
                self.path, f"decord gives wrong frames or hangs on {self._container.format.name} files; use pyav"
            )
        decord = _import_decord()
        try:
            reader = decord.VideoReader(str(self.path), num_threads=1)
            spans = reader.get_frame_timestamp(range(len(reader))).astype(np.float64) - self._origin_s
            starts, until_s = spans[:, 0], float(spans[-1, 1])
            index = np.searchsorted(starts, np.asarray(times_s) + EARLY_S, side="right") - 1
            index = index.clip(0, len(starts) - 1)
            frames = torch.from_numpy(reader.get_batch(index.tolist()).asnumpy()).permute(0, 3, 1, 2)
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise MediaError(self.path, f"decord: {_words(error)}") from error
        # decord's own scaling wants the size after rotation, which it does not tell.
        return Frames(part.apply(frames).contiguous(), torch.from_numpy(starts[index]), until_s)

    # ---- sound -----------------------------------------------------------------------------------------------

    def _fill(self, span: np.ndarray, first: int, rate: int) -> tuple[int, int]:
        """Write the sound from sample ``first`` on into ``span``; returns where it begins and ends there."""
        resampler = av.AudioResampler(format="fltp", rate=rate)
        begins, ends, cursor, decoded = len(span), 0, None, False
        for at_s, frame in self._decode_from("audio", first / rate - PREROLL_S):
            begin = round(at_s * rate)
            if cursor is None or abs(begin - cursor) > GAP_S * rate:
                cursor = begin
            try:
                parts = resampler.resample(frame)
            except (av.FFmpegError, ValueError):  # the track changes its layout or rate midway
                resampler = av.AudioResampler(format="fltp", rate=rate)
                parts = resampler.resample(frame)
            for part in parts:
                decoded = True
                channels = part.to_ndarray()
                samples = channels.mean(axis=0) if len(channels) > 1 else channels[0]
                put = place(span, samples, cursor - first)
                begins, ends = min(begins, put[0]), max(ends, put[1])
                cursor += len(samples)
            if cursor - first >= len(span):
                break
        if not decoded and self.bad_packets:
            raise MediaError(self.path, "no sample of the sound could be decoded")
        return begins, ends


def _best(container: Any, kind: str) -> Any:
    """The stream a player would choose, if it can be decoded; cover art is no video."""
    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None:
        return None
    if kind == "video" and stream.disposition & stream.disposition.__class__.attached_pic:
        return None
    return stream


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ImportError('decoder "decord" needs: pip install "vatt[decord]" (default: pyav)') from error
    return decord


def _words(error: BaseException) -> str:
    """The first line of an error, without the path that FFmpeg appends."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).splitlines()[0]
