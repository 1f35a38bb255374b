"""Files that browsers cannot play are transcoded: the right segment, in a bounded cache, within limits."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import read_number
from tests.media.zoo import write
from tests.retrieval.pages import make_site, with_files
from tests.retrieval.web.test_library import write_audio
from vatt.media.decoding import open_media
from vatt.media.sources.files import member
from vatt.media.types import MediaError
from vatt.retrieval.results import Result
from vatt.retrieval.web import clips as module
from vatt.retrieval.web.clips import Clips
from vatt.retrieval.web.media_types import delivery
from vatt.retrieval.web.results import card
from vatt.retrieval.web.uploads import Busy

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from vatt.retrieval.app import make_app

QUALITY = {"b": "2000000"}
VIDEO: dict[str, tuple[str, dict[str, Any]]] = {
    "mpeg4.avi": ("clip", {"codec": "mpeg4", "options": QUALITY, "sound": "libmp3lame"}),
    "mpeg1.mpg": ("clip", {"codec": "mpeg1video", "options": QUALITY, "sound": "mp2"}),
    "h264.mkv": ("clip", {}),
    "hevc.mp4": ("clip", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    "prores.mov": ("clip", {"codec": "prores_ks", "options": {}, "pix_fmt": "yuv422p10le"}),
    "ten_bits.mp4": ("clip", {"pix_fmt": "yuv422p10le"}),
    "lossless.mp4": ("clip", {"options": {"qp": "0"}}),
    "mpeg4.mp4": ("clip", {"codec": "mpeg4", "options": QUALITY}),
    "ac3.mp4": ("clip", {"sound": "ac3"}),
    "pcm.mov": ("clip", {"sound": "pcm_s16le"}),
    "flv1.flv": ("clip", {"codec": "flv1", "options": QUALITY, "sample_rate": 44_100}),
    "wmv2.wmv": ("clip", {"codec": "wmv2", "options": QUALITY, "sound": "libmp3lame"}),
    "h264.ts": ("clip", {}),
    "h264.mp4": ("media", {}),
    "h264.mov": ("media", {}),
    "silent.mp4": ("media", {"sound": None}),
    "vp9.webm": ("media", {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}, "sound": "libopus"}),
    "vp8.webm": ("media", {"codec": "libvpx", "options": {"b": "1000000"}, "sound": "libopus"}),
}
AUDIO = {
    "wav": ("media", "pcm_s16le"), "mp3": ("media", "libmp3lame"), "flac": ("media", "flac"), "ipod": ("media", "aac"),
    "webm": ("media", "libopus"), "aiff": ("clip", "pcm_s16be"), "caf": ("clip", "pcm_s16le"), "asf": ("clip", "mp2"),
    "ac3": ("clip", "ac3"), "adts": ("clip", "aac"), "ogg": ("clip", "libopus"), "mp2": ("clip", "mp2"),
    "au": ("clip", "pcm_s16be"),
}  # fmt: skip


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 6 s of numbered frames with beeps, in all formats and in a shard; and files with unusual names."""
    folder = tmp_path_factory.mktemp("formats") / "my media"
    folder.mkdir()
    for name, (_, options) in VIDEO.items():
        write(folder / name, **options)
    with tarfile.open(folder / "00000.tar", "w") as shard:
        shard.add(folder / "h264.mp4", "0.mp4")
    shutil.copy(folder / "hevc.mp4", folder / "hevc named.webm")
    (folder / "broken.avi").write_bytes((folder / "mpeg4.avi").read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def shard(media: Path) -> str:
    with tarfile.open(media / "00000.tar") as opened:
        info = opened.getmember("0.mp4")
        return member(str(media / "00000.tar"), info.offset_data, info.size)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, video_file: Path, sound_file: Path) -> Path:
    return make_site(tmp_path_factory.mktemp("site"), video_file, sound_file)


@pytest.fixture(scope="module")
def client(index: Path, media: Path, shard: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    paths = [*(str(media / name) for name in (*VIDEO, "hevc named.webm", "broken.avi", "gone.avi")), shard]
    app = make_app(with_files(index, paths, tmp_path_factory.mktemp("index") / "formats"))
    with TestClient(app) as client:
        yield client


def number(client: TestClient, path: str | Path) -> int:
    return client.app.state.library.numbers[str(path)]


@pytest.mark.parametrize("name", VIDEO)
def test_delivery_of_videos_depends_on_their_codecs(media: Path, tmp_path: Path, name: str) -> None:
    assert delivery(str(media / name)) == VIDEO[name][0]
    shutil.copy(media / name, tmp_path / "film.mp4")
    assert delivery(str(tmp_path / "film.mp4")) == VIDEO[name][0]


@pytest.mark.parametrize("container", AUDIO)
def test_delivery_of_audio_depends_on_its_codec(tmp_path: Path, container: str) -> None:
    write_audio(tmp_path / "audio", container, AUDIO[container][1], {})
    assert delivery(str(tmp_path / "audio")) == AUDIO[container][0]


def test_delivery_of_other_files(media: Path, shard: str, tmp_path: Path) -> None:
    assert delivery(shard) == "clip"
    write_audio(tmp_path / "a.wav", "wav", "pcm_s16le", {})
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:4] + b"\xff\xff\xff\xff" + content[8:])  # written to a pipe
    assert delivery(str(tmp_path / "a.wav")) == "clip"
    for options, expected in (({}, "media"), ({"id3v2_version": "0"}, "media"), ({"write_xing": "0"}, "clip")):
        write_audio(tmp_path / "a.mp3", "mp3", "libmp3lame", options)
        assert delivery(str(tmp_path / "a.mp3")) == expected
    for kind, expected in (("PNG", None), ("TIFF", None), ("BMP", None), ("GIF", "clip")):
        Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "image", kind)
        assert delivery(str(tmp_path / "image")) == expected
    assert delivery(str(media / "broken.avi")) == "clip"
    assert delivery("https://host/a.avi") == "media"  # the script of the page requests a clip if that fails
    assert delivery("https://host/0.tar#512+1024") == delivery("s3://bucket/a.mp4") == "clip"


def test_delivery_follows_changes_of_a_file(media: Path, tmp_path: Path) -> None:
    shutil.copy(media / "h264.mp4", tmp_path / "film.mp4")
    assert delivery(str(tmp_path / "film.mp4")) == "media"
    shutil.copy(media / "hevc.mp4", tmp_path / "film.mp4")
    assert delivery(str(tmp_path / "film.mp4")) == "clip"


@pytest.mark.parametrize("name", [*(name for name, (kind, _) in VIDEO.items() if kind == "clip"), "shard"])
def test_clips_are_the_requested_segments(
    client: TestClient, media: Path, shard: str, tmp_path: Path, name: str
) -> None:
    """Frames and beeps are those of the file, counted from the start of the segment."""
    path = shard if name == "shard" else str(media / name)
    response = client.get(f"/clip/{number(client, path)}?t=2.000,4.200")
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4"), response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'none'; sandbox")
    (tmp_path / "clip.mp4").write_bytes(response.content)
    assert delivery(str(tmp_path / "clip.mp4")) == "media"
    times_s = np.arange(0.01, 2.2, 0.04)
    with open_media(tmp_path / "clip.mp4") as clip, open_media(path) as file:
        expected = [read_number(frame) for frame in file.frames((times_s + 2.0).tolist()).frames]
        assert [read_number(frame) for frame in clip.frames(times_s.tolist()).frames] == expected
        assert abs(expected[0] - 50) <= 1  # AVI, FLV and WMV begin one frame late, with their audio
        assert clip.info.duration_s == pytest.approx(2.2, abs=0.05)
        loudness = [np.abs(m.waveform(s, 2.2, 16_000).samples.numpy()) for m, s in ((clip, 0.0), (file, 2.0))]
    is_loud = [np.convolve(samples, np.ones(160) / 160, "same") > 0.1 for samples in loudness]
    assert (is_loud[0] == is_loud[1]).mean() > 0.99
    assert 0.15 < is_loud[0].mean() < 0.3


def test_players_request_files_or_clips(client: TestClient, media: Path, shard: str) -> None:
    library = client.app.state.library
    for name, path, mark in (
        ("media", media / "h264.mp4", "#"),
        ("clip", media / "hevc named.webm", "?"),
        ("clip", shard, "?"),
    ):
        html = card(library, Result(1, 0.5, "a", str(path), 1.0, 2.5))
        assert f'src="{name}/{number(client, path)}{mark}t=1.000,2.500"' in html
        assert "are played" not in html
    html = card(library, Result(1, 0.5, "a", str(media / "mpeg4.avi"), 0.0, 0.0))
    assert f'src="clip/{number(client, media / "mpeg4.avi")}"' in html
    assert "at most 30 s are played" in html
    assert "at most 30 s are played" in card(library, Result(1, 0.5, "a", str(media / "mpeg4.avi"), 9.0, 40.0))


def test_clips_support_byte_ranges(client: TestClient, media: Path) -> None:
    url = f"/clip/{number(client, media / 'mpeg4.avi')}"
    whole = client.get(url)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    part = client.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])


def test_reasons_are_sentences_without_directories(client: TestClient, media: Path) -> None:
    expected = {"broken.avi": 415, "gone.avi": 404}
    for name, status in expected.items():
        response = client.get(f"/clip/{number(client, media / name)}?t=0,1")
        assert response.status_code == status
        text = json.loads(response.text)["detail"]
        assert "my media" not in text
        assert "/" not in text
        assert status == 404 or text.startswith("The clip cannot be played: no readable media")


@pytest.mark.parametrize(
    "t", ["", "1", "1,1", "2,1", "-1,1", "nan,1", "0,inf", "1,1e300", "1,2,3", "x,y", "1" * 100 + ",2"]
)
def test_invalid_segments_are_refused(client: TestClient, media: Path, t: str) -> None:
    assert client.get(f"/clip/{number(client, media / 'mpeg4.avi')}?t={t}").status_code == 400
    assert client.get("/clip/999").status_code == 404


def test_files_outside_the_indexed_directories_have_no_clips(index: Path, media: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.avi").symlink_to(media / "mpeg4.avi")
    paths = [str(media / "mpeg4.avi"), str(tmp_path / "root" / "link.avi"), "http://127.0.0.1:1/a.avi", "/dev/zero"]
    app = make_app(with_files(index, paths, tmp_path / "index"), roots=[tmp_path / "root"], token="secret")
    client = TestClient(app)
    assert client.get("/clip/0").status_code == 401
    for path in paths:
        response = client.get(f"/clip/{number(client, path)}", headers={"Authorization": "Bearer secret"})
        assert response.status_code == 404
        assert response.json()["detail"] in (
            "outside the indexed directories",
            "URLs are disabled; start with --urls true",
        )


# ---- cache -----------------------------------------------------------------------------------------------------------


def test_the_cache_is_private_bounded_and_shared(
    cache: Clips, source: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [0]
    monkeypatch.setattr(module, "state", lambda _: (0, changes[0]))
    path = source("good")

    async def get(start_s: float, end_s: float = 900.0) -> Path:
        async with cache.clip(path, start_s, end_s) as file:
            assert file.stat().st_size == 100
            return file

    async def run() -> None:
        first, same = await asyncio.gather(get(0.0), get(0.0))
        assert first == same
        await get(1.0, 2.0)
        await get(0.0)  # used more recently than the second one
        third = await get(2.0)
        assert sorted(cache.folder.iterdir()) == sorted([first, third])
        changes[0] += 1
        assert await get(0.0) not in (first, third)
        async with cache.clip(path, 5.0, 6.0) as sent:
            for start_s in (6.0, 7.0, 8.0):
                await get(start_s)
            assert sent.exists()  # as long as it is sent
        assert len(list(cache.folder.iterdir())) == 2

    assert os.stat(cache.folder).st_mode & 0o777 == 0o700
    asyncio.run(run())
    segments = ["0-30", "1-2", "2-32", "0-30", "5-6", "6-36", "7-37", "8-38"]
    assert Path(path).read_text().split() == segments


def test_failures_cost_one_clip(cache: Clips, source: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.processes, "time_limit_s", 0.5)
    monkeypatch.setattr(module, "state", lambda _: (0, 0))
    tries = {
        "bad": ("damaged", 1 + 1),
        "crash": ("killed by SIGABRT", 1),
        "slow": ("not done within 0.5 s", 1),
        "full": ("No space", 2),
    }

    async def run() -> None:
        for name, (reason, _) in tries.items():
            for _ in range(2):
                with pytest.raises((MediaError, OSError), match=reason):
                    async with cache.clip(source(name), 0.0, 1.0):
                        pass
        monkeypatch.setattr(module, "ERROR_S", 0.0)
        with pytest.raises(MediaError, match="damaged"):
            async with cache.clip(source("bad"), 0.0, 1.0):
                pass
        async with cache.clip(source("good"), 0.0, 1.0) as file:
            assert list(cache.folder.iterdir()) == [file]

    asyncio.run(run())
    for name, (_, count) in tries.items():
        assert len(Path(source(name)).read_text().split()) == count, name


def test_waiting_is_bounded(cache: Clips, source: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    monkeypatch.setattr(module, "state", lambda _: (0, 0))
    path = source("waits")

    async def get(start_s: float) -> None:
        async with cache.clip(path, start_s, start_s + 1.0):
            pass

    async def run() -> None:
        running, waiting = asyncio.create_task(get(0.0)), asyncio.create_task(get(1.0))
        while not Path(path).read_text():
            await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="busy"):
            await get(2.0)
        waiting.cancel()  # without requests, it is not transcoded
        with pytest.raises(asyncio.CancelledError):
            await waiting
        monkeypatch.setattr(module, "WAIT_LIMIT_S", 0.1)
        with pytest.raises(Busy, match="busy"):
            await get(3.0)
        Path(f"{path}.go").touch()
        await running
        monkeypatch.setattr(module, "WAIT_LIMIT_S", 60.0)
        await get(4.0)

    asyncio.run(run())
    assert Path(path).read_text().split() == ["0-1", "4-5"]
