"""Pictures on their way into an encoder: size, orientation, colours, and how many there are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.conftest import numbered_frames, read_number
from tests.media.test_transcode import whole
from tests.media.zoo import ODD, SHOWN_MS, STEADY_MS, ZOO
from vatt.media.decoding import open_media
from vatt.media.shrinking import new_size
from vatt.media.transcode import Encoding


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shrinking")
    for name in ("h264.mp4", "h264_29.97.mp4", "variable.mp4", "late_sound.mkv"):
        ZOO[name](folder / name)
    return folder


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1920, 1080), 256, (454, 256)),
        ((1080, 1920), 256, (256, 454)),
        ((320, 240), 256, (320, 240)),
        ((65, 49), 256, (64, 48)),
        ((1, 48), 256, (2, 48)),
        ((999, 3), 2, (666, 2)),
    ],
)
def test_sizes(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert new_size(*size, short_side) == expected


def test_pictures_become_smaller_but_never_larger(zoo: Path) -> None:
    for short_side, expected in ((24, (32, 24)), (48, (64, 48)), (480, (64, 48))):
        with open_media(whole(zoo / "h264.mp4", Encoding(short_side=short_side, crf=10))) as media:
            assert (media.info.width, media.info.height) == expected
            assert [read_number(f) for f in media.frames([0.1, 1.1, 4.1]).frames] == [2, 27, 102]


def test_odd_and_narrow_pictures(tmp_path: Path) -> None:
    ODD["narrow.mov"][0](tmp_path / "narrow.mov")
    with open_media(tmp_path / "narrow.mov") as old, open_media(whole(tmp_path / "narrow.mov")) as media:
        assert (media.info.width, media.info.height) == (2, 48)
        a, b = (file.all_frames().frames.float().mean(dim=(1, 2, 3)) for file in (old, media))
    assert len(b) == 50
    assert (a - b).abs().max() < 3
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 65, 49, "yuv444p"
        for picture in np.pad(numbered_frames(30), ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge"):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
    with open_media(whole(tmp_path / "odd.mkv")) as media:
        assert (media.info.width, media.info.height) == (64, 48)
        assert [read_number(frame) for frame in media.all_frames().frames] == list(range(30))


def show_by(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Have an MP4 shown turned or mirrored, by the matrix of its track."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 & 0xFFFFFFFF for value in matrix)
    place = content.find(b"tkhd") + 4 + 40
    content[place : place + 36] = b"".join(value.to_bytes(4, "big") for value in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "quarters", "mirrored"),
    [
        ((0, 1, -1, 0), -1, False),
        ((-1, 0, 0, -1), 2, False),
        ((0, -1, 1, 0), 1, False),
        ((-1, 0, 0, 1), 0, True),
        ((0, 1, 1, 0), 1, True),
    ],
)
def test_pictures_are_upright_and_need_no_turning(
    zoo: Path, tmp_path: Path, matrix: tuple[int, int, int, int], quarters: int, mirrored: bool
) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes((zoo / "h264.mp4").read_bytes())
    show_by(path, matrix)
    new = whole(path)
    with open_media(zoo / "h264.mp4") as lying, open_media(new) as media:
        stored = lying.frames([1.0]).frames
        expected = torch.rot90(stored.flip(-1) if mirrored else stored, quarters, dims=(2, 3))
        found = media.frames([1.0]).frames
    assert (found.float() - expected.float()).abs().mean() < 2
    with av.open(str(new)) as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "matrix", "full"),
    [
        ("libx264", "yuv420p", 5, False),
        ("libx264", "yuv420p", 1, False),
        ("libx264", "yuv420p", 1, True),
        ("libx264", "yuv420p10le", 9, False),
        ("mjpeg", "yuvj420p", None, True),
        ("png", "rgb24", None, False),
        ("libx264", "gray", None, False),
    ],
)
def test_colours_stay(tmp_path: Path, codec: str, pix_fmt: str, matrix: int | None, full: bool) -> None:
    squares = np.random.default_rng(0).integers(0, 255, (2, 3, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    path = tmp_path / "colours.mov"
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options={"crf": "1"} if codec == "libx264" else {})
        video.width, video.height, video.pix_fmt = 96, 64, pix_fmt
        if matrix is not None:
            video.codec_context.colorspace, video.codec_context.color_range = matrix, 2 if full else 1
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(squares, format="rgb24")
            options = {} if matrix is None else {"dst_colorspace": matrix, "dst_color_range": 2 if full else 1}
            container.mux(video.encode(frame.reformat(format=pix_fmt, **options)))
        container.mux(video.encode())
    inside = [(y, x) for y in (16, 48) for x in (16, 48, 80)]
    with open_media(path) as old, open_media(whole(path, Encoding(crf=1))) as media:
        a, b = (file.frames([0.1]).frames[0].int() for file in (old, media))
    for y, x in inside:  # a wrong matrix or range is off by 10 and more
        assert (a[:, y, x] - b[:, y, x]).abs().max() <= 4
        if pix_fmt != "gray":
            assert (b[:, y, x] - torch.from_numpy(squares[y, x]).int()).abs().max() <= 6


@pytest.mark.parametrize("name", ["h264.mp4", "variable.mp4"])
def test_fewer_frames_are_those_seen_at_the_slower_rate(zoo: Path, name: str) -> None:
    new = whole(zoo / name, Encoding(crf=10, fps=10.0))
    with open_media(new) as media, open_media(zoo / name) as old:
        kept, all_frames = media.all_frames(), old.all_frames()
        assert kept.until_s == pytest.approx(all_frames.until_s, abs=0.06)
    times_s = np.arange(0, all_frames.until_s - 0.03, 0.1)
    shown_ms = np.array(SHOWN_MS.get(name, STEADY_MS))
    seen = set((np.searchsorted(shown_ms, 1000 * times_s + 1, side="right") - 1).tolist())
    numbers = [read_number(frame) for frame in kept.frames]
    assert seen <= set(numbers)
    assert len(numbers) <= len(seen) + 1  # one begins within a millisecond of such a time
    assert kept.times_s.tolist() == pytest.approx((shown_ms[numbers] / 1000).tolist(), abs=0.001)


def test_a_cap_above_the_rate_changes_nothing(zoo: Path) -> None:
    for name, fps in (("h264.mp4", 25.0), ("h264_29.97.mp4", 30.0), ("late_sound.mkv", 25.0), ("h264.mp4", 60.0)):
        with open_media(whole(zoo / name, Encoding(fps=fps))) as media, open_media(zoo / name) as old:
            assert len(media.all_frames().times_s) == len(old.all_frames().times_s)
