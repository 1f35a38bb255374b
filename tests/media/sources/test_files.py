from __future__ import annotations

import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import numpy as np
import pytest
import torch

from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.inspection import read_packets
from vatt.media.sources import remote
from vatt.media.sources.files import (
    Window,
    exists,
    join,
    member,
    open_source,
    parent,
    read_bytes,
    split_member,
    state,
)
from vatt.media.types import MediaError


def tar_of(folder: Path, files: list[Path]) -> tuple[Path, list[str]]:
    """A tar of files, and the paths of its members."""
    path = folder / "a shard, 1.tar"
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(path) as tar:
        return path, [member(str(path), found.offset_data, found.size) for found in tar.getmembers()]


def test_a_clip_in_a_shard_is_read_as_the_file_is(tmp_path: Path, video_file: Path, sound_file: Path) -> None:
    shard, paths = tar_of(tmp_path, [sound_file, video_file])
    with fsspec.open("memory://bucket/0.tar", "wb") as remote:
        remote.write(shard.read_bytes())
    offset = paths[1].rpartition("#")[2]
    with open_media(video_file) as media:
        frames, sound = media.frames([0.5, 2.9]).frames, media.waveform(1.2, 0.5, 16_000).samples
    for path in (paths[1], f"memory://bucket/0.tar#{offset}"):
        with open_media(path) as media:
            assert torch.equal(media.frames([0.5, 2.9]).frames, frames)
            assert torch.equal(media.waveform(1.2, 0.5, 16_000).samples, sound)


def test_what_is_missing_in_a_shard_is_named(tmp_path: Path, video_file: Path) -> None:
    shard, (path,) = tar_of(tmp_path, [video_file])
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(MediaError, match="the shard has 2000 bytes, the clip ends at"):
        open_media(path)
    with pytest.raises(MediaError, match="No such file"):
        open_media(tmp_path / "gone.tar#512+90")
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        open_media("memory://bucket/gone.mp4")


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(video_file, tmp_path / "12:30.mp4")
    shard, (path,) = tar_of(tmp_path, [video_file])
    shard.rename(tmp_path / "00:00.tar")
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", path.replace(str(shard), "00:00.tar")):
        with open_media(name) as media:
            assert media.info.duration_s == pytest.approx(3.0, abs=0.05)
    (tmp_path / "5:00.mp4").write_bytes(b"no media" * 100)
    for open_it in (open_media, read_packets):
        with pytest.raises(MediaError, match=r"^5:00\.mp4: (?!.*file:)"):
            open_it("5:00.mp4")


def test_bytes_of_a_file_and_of_a_member(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    assert read_bytes(str(tmp_path / "file"), 95, 10) == bytes(range(95, 100))
    assert read_bytes(f"{tmp_path}/file#20+10", 5, 10) == bytes(range(25, 30))
    assert read_bytes(f"{tmp_path}/file#20+10", 15, 10) == b""


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_read_files_only(tmp_path: Path, video_file: Path, decoder: str) -> None:
    _, (path,) = tar_of(tmp_path, [video_file])
    try:
        open_media(video_file, decoder)  # type: ignore[arg-type]
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(MediaError, match="local files only"):
        open_media(path, decoder)  # type: ignore[arg-type]


def test_paths_and_urls_are_put_together() -> None:
    assert join("folder", "a.mp4") == "folder/a.mp4"
    assert join("folder", "/b/a.mp4") == "/b/a.mp4"
    assert join("s3://bucket/set/", "a.mp4") == "s3://bucket/set/a.mp4"
    assert join("folder", "s3://bucket/a.mp4") == "s3://bucket/a.mp4"
    assert parent("s3://bucket/set/clips.jsonl") == "s3://bucket/set"
    assert split_member("s3://b/0.tar#512+90") == ("s3://b/0.tar", 512, 90)
    assert split_member("a#b.mp4") == ("a#b.mp4", 0, None)


def test_a_file_may_be_called_like_a_member(tmp_path: Path) -> None:
    path = tmp_path / "clip#1+2"
    path.write_bytes(b"12345")
    assert split_member(str(path)) == (str(path), 0, None)
    assert state(str(path))[0] == 5
    assert exists(str(path))
    assert not exists(f"{path}#3+3")
    assert exists(f"{path}#3+2")


def test_a_window_ends_where_its_stretch_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    with Window((tmp_path / "file").open("rb"), 10, 20) as window:
        assert window.read(5) == bytes(range(10, 15))
        assert window.seek(-3, 2) == 17
        assert window.read() == bytes(range(27, 30))
        assert window.read(1) == b""


class Server(ThreadingHTTPServer):
    """Serves one file, at every path.

    Attributes:
        faults: what is to happen to the next requests for bytes: a status, or "cut" for half an answer.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.faults, self.asked, self.etag = content, list[int | str](), 0, '"1"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/a.mp4"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *said: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(200, self.server.content, with_body=False)

    def do_GET(self) -> None:
        self.server.asked += 1
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.answer(fault, b"")
            return
        begin, end = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        self.answer(206, self.server.content[int(begin) : int(end) + 1], cut=fault == "cut")

    def answer(self, status: int, content: bytes, with_body: bool = True, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        if with_body:
            self.wfile.write(content[: len(content) // 2] if cut else content)


@pytest.fixture
def server(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    with Server(video_file.read_bytes()) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("faults", [[503], ["cut", 500], [429]])
def test_a_server_that_fails_is_asked_again(server: Server, video_file: Path, faults: list[int | str]) -> None:
    server.faults = faults
    with open_media(server.url) as there, open_media(video_file) as here:
        assert torch.equal(there.frames([0.5, 2.9]).frames, here.frames([0.5, 2.9]).frames)
        assert there.bad_packets == 0
    server.faults = list(faults) or [503]
    assert open_source(server.url, "rb").read() == server.content


@pytest.mark.parametrize(
    ("fault", "said", "asked"), [(503, "503 Service", 3), (403, "403 Forbidden", 1), ("cut", "ContentLengthError", 3)]
)
def test_a_server_that_goes_on_failing_is_named_with_the_reason(
    server: Server, fault: int | str, said: str, asked: int
) -> None:
    server.faults = [fault] * 9
    with pytest.raises(MediaError, match=f"{server.url}: .*{said}") as raised:
        open_media(server.url)
    assert server.asked == asked
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_reading_that_fails_in_the_middle_is_no_damage(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK", 2**12)
    noise = np.random.default_rng(0).integers(0, 255, (75, 96, 128, 3), np.uint8)
    write_media(tmp_path / "noise.mp4", noise, 25)  # 1.5 MB
    server.content = (tmp_path / "noise.mp4").read_bytes()
    media = open_media(server.url)
    server.faults = [500] * 99
    with pytest.raises(MediaError, match="500 Internal Server Error"):  # not the last frame that came
        media.frames([2.9])
    assert media.bad_packets == 0


def test_refusals_when_a_file_is_opened_can_be_sent_to_other_processes(server: Server) -> None:
    server.shutdown()
    server.server_close()
    for ask in (state, lambda url: open_source(url, "rb")):
        with pytest.raises(OSError, match=server.url) as raised:
            ask(server.url)
        again = pickle.loads(pickle.dumps(raised.value))
        assert (again.filename, again.strerror) == (server.url, raised.value.strerror)
    assert "refused" in raised.value.strerror.lower() or "connect" in raised.value.strerror.lower()


def test_a_changed_file_behind_a_url_is_noticed(server: Server) -> None:
    before = state(server.url)
    assert before[0] == len(server.content)
    assert state(server.url) == before
    server.etag = '"2"'
    assert state(server.url)[1] != before[1]


def test_urls_may_be_chained(tmp_path: Path, video_file: Path) -> None:
    archive = tmp_path / "z.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(video_file, "a.mp4")
    memory = fsspec.filesystem("memory")
    memory.pipe("/chained/z.zip", archive.read_bytes())
    memory.pipe("/chained/a.mp4", video_file.read_bytes())
    with open_media(video_file) as media:
        expected = media.frames([0.5, 2.9]).frames
    for url in (
        f"zip://a.mp4::{archive}",
        "zip://a.mp4::memory://chained/z.zip",
        "simplecache::memory://chained/a.mp4",
        f"blockcache::file://{video_file}",
    ):
        assert state(url)[0] == video_file.stat().st_size
        with open_media(url) as media:
            assert torch.equal(media.frames([0.5, 2.9]).frames, expected)
    with pytest.raises(MediaError, match=r"b\.mp4::.*No such file"):
        open_media(f"zip://b.mp4::{archive}")
