"""A media file read with PyAV: frames at given times and the waveform of a given span, on one clock.

Second 0 is where the file begins to play, for picture and sound alike: 0 in formats whose times begin there, the
first picture in MPEG streams, whose times begin anywhere. Decoding is bounded in time, skips packets that are damaged
and counts them, and raises `MediaError` with the reason where nothing can be had.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from torch.nn.functional import pad

from vatt.media.audio import decode_rate, measure, place, resample
from vatt.media.container import EARLY_S, Container
from vatt.media.demuxing import first_line
from vatt.media.formats.aspect import SQUARE
from vatt.media.frames import WHOLE, Painter, Region
from vatt.media.sources.files import read_bytes, split_member
from vatt.media.sources.remote import is_url
from vatt.media.tracks.selection import has_wrong_key_flags
from vatt.media.types import Frames, MediaError, Waveform
from vatt.structures import Downmix

PREROLL_S = 0.3  # audio decoded before a segment: Opus needs 80 ms, MP3 and AAC a few packets
# A packet of MP3 can begin 255 bytes earlier (ISO/IEC 13818-3, 2.4.3.4); packets of 24 kHz, stereo and 8 kbit/s
# have 3 bytes each. Above 24 kHz, it is 511 bytes, but PREROLL_S suffices at the lowest bit rate, 32 kbit/s.
LOW_RATE_PREROLL_S, LOW_RATE = 2.2, 24_000
MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # FFmpeg's names
MP4_BEGINS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # types of the first box
OWN_SUFFIXES = ("", ".mp4", ".m4v", ".mov", ".3gp", ".m4a", ".mkv", ".webm")
MAX_BYTES = 2**32  # of all frames or all audio that is decoded at once
MAX_SAMPLE = 2.0**40  # larger magnitudes are damage, as are NaN and infinity
MAX_CHANNELS = 64  # FFmpeg converts no more
UNREADABLE = (av.FFmpegError, ValueError, ArithmeticError)  # errors of PyAV, and of parameters that are wrong
GAP_S = 0.01  # sound that jumps by more than this is placed by its own time, less is a rounded timestamp


class Media(Container):
    """An open media file. Not to be shared between threads or processes.

    Attributes:
        info: what the file holds.
        bad_packets: packets that could not be decoded so far.
    """

    def __enter__(self) -> Media:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path_for(self, decoder: str) -> str:
        """Return the absolute path of the file, for a decoder that opens it with its own FFmpeg libraries.

        These libraries do not restrict formats and could follow references. Only files that cannot be detected as a
        playlist, a script or a pattern are passed to them. MP4 and Matroska are binary from the first byte, and no text
        format is detected after a NUL or the first byte of Matroska. No image sequence has one of these suffixes, and
        an absolute path has no protocol. MP4 files that refer to other files were refused on opening.

        Raises:
            MediaError: The file has an unsupported format or path. The file is then closed.
        """
        if split_member(self.path)[2] is not None or is_url(self.path):
            self._refuse(f"{decoder} supports local files only, not shards or URLs")
        head = read_bytes(self.path, 0, 8)
        is_mp4 = self._container.format.name == MP4 and head[:1] == b"\0" and head[4:8] in MP4_BEGINS
        is_matroska = self._container.format.name == MATROSKA and head.startswith(b"\x1a\x45\xdf\xa3")
        if not (is_mp4 or is_matroska) or Path(self.path).suffix.lower() not in OWN_SUFFIXES:
            self._refuse(f"{decoder} supports only MP4 and Matroska files with their usual suffixes")
        self._go_to("video", self.info.duration_s / 2)
        if self._is_sequential or has_wrong_key_flags(self._demux(self._video)):
            self._refuse(f"its timestamps or key frames are wrong, and {decoder} relies on them")
        return os.path.abspath(self.path)

    def _refuse_non_square_pixels(self, decoder: str) -> None:
        aspect = self._input.pixel_aspect
        if aspect is not None and aspect.current != SQUARE:
            self._refuse(f"its pixels are not square (aspect ratio {aspect.current}), which {decoder} ignores")

    def _refuse(self, reason: str) -> None:
        """Close a file that a decoder would read wrongly, and raise the reason."""
        self.close()
        raise MediaError(self.path, f"{reason}: use decoder auto")

    def frames(self, times_s: Sequence[float], region: Region = WHOLE) -> Frames:
        """The frames shown at the given times.

        Args:
            times_s: T ascending times in seconds.
            region: of the picture, and how large.

        Raises:
            MediaError: no picture track, nothing decodes, or the time limit is passed.
        """
        if self._video is None:
            raise MediaError(self.path, "no video track")
        if len(times_s) == 0 or any(b < a for a, b in pairwise(times_s)):
            raise ValueError("times_s must be ascending and not empty")
        try:
            return self._read_frames(list(times_s), region)
        except UNREADABLE as error:  # a pixel format or a size that FFmpeg's filters do not take
            raise MediaError(self.path, f"its pictures cannot be converted: {first_line(error)}") from error

    def all_frames(self, region: Region = WHOLE) -> Frames:
        """Every frame of the file, for short files: see `frames`."""
        if self._video is None:
            raise MediaError(self.path, "no video track")
        frames, times_s, until_s = [], [], 0.0
        painter = Painter(region, 1)
        for at_s, frame in self._decode_from("video", 0.0):
            frames.append(painter.picture(frame))
            if len(frames) * frames[0].numel() > MAX_BYTES:
                raise MediaError(self.path, f"its frames take more than {MAX_BYTES / 2**30:g} GiB of memory")
            times_s.append(at_s)
            until_s = self._shown_until(at_s, frame)
        if not frames:
            raise MediaError(self.path, "no frame of the video could be decoded")
        return Frames(torch.stack(frames), torch.tensor(times_s, dtype=torch.float64), until_s)

    def waveform(self, start_s: float, duration_s: float, sample_rate: int, downmix: Downmix = "mean") -> Waveform:
        """Read a segment of the audio as mono.

        Samples are not clipped. NaN, infinite and implausibly large samples become 0 and count as a bad packet.

        Args:
            start_s: beginning in seconds.
            duration_s: length in seconds.
            sample_rate: of the result in Hz; S = round(duration_s * sample_rate).
            downmix: See `vatt.structures.ClipFormat`.

        Raises:
            MediaError: nothing of the track decodes, or the time limit is passed. A file without sound is no
                error: it gives silence, of which nothing is covered.
        """
        num_samples = round(duration_s * sample_rate)
        if num_samples > MAX_BYTES // 4:
            raise MediaError(
                self.path, f"{duration_s:.0f} s of audio take more than {MAX_BYTES / 2**30:g} GiB of memory"
            )
        if self._audio is None:
            return Waveform(torch.zeros(num_samples), 0, 0)
        try:
            rate = decode_rate(self.info.sample_rate, sample_rate)
            # A margin on both sides lets the resampling filter see real sound at the edges of the span.
            margin = 0 if rate == sample_rate else -(-rate // 50)
            first = round(start_s * rate) - margin
            span = np.zeros(round(duration_s * rate) + 2 * margin, dtype=np.float32)
            begin, end, expected_energy = self._fill(span, first, rate, downmix)
        except UNREADABLE as error:  # a rate or a layout that FFmpeg's filters do not take
            raise MediaError(self.path, f"its sound cannot be converted: {first_line(error)}") from error
        levels = measure(span[begin:end], expected_energy)
        samples = resample(torch.from_numpy(span), rate, sample_rate)
        skip = round(margin * sample_rate / rate)
        samples = pad(samples[skip : skip + num_samples], (0, max(0, num_samples + skip - len(samples))))
        begin, end = (min(num_samples, max(0, round((i - margin) * sample_rate / rate))) for i in (begin, end))
        return Waveform(samples, begin, max(begin, end), levels)

    # ---- picture ---------------------------------------------------------------------------------------------

    def _read_frames(self, times_s: list[float], region: Region) -> Frames:
        painter = Painter(region, len(times_s))
        shown_at: list[float] = []
        before: tuple[float, Any] | None = None
        until_s = math.inf

        def show(at_s: float, frame: Any) -> None:
            painter.add(frame)
            shown_at.append(at_s)

        for at_s, frame in self._decode_from("video", times_s[0], times_s):
            # Each asked time gets the last frame that begins at or before it.
            while len(shown_at) < len(times_s) and at_s > times_s[len(shown_at)] + EARLY_S:
                show(*(before or (at_s, frame)))
            if len(shown_at) == len(times_s):
                break
            before = (at_s, frame)
        if before is None and not shown_at:
            raise MediaError(self.path, "no frame of the video could be decoded")
        if len(shown_at) < len(times_s) and not self.info.is_picture:  # the last frame stands in for all later ones
            until_s = self._shown_until(*before)
        while len(shown_at) < len(times_s):
            show(*before)
        return Frames(painter.frames, torch.tensor(shown_at, dtype=torch.float64), until_s)

    def _shown_until(self, at_s: float, frame: Any) -> float:
        """When a frame, if it is the last one, gives way: after its own duration, or the usual one."""
        own_s = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        usual_s = 1.0 / float(self._video.average_rate) if self._video.average_rate else 0.0
        return at_s + max(own_s, usual_s)

    # ---- sound -----------------------------------------------------------------------------------------------

    def _fill(self, span: np.ndarray, first: int, rate: int, downmix: Downmix) -> tuple[int, int, float]:
        """Write the audio from sample ``first`` on into ``span``, as mono.

        Returns:
            Its start and end in ``span``, and the energy that it would have if its channels were uncorrelated.
        """
        begins, ends, cursor, decoded, expected_energy = len(span), 0, None, False, 0.0
        for at_s, channels in self._decode_sound(rate, first / rate):
            decoded = True
            begin = round(at_s * rate)
            if cursor is None or abs(begin - cursor) > GAP_S * rate:
                cursor = begin
            samples = channels[0] if len(channels) == 1 or downmix == "first" else channels.mean(axis=0)
            at = cursor - first
            begin, end = place(span, samples, at)
            begins, ends = min(begins, begin), max(ends, end)
            if len(channels) > 1 and end > begin:
                part = channels[:, begin - at : end - at]
                expected_energy += float(np.vdot(part, part)) / len(channels) ** 2
            cursor += len(samples)
            if cursor - first >= len(span):
                break
        if not decoded and self.bad_packets:
            decoder = self._audio.codec_context
            kind = f"{decoder.name}, {decoder.layout.nb_channels or 'unknown number of'} channels"
            raise MediaError(self.path, f"no sample of the audio could be decoded ({kind}): {self._decoder_message}")
        return begins, ends, expected_energy

    def _decode_sound(self, rate: int, start_s: float) -> Iterator[tuple[float, np.ndarray]]:
        """Times and (channels, S) float32 samples, from some time before ``start_s`` on."""
        resampler, kind = None, None
        is_low_rate = self.info.audio_codec.startswith("mp3") and self.info.sample_rate <= LOW_RATE
        preroll_s = LOW_RATE_PREROLL_S if is_low_rate else PREROLL_S
        for at_s, frame in self._decode_from("audio", start_s - preroll_s):
            if (channels := frame.layout.nb_channels) > MAX_CHANNELS:
                raise MediaError(self.path, f"its audio has {channels} channels; at most {MAX_CHANNELS} can be read")
            frame_kind = (frame.format.name, frame.layout.name, channels, frame.sample_rate)
            if kind != frame_kind:  # the first frame, or the track changes its layout or sample rate midway
                kind, resampler = frame_kind, _resampler(rate)
            parts = resampler.resample(frame)
            for part in parts:
                samples = part.to_ndarray().reshape(-1, part.layout.nb_channels).T
                if not np.abs(samples).max(initial=0) < MAX_SAMPLE:
                    self.bad_packets += 1
                    samples = np.where(np.abs(samples) < MAX_SAMPLE, samples, np.float32(0))
                yield at_s, samples
                at_s += part.samples / rate


def _resampler(rate: int) -> av.AudioResampler:
    """Return a converter to packed floats: PyAV crashes on planar audio of more than 8 channels."""
    return av.AudioResampler(format="flt", rate=rate)
