"""Files that refer to others: playlists, session descriptions, scripts, reference movies, names like patterns."""

from __future__ import annotations

import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import av
import fsspec
import numpy as np
import pytest
from PIL import Image

from tests.media.movies import external, movie, reference_movie, track
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.inspection import read_packets
from vatt.media.sources.files import member
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

PNG = b"\x89PNG\r\n\x1a\n"


class Canary:
    """A file, a web server and a UDP port that detect whether a media file made a reader open them.

    Attributes:
        path: Named pipe that detects when it is opened.
        url, port: Address of a TCP server that detects connections.
        udp_port: Free port that no process should bind.
        opened: Whether any of them was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._opened = folder / "canary.ts", Event()
        os.mkfifo(self.path)
        Thread(target=self._wait_for_file, daemon=True).start()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/canary.ts"
        Thread(target=self._wait_for_client, daemon=True).start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.udp_port = free.getsockname()[1]

    def _wait_for_file(self) -> None:
        with suppress(OSError):
            os.close(os.open(self.path, os.O_WRONLY))  # blocks until the other end is opened
            self._opened.set()

    def _wait_for_client(self) -> None:
        with suppress(OSError):
            self._server.accept()[0].close()
            self._opened.set()

    @property
    def opened(self) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            try:
                free.bind(("127.0.0.1", self.udp_port))
            except OSError:
                return True
        return self._opened.wait(0.02)

    def close(self) -> None:
        self._server.close()
        os.close(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path)
    yield canary
    canary.close()


def hls(address: str, *, key: str = "", before: str = "") -> bytes:
    tags = f'#EXT-X-KEY:METHOD=AES-128,URI="{key}"\n' if key else ""
    return f"{before}#EXTM3U\n#EXT-X-TARGETDURATION:5\n{tags}#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n".encode()


def sdp(port: int) -> bytes:
    return (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n"
    ).encode()


def xml(text: str, before: str = "<?xml version='1.0'?>\n<!-- holiday -->\n") -> bytes:
    return f"{before}{text}".encode()


def mlv(parts: int) -> bytes:
    """Return the header of a Magic Lantern video in several files, whose names end in M00, M01, …"""
    return b"MLVI" + (52).to_bytes(4, "little") + b"v2.0\0\0\0\0" + bytes(10) + parts.to_bytes(2, "little") + bytes(24)


# By name: word in the error message, and function that returns the content.
REFERENCES: dict[str, tuple[str, Callable[[Canary], bytes]]] = {
    "hls": ("playlist", lambda c: hls(f"file:{c.path}")),
    "hls, relative": ("playlist", lambda c: hls(c.path.name)),
    "hls, url": ("playlist", lambda c: hls(c.url)),
    "hls, live": ("playlist", lambda c: hls(c.url).replace(b"#EXT-X-ENDLIST\n", b"")),
    "hls, key": ("playlist", lambda c: hls("data:,abc", key=c.url)),
    "hls, map": (
        "playlist",
        lambda c: hls(c.path.name).replace(b"#EXTINF", b'#EXT-X-MAP:URI="%b"\n#EXTINF' % c.url.encode()),
    ),
    "hls, master": ("playlist", lambda c: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{c.url}\n".encode()),
    "hls, itself": ("playlist", lambda c: b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nholiday.m3u8\n"),
    "hls, crypto": ("playlist", lambda c: hls(f"crypto:file:{c.path}")),
    "hls, concat": ("playlist", lambda c: hls(f"concat:{c.path}|{c.path}")),
    "hls, subfile": ("playlist", lambda c: hls(f"subfile,,start,0,end,9,,:{c.path}")),
    "hls, mark": ("playlist", lambda c: hls(c.url, before="\ufeff")),
    "hls, tag": ("playlist", lambda c: b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + hls(c.url)),
    "m3u": ("playlist", lambda c: f"#EXTM3U\n#EXTINF:5,title\n{c.path}\n".encode()),
    "ffconcat": ("playlist", lambda c: f"ffconcat version 1.0\nfile {c.path.name}\n".encode()),
    "ffconcat, absolute": ("playlist", lambda c: f"ffconcat version 1.0\nfile '{c.path}'\n".encode()),
    "ffconcat, url": ("playlist", lambda c: f"ffconcat version 1.0\nfile {c.url}\n".encode()),
    "ffconcat, option": ("playlist", lambda c: f"ffconcat version 1.0\nfile {c.path.name}\noption safe 0\n".encode()),
    "ffconcat, itself": ("playlist", lambda c: b"ffconcat version 1.0\nfile holiday.mp4\n" * 2),
    "dash": ("playlist", lambda c: xml(f"<MPD><Period><BaseURL>{c.url}</BaseURL></Period></MPD>")),
    "smooth streaming": ("playlist", lambda c: xml(f'<SmoothStreamingMedia Url="{c.url}"/>')),
    "imf": ("playlist", lambda c: xml(f"<CompositionPlaylist><Id>{c.url}</Id></CompositionPlaylist>")),
    "smil": ("playlist", lambda c: xml(f'<smil><body><video src="{c.url}"/></body></smil>', "")),
    "asx": ("playlist", lambda c: xml(f'<ASX version="3"><entry><ref href="{c.url}"/></entry></ASX>', "")),
    "xspf": ("playlist", lambda c: xml(f"<playlist><track><location>{c.url}</location></track></playlist>")),
    "pls": ("playlist", lambda c: f"[playlist]\nFile1={c.url}\n".encode()),
    "reference": ("playlist", lambda c: f"[Reference]\nRef1={c.url}?MSWMExt=.asf\n".encode()),
    "addresses": ("addresses", lambda c: f"{c.url}\n{c.url}\n".encode()),
    "rtsp": ("addresses", lambda c: f"rtsp://127.0.0.1:{c.port}/a\n".encode()),
    "RTSPtext": ("addresses", lambda c: f"RTSPtext\nrtsp://127.0.0.1:{c.port}/a\n".encode()),
    "sdp": ("session description", lambda c: sdp(c.udp_port)),
    "vobsub": ("subtitles", lambda c: b"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n"),
    "mlv": ("parts", lambda c: mlv(3)),
    "svg": ("drawing", lambda c: xml(f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{c.url}"/></svg>')),
    "QuickTime, alias": (
        "QuickTime reference movies",
        lambda c: movie(track(reference=external(path=str(c.path).encode()))),
    ),
    "QuickTime, url": (
        "QuickTime reference movies",
        lambda c: movie(track(reference=external(b"url ", c.url.encode()))),
    ),
    "QuickTime, reference movie": ("QuickTime reference movies", lambda c: reference_movie(c.url.encode())),
    "QuickTime, compressed": (
        "QuickTime reference movies",
        lambda c: movie(track(reference=external()), compressed=True),
    ),
}
SUFFIXES = {"mlv": ".mlv", "vobsub": ".idx", "sdp": ".sdp", "ffconcat": ".ffconcat"}  # other than the suffixes in NAMES
NAMES = ("holiday.mp4", "holiday.mkv", "holiday.ts", "holiday.jpg", "holiday.mp3", "holiday.m3u8", "holiday")


@pytest.mark.parametrize("name", REFERENCES)
def test_no_file_opens_another_one(name: str, tmp_path: Path, canary: Canary) -> None:
    kind, content = REFERENCES[name][0], REFERENCES[name][1](canary)
    began = time.monotonic()
    for file in (*NAMES, f"holiday{SUFFIXES.get(name, '.mov')}"):
        path = tmp_path / file
        path.write_bytes(content)
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            tar.add(path, path.name)
        with tarfile.open(tmp_path / "shard.tar") as tar:
            offset = tar.getmembers()[0].offset_data
        fsspec.filesystem("memory").pipe(f"/references/{file}", content)
        for location in (
            str(path),
            member(str(tmp_path / "shard.tar"), offset, len(content)),
            f"memory://references/{file}",
        ):
            for read in (open_media, read_packets):
                with pytest.raises(MediaError, match=rf"{kind}.*refers? to other files") as caught:
                    read(location)
                assert str(caught.value).startswith(f"{location}: ")
                assert "\n" not in str(caught.value)
        path.unlink()
    assert not canary.opened
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", ["hls", "ffconcat", "sdp"])
def test_canary_detects_files_that_ffmpeg_opens(name: str, tmp_path: Path, canary: Canary) -> None:
    path = tmp_path / {"hls": "a.m3u8", "ffconcat": "a.mp4", "sdp": "a.sdp"}[name]
    path.write_bytes(REFERENCES[name][1](canary))

    def read() -> None:
        with (
            suppress(av.FFmpegError, OSError),
            av.open(path.open("rb") if name == "sdp" else f"file:{path}", timeout=0.5),
        ):
            pass

    thread = Thread(target=read, daemon=True)
    thread.start()
    until = time.monotonic() + 5
    while not canary.opened and time.monotonic() < until:
        pass
    assert time.monotonic() < until


@pytest.mark.parametrize(
    "name", ["im%d.jpg", "im%03d.jpg", "im*.jpg", "im[0-9].jpg", "im{0,1}.jpg", "%*.png", "im%d.png"]
)
def test_image_names_are_not_patterns(name: str, tmp_path: Path) -> None:
    suffix = Path(name).suffix
    for number in range(3):
        for pattern in ("im{}", "im{:03d}"):
            Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / (pattern.format(number) + suffix))
    with pytest.raises(MediaError, match="No such file"):
        open_media(tmp_path / name)
    noise = np.random.default_rng(0).integers(200, 255, (256, 256, 3), np.uint8)  # large: FFmpeg detects image2
    Image.fromarray(noise).save(tmp_path / name)
    with open_media(tmp_path / name) as media:
        assert media.info.is_picture
        assert media.frames([0.0]).frames.float().mean() > 200


@pytest.mark.parametrize(
    "name",
    [
        "concat:a.ts|b.ts",
        "pipe:0",
        "fd:0",
        "data:,abc",
        "crypto:a.ts",
        "tee:a.ts",
        "subfile,,start,0,end,9,,:a.ts",
        "http:a.ts",
        "lavfi:testsrc",
        "-",
        "a.ts?x=1",
        "udp:127.0.0.1",
    ],
)
def test_names_like_protocols_are_file_names(
    name: str, tmp_path: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.ts").write_bytes(b"no media")
    with pytest.raises(MediaError, match="No such file"):
        open_media(name)
    Path(name).write_bytes(video_file.read_bytes())
    with open_media(name) as media:
        assert media.info.duration_s == pytest.approx(3.0, abs=0.05)


def test_outputs_with_names_like_protocols_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_media("12:30.mp4", np.zeros((5, 48, 64, 3), np.uint8), 25)
    transcode("12:30.mp4", "pipe:1", Encoding())
    assert sorted(os.listdir()) == ["12:30.mp4", "pipe:1"]
    with open_media("pipe:1") as media:
        assert len(media.all_frames().times_s) == 5


def test_planes_in_other_files_are_not_opened(tmp_path: Path, canary: Canary) -> None:
    (tmp_path / "a.Y").write_bytes(bytes(640 * 480))
    (tmp_path / "a.U").symlink_to(canary.path)
    with pytest.raises(MediaError):
        open_media(tmp_path / "a.Y").frames([0.0])
    assert not canary.opened


def test_linked_segments_of_matroska_are_read_without_the_links(
    tmp_path: Path, video_file: Path, canary: Canary
) -> None:
    with av.open(str(video_file)) as old, av.open(str(tmp_path / "a.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    content = (tmp_path / "a.mkv").read_bytes()
    info = content.index(b"\x15\x49\xa9\x66") + 4  # the element Info, whose size has one byte or eight
    width = 9 - content[info].bit_length()
    size = int.from_bytes(content[info : info + width]) & ((1 << 7 * width) - 1)
    link = b"\x3e\x83\xbb" + bytes([0x80 + len(str(canary.path))]) + str(canary.path).encode()  # NextFilename
    larger = (size + len(link) | 1 << 56).to_bytes(8)
    (tmp_path / "b.mkv").write_bytes(
        content[:info] + larger + content[info + width : info + width + size] + link + content[info + width + size :]
    )
    with open_media(tmp_path / "b.mkv") as media:
        assert len(media.frames([0.5]).times_s) == 1
    assert not canary.opened


def test_a_scan_reports_a_playlist(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"ffconcat version 1.0\nfile a.mp4\n")
    facts = scan_file(str(tmp_path / "a.mp4"), 1, 5.0)
    assert (facts.status, facts.reason) == ("unreadable", "a playlist (ffconcat) refers to other files and is refused")


@pytest.mark.parametrize("name", ["smk", "ass"])
def test_other_formats_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").with_suffix(f".{name}").write_bytes(
        {"smk": b"SMK2" + bytes(200), "ass": b"[Script Info]\n" * 99}[name]
    )
    with pytest.raises(MediaError, match=rf"{name}\b.*(is not supported|without video or audio)"):
        open_media((tmp_path / "a").with_suffix(f".{name}"))


# ---- decoders with FFmpeg libraries of their own ---------------------------------------------------------------------


def test_other_decoders_get_an_absolute_path(tmp_path: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data:,a.mp4", "concat:a|b.mov", "plain"):
        Path(name).write_bytes(video_file.read_bytes())
        with open_media(name) as media:
            assert media._path_for("decord") == str(tmp_path / name)


@pytest.mark.parametrize("name", ["im%d.jpg", "im*.png", "a.m3u8", "a.ffconcat", "a.sdp", "a.avs"])
def test_other_decoders_get_no_name_that_they_could_interpret(name: str, tmp_path: Path, video_file: Path) -> None:
    (tmp_path / name).write_bytes(video_file.read_bytes())
    with open_media(tmp_path / name) as media, pytest.raises(MediaError, match="decord supports only MP4 and Matroska"):
        media._path_for("decord")


def test_other_decoders_get_no_content_that_they_could_interpret(tmp_path: Path, video_file: Path) -> None:
    """A box whose size reads as text: the file could be taken for a session description that is MP4 to this FFmpeg."""
    with (tmp_path / "a.mp4").open("wb") as file:  # sparse
        file.write(b"v=0 free")
        file.seek(int.from_bytes(b"v=0 "))
        file.write(video_file.read_bytes())
    with (
        open_media(tmp_path / "a.mp4") as media,
        pytest.raises(MediaError, match="torchcodec supports only MP4 and Matroska"),
    ):
        media._path_for("torchcodec")
