"""Circles stay circles for any aspect ratio of the stored pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.media.test_shrinking import show_by
from tests.media.test_transcode import whole
from vatt.media.decoding import Decoder, open_media
from vatt.media.formats.aspect import MAX_SHOWN_PIXELS, display_size, fit
from vatt.media.frames import Part, Region, Square
from vatt.media.transcode import Encoding
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file

WIDE = Fraction(64, 45)  # PAL, 16:9
REGIONS = [Part(), Part(72), Square(96), Part(60, (0.2, 0.1, 0.9, 0.9))]


def circle(aspect: Fraction, width: int = 180, height: int = 144) -> np.ndarray:
    """(H, W, 3) uint8: a white circle with a radius of 25 rows, stored with pixels of this aspect ratio."""
    y, x = np.mgrid[0:height, 0:width]
    is_inside = ((x - (width - 1) / 2) * float(aspect)) ** 2 + (y - (height - 1) / 2) ** 2 < 25**2
    return np.where(is_inside[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)


def encode(codec: str, aspect: Fraction, count: int = 10, stated: Fraction | None = None) -> list[av.Packet]:
    """Packets of ``count`` pictures at 25 fps; the codec states the aspect ratio, or another one."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.framerate = 180, 144, "yuv420p", Fraction(25)
    encoder.time_base = Fraction(1, 25)
    encoder.sample_aspect_ratio = aspect if stated is None else stated
    packets: list[av.Packet] = []
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(circle(aspect), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = i, Fraction(1, 25)
        packets += encoder.encode(frame)
    return packets + encoder.encode()


def write(path: Path, codec: str, *aspects: Fraction, container: Fraction | None = None, **kwargs: Fraction) -> Path:
    """Write 10 pictures for each aspect ratio, one after the other in one stream."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 180, 144, "yuv420p"
        if container is not None:
            stream.sample_aspect_ratio = container
        file.start_encoding()
        for number, aspect in enumerate(aspects):
            for packet in encode(codec, aspect, **kwargs):
                packet.pts, packet.dts = packet.pts + 10 * number, packet.dts + 10 * number
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                file.mux(packet)
    return path


def size_of_circle(frame: Tensor) -> tuple[int, int]:
    """Width and height of what is white in a (3, H, W) frame."""
    is_white = frame.float().mean(0) > 127
    return int(is_white.any(0).sum()), int(is_white.any(1).sum())


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize(
    ("name", "codec", "aspect"),
    [
        ("pal.ts", "mpeg2video", WIDE),
        ("ntsc.mkv", "libx264", Fraction(8, 9)),
        ("half.mp4", "libx264", Fraction(32, 11)),
        ("tall.avi", "mpeg4", Fraction(1, 2)),
    ],
)
def test_circles_stay_circles(tmp_path: Path, name: str, codec: str, aspect: Fraction, region: Region) -> None:
    with open_media(write(tmp_path / name, codec, aspect)) as media:
        frame = media.frames([0.1], region).frames[0]
        assert frame.shape[1:] == _shape(region, round(180 * aspect), 144)
    width, height = size_of_circle(frame)
    assert width == pytest.approx(height, abs=3)
    assert width > 20


def _shape(region: Region, width: int, height: int) -> tuple[int, int]:
    cut = region.cut(width, height)
    return cut.new_height, cut.new_width


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, 1, 0)])
@pytest.mark.parametrize("region", REGIONS)
def test_circles_of_rotated_frames_stay_circles(
    tmp_path: Path, matrix: tuple[int, int, int, int], region: Region
) -> None:
    path = write(tmp_path / "turned.mp4", "libx264", WIDE)
    show_by(path, matrix)
    with open_media(path) as media:
        frame = media.frames([0.1], region).frames[0]
    shown = (256, 144) if matrix[0] else (144, 256)
    assert frame.shape[1:] == _shape(region, *shown)
    width, height = size_of_circle(frame)
    assert width == pytest.approx(height, abs=3)
    facts = scan_file(str(path), 3, 60.0)
    assert (facts.width, facts.height, facts.pixel_aspect) == (*shown, 1.4222)
    with open_media(whole(path, Encoding(short_side=72, crf=10))) as media:
        frame = media.frames([0.1]).frames[0]
    assert frame.shape[1:] == tuple(side // 2 for side in shown[::-1])
    assert size_of_circle(frame) == pytest.approx((25, 25), abs=2)


@pytest.mark.parametrize(
    ("codec", "container", "expected"),
    [(WIDE, Fraction(1), Fraction(1)), (Fraction(1), WIDE, WIDE), (WIDE, None, WIDE), (None, WIDE, WIDE)],
)
def test_the_container_takes_precedence_over_the_codec(
    tmp_path: Path, codec: Fraction | None, container: Fraction | None, expected: Fraction
) -> None:
    stated = Fraction(0, 1) if codec is None else codec
    path = write(tmp_path / "both.mp4", "libx264", WIDE, stated=stated, container=container)
    with open_media(path) as media:
        assert media.frames([0.1]).frames.shape[-1] == round(180 * expected)


@pytest.mark.parametrize("aspect", [Fraction(1, 1000), Fraction(1000), Fraction(0, 1), Fraction(1, 11)])
def test_implausible_aspect_ratios_count_as_square(tmp_path: Path, aspect: Fraction) -> None:
    path = write(tmp_path / "odd.mp4", "libx264", Fraction(1), stated=aspect)
    with open_media(path) as media, open_media(whole(path, Encoding(crf=10))) as new:
        for file in (media, new):
            frame = file.frames([0.1]).frames[0]
            assert frame.shape == (3, 144, 180)
            assert size_of_circle(frame) == pytest.approx((50, 50), abs=2)


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_an_aspect_ratio_may_change_midway(tmp_path: Path, codec: str) -> None:
    """From 4:3 to 16:9, as in broadcasts: frames keep their shape, also after a seek and in prepared files."""
    path = write(tmp_path / "changing.ts", codec, Fraction(16, 15), WIDE)
    with open_media(path) as media:
        assert media.frames([0.0]).frames.shape[2:] == (144, 192)
        frames, squares = media.all_frames().frames, media.frames([0.2, 0.38, 0.4, 0.7], Square(72)).frames
        assert media.frames([0.7]).frames.shape[2:] == (144, 256)
    with open_media(whole(path, Encoding(crf=10))) as media:
        prepared = media.all_frames().frames
    assert len(frames) == len(prepared) == 20
    assert frames.shape[2:] == prepared.shape[2:] == (144, 192)
    for frame in (*frames, *squares, *prepared):
        width, height = size_of_circle(frame)
        assert width == pytest.approx(height, abs=3)
    assert [size_of_circle(frame)[1] for frame in frames] == pytest.approx([50] * 10 + [37.5] * 10, abs=2)


@pytest.mark.parametrize("name", ["still.jpg", "still.png"])
def test_the_resolution_of_a_still_image_is_no_aspect_ratio(tmp_path: Path, name: str) -> None:
    """Viewers ignore that a scanner had 100 by 200 dots per inch."""
    Image.fromarray(circle(Fraction(1))).save(tmp_path / name, dpi=(100, 200))
    with open_media(tmp_path / name) as media:
        assert size_of_circle(media.frames([0.0]).frames[0]) == pytest.approx((50, 50), abs=2)
    assert scan_file(str(tmp_path / name), 3, 60.0).pixel_aspect == 1


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_refuse_non_square_pixels(tmp_path: Path, decoder: Decoder) -> None:
    pytest.importorskip(decoder)
    with pytest.raises(MediaError, match=r"not square \(aspect ratio 64/45\).*: use decoder auto"):
        open_media(write(tmp_path / "wide.mp4", "libx264", WIDE), decoder)


def test_the_size_of_frames_is_bounded() -> None:
    assert display_size(720, 576, WIDE) == (1024, 576)
    assert display_size(720, 480, Fraction(8, 9)) == (640, 480)
    assert display_size(8192, 8192, Fraction(4)) == (8192, 2048)
    assert display_size(16_384, 16_384, Fraction(1)) == (16_384, 16_384)
    assert display_size(1, 1, Fraction(1, 10)) == (1, 1)
    width, height = display_size(16_384, 16_384, Fraction(2))
    assert width * height <= 4 * MAX_SHOWN_PIXELS


@pytest.mark.parametrize(
    ("size", "outer", "expected"),
    [((64, 48), (64, 48), (64, 48)), ((854, 480), (1280, 720), (1280, 720)), ((1024, 576), (192, 144), (192, 108))],
)
def test_a_size_is_fitted_into_another_one(
    size: tuple[int, int], outer: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit(size, outer) == expected
