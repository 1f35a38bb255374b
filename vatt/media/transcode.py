"""A media file, or a stretch of it, written anew in the form that training reads fastest: a small H.264/AAC MP4.

What training sees stays as it was: frames at the same times, also at a variable frame rate, and the sound at the same
distance from them. Second 0 of the new file is second ``start_s`` of the old one.
"""

from __future__ import annotations

import errno
import heapq
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from vatt.media.container import EARLY_S
from vatt.media.demuxing import first_line
from vatt.media.encoding import X264
from vatt.media.segments import WHOLE_FILE, SegmentReader, Stretch
from vatt.media.shrinking import Shown, Shrinker, cap
from vatt.media.types import SLACK_S, MediaError

CLOCK = 90_000  # ticks per second of the new picture track: exact for the usual frame rates, and fine for all others
SOUND_BITS_PER_S = 96_000  # of each channel
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
# Sound that MP4 takes as it is, out of containers whose packets have exact times and come without headers of their own.
COPIED = {"aac": 0, "opus": 0, "mp3": 16_000}  # codec: lowest sample rate in Hz
COPIED_FROM = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LIMITED = 1  # FFmpeg's number of the range of values from 16 to 235

Packets = tuple[float, list[av.Packet]]  # seconds on the new clock, in what order they are written


@dataclass(frozen=True)
class Encoding:
    """How a file is written.

    Args:
        short_side: pixels of the shorter side; smaller pictures are not enlarged.
        gop: frames from one key frame to the next, at most.
        crf: quality of H.264, 0 (lossless) to 51.
        fps: at most so many frames per second; the others are dropped. None keeps all.
    """

    short_side: int = 256
    gop: int = 16
    crf: int = 23
    fps: float | None = None


def transcode(path: str, output: str | Path, encoding: Encoding, stretch: Stretch = WHOLE_FILE) -> None:
    """Write a file, or a segment of it, as MP4: H.264 (yuv420p, upright, square pixels) and audio.

    The sound is copied if it is AAC, Opus or MP3 in MP4 or Matroska and nothing is cut off; else it becomes AAC of
    the same sample rate, or of the next lower one that AAC has. Of more than two channels the mean is kept, which is
    what training reads. Audio with samples outside [-1, 1], which AAC cannot hold, is scaled. Encoders run with one
    thread: the same input gives the same bytes.

    Args:
        path: what is read: see `vatt.media.sources.files`.
        output: what is written; after an error it may be there in part.
        encoding: sizes and qualities.
        stretch: what of the file.

    Raises:
        MediaError: nothing can be had of the stretch, or something in it does not decode.
        OSError: the disk is full.
    """
    try:
        with _Input(path) as old:
            try:
                old.write(output, encoding, stretch, copy=not stretch.is_cut)
            except av.FFmpegError as error:  # packets that cannot be copied, such as those whose times go back
                if stretch.is_cut or error.errno in DISK_FULL:
                    raise
                old.write(output, encoding, stretch, copy=False)
    except (av.FFmpegError, ArithmeticError) as error:
        if getattr(error, "errno", None) in DISK_FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(output)) from error
        raise MediaError(path, f"cannot be encoded: {first_line(error)}") from error


def check_whole(path: str) -> str:
    """Decode all of a file that is kept as it is, and return FFmpeg's name of its format.

    Raises:
        MediaError: it is no media, or something in it does not decode.
    """
    with _Input(path) as media:
        kinds = [kind for kind, there in (("video", media.info.has_video), ("audio", media.info.has_audio)) if there]
        decoded = [sum(1 for _ in media._decode_from(kind, 0.0)) for kind in kinds]
        _refuse(path, media.bad_packets)
        if not all(decoded):
            raise MediaError(path, "nothing of it could be decoded")
        return media._container.format.name


def _refuse(path: str, bad_packets: int) -> None:
    if bad_packets:
        raise MediaError(path, "damaged: not all of it can be decoded")


class _Input(SegmentReader):
    """A file that is written anew."""

    def write(self, output: str | Path, encoding: Encoding, stretch: Stretch, copy: bool) -> None:
        """See `transcode`; ``copy`` allows to copy the sound."""
        self.bad_packets, end_s = 0, self.info.duration_s
        if stretch.start_s >= end_s and stretch.start_s > 0 and not self.info.is_picture:
            raise MediaError(self.path, f"the segment begins at {stretch.start_s:g} s, the file ends at {end_s:g} s")
        options = {"movflags": "+faststart"}
        with _Input(self.path) as ears, av.open(f"file:{output}", "w", format="mp4", options=options) as new:
            begun: list[tuple[Packets, Iterator[Packets]]] = []

            def start(track: Iterator[Packets]) -> None:
                if first := next(track, None):  # adds the stream
                    begun.append((first, track))

            hear, see = stretch.sound and ears.info.has_audio, stretch.picture and self.info.has_video
            if hear and copy and ears.can_copy(alone=not see):
                start(ears.copied(new))
            elif hear:
                start(ears.heard(new, stretch, alone=not see))
            if see:
                slack_s = math.inf if stretch.is_cut or not begun else SLACK_S if begun[0][0][0] > EARLY_S else 0.0
                shown = self.shown(stretch, slack_s)
                start(self.seen(new, shown if encoding.fps is None else cap(shown, encoding.fps), encoding))
            if begun and min(first[0] for first, _ in begun) > EARLY_S:  # it would be taken for the file's second 0
                raise MediaError(self.path, "no video or audio at the beginning of the segment")
            items = heapq.merge(*(chain([first], track) for first, track in begun), key=lambda item: item[0])
            for _, packets in items:
                new.mux(packets)
                _refuse(self.path, self.bad_packets + ears.bad_packets)
            _refuse(self.path, self.bad_packets + ears.bad_packets)
        if not begun:
            raise MediaError(self.path, "nothing of it could be decoded")

    # ---- picture ---------------------------------------------------------------------------------------------

    def seen(self, new: Any, shown: Iterator[Shown], encoding: Encoding) -> Iterator[Packets]:
        """The pictures as packets of a new stream."""
        stream, shrink = None, Shrinker(encoding.short_side)
        for from_s, until_s, frame in shown:
            self.bad_packets += frame.is_corrupt  # FFmpeg mended it, and said nothing
            picture = shrink(frame)
            picture.pts, picture.time_base = round(from_s * CLOCK), Fraction(1, CLOCK)
            picture.duration = max(1, round(until_s * CLOCK) - picture.pts)
            picture.pict_type = 0  # else the encoder would follow the old file's key frames
            if stream is None:
                stream = self._add_video(new, picture, encoding)
                stream.codec_context.colorspace, stream.codec_context.color_range = shrink.matrix, LIMITED
            yield from_s, stream.encode(picture)
        if stream is not None:
            yield math.inf, stream.encode()

    def _add_video(self, new: Any, picture: av.VideoFrame, encoding: Encoding) -> Any:
        rate = Fraction(self._video.average_rate or 25).limit_denominator(1001)
        options = X264 | {"crf": str(encoding.crf), "g": str(encoding.gop)}
        stream = new.add_stream("libx264", rate=min(rate, 1000), options=options)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.codec_context.thread_count = 1  # the bytes depend on it
        stream.codec_context.flags |= Flags.frame_duration  # else the last picture would last as long as the others
        return stream

    # ---- sound -----------------------------------------------------------------------------------------------

    def can_copy(self, alone: bool) -> bool:
        """Whether the packets of the sound fit into MP4 as they are. If it stands alone it must begin at once."""
        codec = self._audio.codec_context
        name = codec.codec.canonical_name
        if name not in COPIED or self._container.format.name not in COPIED_FROM:
            return False
        if alone and self._begins_s("audio") > EARLY_S:
            return False
        return codec.sample_rate >= COPIED[name] and (name == "mp3" or bool(codec.extradata))

    def copied(self, new: Any) -> Iterator[Packets]:
        """The packets of the sound, for a new stream. They are decoded as well, to see whether they are whole."""
        self._go_to("audio", None)  # opening may have read on to find the end
        stream = new.add_stream_from_template(self._audio)
        shift = round(self._clock.origin_s / self._audio.time_base)
        for packet in self._demux(self._audio):
            if packet.dts is None:
                continue
            try:
                self._input.decode(packet)
            except (av.FFmpegError, OSError, ValueError):
                self.bad_packets += 1
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            yield float(packet.pts * packet.time_base), [packet]

    def heard(self, new: Any, stretch: Stretch, alone: bool) -> Iterator[Packets]:
        """The sound of a stretch, encoded as AAC for a new stream. If it stands alone it begins at 0."""
        old_rate = self._audio.codec_context.sample_rate
        rate = next((rate for rate in AAC_RATES if rate <= old_rate), AAC_RATES[-1])
        stream, scale = None, self.audio_scale(rate, stretch, alone)
        for at, samples in self.audio_segment(rate, stretch, alone):
            samples = samples * scale if scale < 1 else samples
            if stream is None:
                layout = "stereo" if len(samples) == 2 else "mono"
                stream = new.add_stream("aac", rate=rate, layout=layout, bit_rate=SOUND_BITS_PER_S * len(samples))
                stream.codec_context.thread_count = 1
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            sound.sample_rate, sound.pts, sound.time_base = rate, at, Fraction(1, rate)
            yield at / rate, stream.encode(sound)
        if stream is not None:
            yield math.inf, stream.encode()
