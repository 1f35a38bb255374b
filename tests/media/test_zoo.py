"""Every kind of file, by every decoder: right to the frame and to 5 ms, or refused with a reason."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import TINY, numbered_frames, read_number
from tests.media.zoo import ODD, SHOWN_MS, STEADY_MS, ZOO, write, write_frames
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset
from vatt.datasets.loading.batches import collate
from vatt.datasets.transforms import Augment
from vatt.media.decoding import Decoder, open_media
from vatt.media.torchcodec_media import import_torchcodec
from vatt.media.types import MediaError
from vatt.structures import Clip

# What a decoder would read wrongly, and therefore refuses. PyAV reads everything.
REFUSED = {
    "pyav": {},
    "decord": {
        "hevc.mp4": "does not read hevc",  # miscounts after a seek into an open group of pictures
        "hevc_10bit.mkv": "does not read hevc",
        "av1_opus.mp4": "does not read libdav1d",  # cannot open it
        "mpeg2.ts": "does not read mpeg2video in mpegts",  # hangs
        "h264.ts": "does not read h264 in mpegts",
        "mpeg1.mpg": "does not read mpeg1video in mpeg",
        "mjpeg.avi": "does not read mjpeg in avi",
        "open_gop.mp4": "open groups",
        "recovery.mp4": "open groups",
        "edit_list.mp4": "edit list",  # counts what the list hides
    },
    "torchcodec": {
        "mpeg2.ts": "does not read mpegts",
        "h264.ts": "does not read mpegts",
        "mpeg1.mpg": "does not read mpeg",
        "mjpeg.avi": "does not read avi",
    },
}
# With FFmpeg 5.1 torchcodec raises after some seeks in these, but never gives a wrong frame.
MAY_FAIL = {("open_gop.mp4", "torchcodec"), ("recovery.mp4", "torchcodec")}
TONE_AT_S = 0.5  # beeps begin at every multiple of it


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, make in ZOO.items():
        make(folder / name)
    for name, (make, _) in ODD.items():
        make(folder / name)
    return folder


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_the_machine_goes_on_while_files_are_written(tmp_path: Path) -> None:
    """An encoder may leave root's process with the rights of real time, which starves all others."""
    before = os.sched_getscheduler(0)
    ZOO["av1_opus.mp4"](tmp_path / "av1.mp4")
    assert os.sched_getscheduler(0) == before == os.SCHED_OTHER


def available(decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    if decoder == "torchcodec":
        try:
            import_torchcodec()
        except ImportError as error:
            pytest.skip(str(error).splitlines()[0])


@pytest.mark.parametrize("decoder", REFUSED)
@pytest.mark.parametrize("name", ZOO)
def test_frames_are_exactly_those_shown_or_the_file_is_refused(zoo: Path, name: str, decoder: Decoder) -> None:
    available(decoder)
    if name in REFUSED[decoder]:
        with pytest.raises(MediaError, match=REFUSED[decoder][name]), open_media(zoo / name, decoder) as media:
            media.frames([1.0])
        return
    shown_s = np.array(SHOWN_MS.get(name, STEADY_MS)) / 1000
    first = int(np.searchsorted(shown_s, 0.0, side="left"))
    until_s = np.append(shown_s[1:], shown_s[-1] + 0.04)
    middles_s = (shown_s + until_s) / 2
    rng = np.random.default_rng(0)
    with open_media(zoo / name, decoder) as media:
        for _ in range(10):
            start = rng.integers(first, len(shown_s) - 20)
            asked = np.sort(rng.choice(np.arange(start, len(shown_s)), 8, replace=False))
            try:
                got = media.frames(middles_s[asked].tolist())
            except MediaError:
                assert (name, decoder) in MAY_FAIL
                continue
            assert [read_number(frame) for frame in got.frames] == asked.tolist()
            assert np.abs(got.times_s.numpy() - shown_s[asked]).max() < 0.02  # Matroska: to the millisecond


@pytest.mark.parametrize("name", [name for name in ZOO if name != "no_sound.mp4"])
@pytest.mark.parametrize("start_s", [0.0, 1.37, 3.2])
def test_beeps_are_where_they_are_seen(zoo: Path, name: str, start_s: float) -> None:
    """The middle of the first whole beep of a span, to 5 ms; the sound is PyAV's whichever decoder is chosen."""
    offset_s = 2.4 if name == "edit_list.mp4" else 0.0
    if name == "edit_list.mp4" and start_s > 2:
        pytest.skip("the file is shorter")
    with open_media(zoo / name) as media:
        sound = media.waveform(start_s, 1.2, 16_000)
    loud = np.convolve((sound.samples.abs() > 0.1).numpy(), np.ones(80), mode="same") > 8
    edges = np.flatnonzero(np.diff(loud.astype(int)))
    begins = [edge / 16_000 + start_s + offset_s for edge in edges if not loud[edge]]
    expected = 1.0 if "late_sound" in name and start_s == 0.0 else None
    assert begins
    for begin_s in begins:
        assert abs(begin_s - round(begin_s / TONE_AT_S) * TONE_AT_S) < 0.005
    if expected:
        assert begins[0] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("name", ZOO)
def test_leaving_pictures_out_changes_none_that_are_seen(zoo: Path, name: str) -> None:
    with open_media(zoo / name) as media, open_media(zoo / name) as plain:
        times_s = np.arange(0.5, 3.2, 0.1).tolist()
        plain._leave_out = lambda packets, shown_s: packets  # type: ignore[method-assign]
        a, b = media.frames(times_s), plain.frames(times_s)
    assert torch.equal(a.frames, b.frames)
    assert torch.equal(a.times_s, b.times_s)


def test_a_turned_file_is_upright(zoo: Path) -> None:
    with open_media(zoo / "turned.mp4") as media:
        turned = media.frames([1.0]).frames
    with open_media(zoo / "h264.mp4") as media:
        lying = media.frames([1.0]).frames
    assert turned.shape[-2:] == (64, 48)
    assert (turned.float() - torch.rot90(lying, -1, dims=(2, 3)).float()).abs().mean() < 2


def test_a_picture_is_shown_at_every_time(zoo: Path) -> None:
    for name in ("picture.jpg", "picture.png"):
        with open_media(zoo / name) as media:
            assert media.info.is_picture
            shown = media.frames([0.0, 3.0, 99.0])
        assert [read_number(frame) for frame in shown.frames] == [5, 5, 5]
        assert shown.coverage([0.0, 3.0, 99.0]) == 1.0


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_every_file_gives_a_clip_or_a_reason_in_time(zoo: Path, start_method: str) -> None:
    names = [*ODD, *ZOO]
    clips = [Clip(id=name, path=str(zoo / name)) for name in names]
    dataset = ClipDataset(clips, ClipReader(TINY))
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=partial(collate), multiprocessing_context=start_method
    )
    began = time.monotonic()
    batches = list(loader)
    assert time.monotonic() - began < 60
    found = {
        name: (bool(video), bool(audio))
        for batch in batches
        for name, video, audio in zip(batch["id"], batch["video_valid"], batch["audio_valid"], strict=True)
    }
    reasons = {event["id"]: event["reason"] for batch in batches for event in batch["events"]}
    for name, (_, expected) in ODD.items():
        if isinstance(expected, str):
            assert found[name] == (False, False)
            assert expected in reasons[name]
        else:
            assert found[name] == expected, name
    assert all(found[name] == (True, name != "no_sound.mp4") for name in ZOO)


@pytest.mark.parametrize("name", ["late_clock.mkv", "mpeg2.ts", "late_picture.mp4"])
def test_a_clock_that_begins_late_leaves_no_clip_empty(zoo: Path, name: str) -> None:
    dataset = ClipDataset([Clip(id=name, path=str(zoo / name))], ClipReader(TINY), Augment())
    drawn = [dataset.draw(0, number)[0] for number in range(30)]
    assert all(sample["video_valid"] and sample["audio_valid"] and not sample["events"] for sample in drawn)
    with open_media(zoo / name) as media:
        assert 5.9 < media.info.duration_s < 6.6


@pytest.mark.parametrize("bframes", [0, 2, 3])
def test_pictures_of_h264_in_avi_stay_in_order(tmp_path: Path, bframes: int) -> None:
    """AVI has no times of pictures. They are late by what the decoder holds back."""
    write(tmp_path / "clip.avi", sound=None, options={"crf": "16", "bf": str(bframes)})
    with open_media(tmp_path / "clip.avi") as media:
        for start_s in (0.1, 2.0, 4.0):
            numbers = [read_number(frame) for frame in media.frames([start_s + i / 25 for i in range(20)]).frames]
            assert np.diff(numbers).tolist() == [1] * 19
            assert abs(numbers[0] - start_s * 25) <= 4


def test_pictures_that_change_their_size_are_cached(tmp_path: Path) -> None:
    for name, size in (("a", 48), ("b", 96)):
        frames = np.repeat(numbered_frames(25), size // 48, axis=1)
        write_frames(tmp_path / f"{name}.ts", np.repeat(frames, size // 48, axis=2))
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with open_media(tmp_path / "both.ts") as media:
        every = media.all_frames()
    assert len(every.frames) > 25
    assert every.frames.shape[1:] == (3, 48, 64)
