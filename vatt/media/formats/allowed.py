"""Supported container formats: those whose files contain all of their media.

Some formats make FFmpeg open other files, URLs or ports: playlists, session descriptions, image sequences. Media are
therefore opened with this list as the `format_whitelist` of FFmpeg. Formats that are not listed, such as those of a
later FFmpeg, are refused.
"""

from __future__ import annotations

import re

from vatt.media.types import MediaError, NoMedia

# Names of demuxers, selected from those of FFmpeg 8.1 by reading their sources. Formats of games, subtitles and text,
# and raw data without a header, are self-contained but not included.
SELF_CONTAINED = (
    # Video and audio together.
    "mov",  # MP4, MOV, M4A, 3GP, HEIF, AVIF. External data references stay closed: `enable_drefs` is off by default.
    "matroska",  # MKV, WebM. FFmpeg does not follow linked segments.
    "avi",
    "asf",  # WMV, WMA
    "asf_o",
    "flv",
    "mpeg",  # MPG, VOB
    "mpegts",  # TS, MTS, M2TS
    "ogg",
    "mxf",
    "nut",
    "rm",
    "wtv",
    "dv",
    "gxf",
    "dhav",
    # Video alone.
    "apv",
    "av1",
    "avs2",
    "avs3",
    "cavsvideo",
    "dirac",
    "dnxhd",
    "evc",
    "h261",
    "h263",
    "h264",
    "hevc",
    "ivf",
    "m4v",
    "mjpeg",
    "mjpeg_2000",
    "mpegvideo",
    "obu",
    "vc1",
    "vc1test",
    "vvc",
    "yuv4mpegpipe",
    # Audio alone.
    "aac",
    "ac3",
    "ac4",
    "aiff",
    "amr",
    "amrnb",
    "amrwb",
    "ape",
    "au",
    "caf",
    "dsf",
    "dss",
    "dts",
    "dtshd",
    "eac3",
    "flac",
    "iamf",
    "loas",
    "mlp",
    "mp3",
    "mpc",
    "mpc8",
    "nistsphere",
    "oma",
    "qcp",
    "shn",
    "sox",
    "tak",
    "truehd",
    "tta",
    "voc",
    "w64",
    "wav",
    "wv",
    "xwma",
    # Still images and animations. FFmpeg chooses "image2" for some JPEG files. For names such as "%03d.jpg" it
    # would open a sequence of files, but it gets only an open file with another name.
    "image2",
    "apng",
    "bmp_pipe",
    "dds_pipe",
    "dpx_pipe",
    "exr_pipe",
    "gif",
    "gif_pipe",
    "hdr_pipe",
    "ico",
    "j2k_pipe",
    "jpeg_pipe",
    "jpegls_pipe",
    "jpegxl_anim",
    "jpegxl_pipe",
    "jpegxs_pipe",
    "pam_pipe",
    "pbm_pipe",
    "pcx_pipe",
    "pfm_pipe",
    "pgm_pipe",
    "pgmyuv_pipe",
    "phm_pipe",
    "png_pipe",
    "ppm_pipe",
    "psd_pipe",
    "qoi_pipe",
    "sgi_pipe",
    "sunrast_pipe",
    "tiff_pipe",
    "webp_pipe",
)
# A file must not make FFmpeg open another one: only these formats are detected, and no protocol is allowed.
CLOSED = {"format_whitelist": ",".join(SELF_CONTAINED), "protocol_whitelist": "none"}
# Demuxers that open other files, URLs or ports, and the names of their files in errors.
REFERRING = {
    "hls": "a playlist (HLS)",
    "concat": "a playlist (ffconcat)",
    "dash": "a playlist (DASH)",
    "webm_dash_manifest": "a playlist (DASH)",
    "imf": "a playlist (IMF)",
    "sdp": "a session description (SDP)",
    "rtp": "a network stream (RTP)",
    "rtsp": "a network stream (RTSP)",
    "sap": "a network stream (SAP)",
    "vobsub": "an index of subtitles (VobSub)",
    "mlv": "a Magic Lantern video in parts (MLV)",
    "svg_pipe": "a drawing (SVG)",
    "avisynth": "a script (AviSynth)",
    "vapoursynth": "a script (VapourSynth)",
    "lavfi": "a description of a filter graph (lavfi)",
}
# Demuxers of subtitles, metadata and text.
TEXT = frozenset(
    "ass srt webvtt sami microdvd mpl2 mpsub subviewer subviewer1 vplayer jacosub realtext stl scc mcc sup dvbsub "
    "dvbtxt lrc pjs aqtitle tedcaptions ffmetadata rcwt tty bin adf idf xbin sbg".split()
)
# First bytes of files that refer to others, for formats that FFmpeg does not detect, or only by their suffix.
_BEGINNINGS = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (rb"#EXTM3U", REFERRING["hls"]),
        (rb"ffconcat version", REFERRING["concat"]),
        (rb"v=0[\r\n]", REFERRING["sdp"]),
        (rb"# VobSub index file", REFERRING["vobsub"]),
        (rb"<MPD\b", REFERRING["dash"]),
        (rb"<CompositionPlaylist\b", REFERRING["imf"]),
        (rb"<(smil|asx|playlist|SmoothStreamingMedia)\b", "a playlist (XML)"),
        (rb"<svg\b", REFERRING["svg_pipe"]),
        (rb"\[(playlist|reference)\]", "a playlist"),
        (rb"(RTSPtext|SMILtext)?\s*[a-z]+://", "a list of addresses"),
    )
)
_BEFORE_XML = re.compile(rb"<\?[^>]*>|<!--.*?-->|<!DOCTYPE[^>]*>", re.DOTALL)
HEAD = 4096  # bytes that are checked
_ID3 = 10  # bytes of the header of a tag


def check_beginning(path: str, head: bytes) -> None:
    """Refuse files that begin like a format that refers to other files, regardless of what FFmpeg would detect.

    Args:
        path: The file.
        head: Its first `HEAD` bytes.

    Raises:
        MediaError: The file has such a format.
    """
    text = _after_tag(head).lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        text = _BEFORE_XML.sub(b"", text).lstrip()
    for pattern, kind in _BEGINNINGS:
        if pattern.match(text):
            raise MediaError(path, f"{kind} refers to other files and is refused")


def refusal(path: str, name: str) -> MediaError:
    """Return the error for a file of an unsupported format.

    Args:
        path: The file.
        name: The format that FFmpeg detected, which is not in `SELF_CONTAINED`.
    """
    kind = next((REFERRING[part] for part in name.split(",") if part in REFERRING), None)
    if kind is not None:
        return MediaError(path, f"{kind} refers to other files and is refused")
    if name in TEXT:
        return NoMedia(path, f"{name} is a text or subtitle format without video or audio")
    return MediaError(path, f"the format {name} is not supported; convert the file to MP4, WAV or PNG first")


def _after_tag(head: bytes) -> bytes:
    """Skip an ID3v2 tag, as FFmpeg does before it detects a format (ID3v2.4.0, section 3.1)."""
    if head[:3] != b"ID3" or len(head) < _ID3:
        return head
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:_ID3], (21, 14, 7, 0), strict=True))
    return head[_ID3 + size :]
