"""Time limits: special files, hanging servers and endless files."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.media.movies import movie, tables, track
from vatt.media import container, demuxing
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.formats.damage import decode_pictures
from vatt.media.inspection import read_packets
from vatt.media.sources import files as source
from vatt.media.sources import remote
from vatt.media.sources.files import MediaFile, open_source, state
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

EBML = bytes.fromhex("1a45dfa3 8f 4282 88") + b"matroska" + bytes.fromhex("4285 81 02")


# ---- special files ---------------------------------------------------------------------------------------------------


def special_files(folder: Path) -> list[str]:
    os.mkfifo(folder / "pipe.mp4")
    (folder / "link.mp4").symlink_to(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    devices = ["/dev/zero", "/dev/stdin", "/dev/null", "/dev/fd/0", "/dev/random", "/dev/tty", "/dev/ptmx"]
    kernel = [
        "/proc/self/environ",
        "/proc/self/mem",
        "/proc/self/fd/0",
        "/proc/kmsg",
        "/proc/version",
        "/sys/power/state",
    ]
    ours = [str(folder / name) for name in ("pipe.mp4", "link.mp4", "folder.mp4", "socket")]
    return [path for path in (*ours, *devices, *kernel) if os.path.lexists(path)]


def test_special_files_are_refused_immediately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    paths = special_files(tmp_path)
    assert len(paths) > 4
    for path in (*paths, *(f"{path}#0+100" for path in paths)):
        for read in (open_media, read_packets, lambda path: MediaFile(path, 1.0)):
            with pytest.raises((MediaError, OSError), match="is not a regular file"):
                read(path)
        with pytest.raises(OSError, match="is not a regular file"):
            state(path)
        facts = scan_file(path, 1, 5.0)
        assert (facts.status, facts.reason) == ("unreadable", "is not a regular file")
    monkeypatch.chdir("/dev")
    with pytest.raises(MediaError, match="is not a regular file"):
        open_media("zero")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "url", ["file://{}", "simplecache::file://{}", "local://{}", "zip://a.mp4::{}", "file://{}#0+9"]
)
def test_special_files_are_refused_in_urls(url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    began = time.monotonic()
    with pytest.raises(MediaError, match="is not a regular file"):
        open_media(url.format(tmp_path / "pipe.mp4"))
    assert time.monotonic() - began < 2


def test_files_in_shared_memory_and_symbolic_links_are_read(tmp_path: Path, video_file: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(video_file)
    with open_media(tmp_path / "link.mp4") as media:
        assert media.info.has_video
    if os.path.isdir("/dev/shm"):
        copy = Path(f"/dev/shm/vatt-test-{os.getpid()}.mp4")
        try:
            copy.write_bytes(video_file.read_bytes())
            open_media(copy).close()
        finally:
            copy.unlink()


def test_files_are_closed(tmp_path: Path, video_file: Path) -> None:
    def is_open(name: str) -> bool:
        return any(os.path.realpath(f"/proc/self/fd/{number}").endswith(name) for number in os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are listed in Linux's /proc")
    names = ("good.mp4", "bad.mp4", "list.mp4", "movie.mp4", "empty.mp4", "words.mp4")
    contents = (
        video_file.read_bytes(),
        bytes(9999),
        b"#EXTM3U\n",
        movie(track(table=tables(2**27, 1))),
        b"",
        b"no" * 99,
    )
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
        errors = []  # their tracebacks refer to open files
        for read in (open_media, read_packets, lambda path: scan_file(str(path), 1, 5.0)):
            try:
                result = read(tmp_path / name if read is open_media else str(tmp_path / name))
                if read is open_media:
                    assert is_open(name)
                    result.frames([0.5, 2.0])
                    result.close()
            except MediaError as error:
                errors.append(error)
            assert not is_open(name)


# ---- time ------------------------------------------------------------------------------------------------------------


class SlowServer:
    """Server that answers with a header and then slowly with single bytes, or does not answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer, self._socket = answer, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a.mp4"
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            head = client.recv(4096).startswith(b"HEAD")
            client.sendall(self._answer)
            while self._answer and not head:
                time.sleep(0.1)
                client.sendall(b"\0")
            time.sleep(30)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["silent", "slow header", "slow content"])
def slow_server(request: pytest.FixtureRequest) -> Iterator[SlowServer]:
    pytest.importorskip("aiohttp")
    answer = {"silent": b"", "slow header": b"HTTP/1.1 200 OK\r\nX: "}.get(
        request.param, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nAccept-Ranges: bytes\r\n\r\n"
    )
    server = SlowServer(answer)
    yield server
    server.close()


@pytest.mark.parametrize("name", ["{}", "{}#512+9000"])
def test_opening_from_a_hanging_server_times_out(name: str, slow_server: SlowServer) -> None:
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"no complete answer within|reading took longer than") as caught:
        open_media(name.format(slow_server.url), time_limit_s=0.5)
    assert caught.value.path.startswith(slow_server.url)
    assert time.monotonic() - began < 3


def test_reading_from_a_hanging_server_times_out(slow_server: SlowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ANSWER_LIMIT_S", 0.3)
    began = time.monotonic()
    with pytest.raises((OSError, MediaError), match=r"no complete answer within 0\.3 s"):
        open_source(slow_server.url, "rb").read(10)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("suffix", "begin"),
    [
        (".mkv", EBML),
        (".avi", b"RIFF\xff\xff\xff\x7fAVI "),
        (".mp3", b""),
        (".ts", b"\x47" + bytes(187)),
        (".mpg", b"\0\0\1\xba"),
        (".ogg", b"OggS"),
    ],
)
def test_reading_a_huge_empty_file_times_out(
    suffix: str, begin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in (demuxing, container):
        monkeypatch.setattr(module, "SHORTEST_OPEN_S", 0.2)
    path = tmp_path / f"a{suffix}"
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(2**38)  # sparse
    began = time.monotonic()
    for read in (lambda: open_media(path, time_limit_s=0.2).frames([0.0]), lambda: read_packets(str(path), 0.2)):
        with pytest.raises(MediaError):
            read()
    assert time.monotonic() - began < 4
    assert capfd.readouterr().err == ""


class SlowFile(io.FileIO):
    delay_s = 0.0

    def read(self, size: int = -1) -> bytes:
        time.sleep(self.delay_s)
        return super().read(size)


@pytest.fixture
def slow_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of some megabytes whose reads can be delayed."""
    noise = np.random.default_rng(0).integers(0, 255, (75, 96, 128, 3), np.uint8)
    write_media(tmp_path / "noise.mp4", noise, 25)
    monkeypatch.setattr(source, "open_local", lambda file: (SlowFile(file), os.path.getsize(file)))
    monkeypatch.setattr(SlowFile, "delay_s", 0.0)
    return tmp_path / "noise.mp4"


def test_every_call_has_a_time_limit(slow_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = read_packets(str(slow_file)).video
    media = open_media(slow_file, time_limit_s=0.3)
    steps: list[Any] = [
        lambda: media.frames([0.1, 2.9]),
        lambda: media.all_frames(),
        lambda: media.packet_times_s(),
        lambda: read_packets(str(slow_file), 0.3),
        lambda: decode_pictures(str(slow_file), video, [(0.0, 3.0)], 0.3),
    ]
    for step in steps:
        monkeypatch.setattr(SlowFile, "delay_s", 0.0)
        step()
        monkeypatch.setattr(SlowFile, "delay_s", 0.06)
        began = time.monotonic()
        with pytest.raises(MediaError, match=r"took longer than (0\.3|1) s"):
            step()
        assert time.monotonic() - began < 2
    monkeypatch.setattr(SlowFile, "delay_s", 2.0)
    with pytest.raises(MediaError, match="took longer than 1 s"):  # the shortest time limit of opening
        open_media(slow_file, time_limit_s=0.3)
    monkeypatch.setattr(SlowFile, "delay_s", 0.0)
    assert len(media.frames([0.1, 2.9]).times_s) == 2  # reading continues


def test_file_is_reopened_at_the_next_call_after_a_failure(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_media(video_file) as media:
        media.frames([2.0])
        with monkeypatch.context() as patch:
            patch.setattr(source, "open_local", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(MediaError, match="Input/output error"):
                media.packet_times_s()
        assert len(media.frames([2.0]).times_s) == 1
