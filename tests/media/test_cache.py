from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, TINY, numbered_frames
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset
from vatt.datasets.transforms import Augment
from vatt.media.cache import DecodedCache, memory_folder
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.frames import Part, Square
from vatt.media.types import MediaError
from vatt.structures import Clip


@pytest.fixture(autouse=True)
def _roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests hold however full the disk of the machine is."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**40, free=2**39))


def test_cached_frames_are_the_decoded_ones(video_file: Path, tmp_path: Path) -> None:
    times_s = [0.0, 0.3, 0.31, 1.7, 2.96, 9.0]
    part = Part(32, (0.25, 0.0, 0.75, 1.0))
    cache = DecodedCache(tmp_path, part, sample_rate=8000)
    for _ in range(2):  # decoded, then read
        with open_media(video_file) as media, cache.open(video_file) as cached:
            a, b = media.frames(times_s, part), cached.frames(times_s, part)
            assert torch.equal(a.frames, b.frames)
            assert torch.allclose(a.times_s, b.times_s)
            sound, kept = media.waveform(0.4, 1.0, 8000), cached.waveform(0.4, 1.0, 8000)
            assert (sound.samples - kept.samples).abs().max() < 2e-3
            assert kept.coverage() == pytest.approx(1.0)
    assert len(list(tmp_path.iterdir())) == 1


def test_cached_sound_is_padded_and_flagged(video_file: Path, tmp_path: Path) -> None:
    with DecodedCache(tmp_path, Part(32), 8000).open(video_file) as cached:
        sound = cached.waveform(2.5, 1.0, 8000)
        assert sound.coverage() == pytest.approx(0.5, abs=0.1)
        assert sound.samples[-3000:].abs().max() == 0
        assert cached.waveform(5.0, 1.0, 8000).coverage() == 0


def test_tracks_that_end_early_do_so_in_the_cache_too(uneven_files: tuple[Path, Path], tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, Part(32), 8000)
    for path in uneven_files:
        with open_media(path) as media, cache.open(path) as cached:
            for start_s in (0.0, 0.6, 1.2, 3.0):
                times_s = [start_s + i / 10 for i in range(5)]
                shown, kept = media.frames(times_s, Part(32)), cached.frames(times_s, Part(32))
                assert shown.coverage(times_s) == kept.coverage(times_s)
                heard, held = media.waveform(start_s, 0.5, 8000), cached.waveform(start_s, 0.5, 8000)
                assert heard.coverage() == pytest.approx(held.coverage(), abs=0.15)
                assert (heard.coverage() == 0) == (held.coverage() == 0)


def test_files_without_sound_or_picture(silent_file: Path, sound_file: Path, tmp_path: Path) -> None:
    cache = DecodedCache(tmp_path, Part(32), 8000)
    with cache.open(silent_file) as silent, cache.open(sound_file) as sound:
        assert (silent.info.has_video, silent.info.has_audio) == (True, False)
        assert (sound.info.has_video, sound.info.has_audio) == (False, True)
        assert silent.waveform(0.0, 1.0, 8000).coverage() == 0
        with pytest.raises(MediaError, match="no video track"):
            sound.frames([0.0])


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "clip.mp4", DecodedCache(tmp_path / "cache", Part(48), 8000)
    write_media(path, numbered_frames(10), 10, crf=10)
    with cache.open(path) as first:
        before = first.frames([0.0]).frames
    write_media(path, 255 - numbered_frames(10), 10, crf=10)
    os.utime(path, (1, 1))
    with cache.open(path) as second:
        assert not torch.equal(before, second.frames([0.0]).frames)


def test_what_cannot_be_read_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    cache = DecodedCache(tmp_path / "cache", Part(32), 8000)
    for name in ("broken.mp4", "gone.mp4"):
        with pytest.raises(MediaError, match=name):
            cache.open(tmp_path / name)
    assert not (tmp_path / "cache").exists()


def test_training_samples_are_the_same_with_and_without(video_file: Path, tmp_path: Path) -> None:
    """Of pictures that are not larger than the model wants; larger ones are kept scaled, and cut after that."""
    clips, spec = [Clip(id="a", path=str(video_file))], replace(TINY, size=48)
    augment = Augment(flip=0.5)
    plain = ClipDataset(clips, ClipReader(spec), augment, windows=2, seed=5)
    cached = ClipDataset(clips, ClipReader(spec, cache=str(tmp_path)), augment, windows=2, seed=5)
    for a, b in zip(plain.draw(0, 3), cached.draw(0, 3), strict=True):
        assert (a["video"].float() - b["video"].float()).abs().mean() < 1.0  # chroma at the edges of the crop
        assert torch.equal(a["audio_valid"], b["audio_valid"])
        assert torch.equal(a["video_color"], b["video_color"])


def test_a_cache_in_memory_is_shared_by_workers_and_gone_afterwards(video_file: Path, tmp_path: Path) -> None:
    code = (
        "from torch.utils.data import DataLoader\n"
        "from tests.conftest import TINY\n"
        "from vatt.datasets.loading.batches import collate\n"
        "from vatt.datasets.clip_reader import ClipReader\n"
        "from vatt.datasets.clips import ClipDataset\n"
        "from vatt.structures import Clip\n"
        f"reader = ClipReader(TINY, cache='memory')\n"
        f"dataset = ClipDataset([Clip(id=str(i), path={str(video_file)!r}) for i in range(4)], reader)\n"
        "for batch in DataLoader(dataset, num_workers=2, collate_fn=collate): assert batch['video_valid'].all()\n"
        "entries = list(reader.cache.folder.iterdir()); assert len(entries) == 1, entries\n"
        "print(reader.cache.folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    folder = Path(done.stdout.strip())
    assert folder.parent == Path("/dev/shm")
    assert not folder.exists()


def test_a_cache_in_memory_is_removed_after_its_process_was_killed() -> None:
    code = (
        "import os, signal\n"
        "from vatt.media.cache import memory_folder\n"
        "print(memory_folder(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    left = Path(done.stdout.strip())
    assert left.is_dir()
    alive, other = Path(memory_folder()), Path(memory_folder())
    assert not left.exists()
    assert alive.is_dir()
    alive.rmdir()
    other.rmdir()


FULL = pytest.mark.parametrize(
    "space",
    [
        SimpleNamespace(total=100, free=9),
        SimpleNamespace(total=10**6, free=10**5 + 9),  # without the entry there would be room
        SimpleNamespace(total=10**14, free=10 * 2**30 - 1),  # of a large disk a tenth would be too much to ask for
    ],
)


@FULL
def test_a_full_disk_is_left_alone_and_changes_no_sample(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: SimpleNamespace
) -> None:
    part, crop = Part(24), Square(24, place=0.0)  # of pictures of 64 x 48: cut after they were scaled
    with DecodedCache(tmp_path / "kept", part, 8000).open(video_file) as kept:
        expected, sound = kept.frames([1.0, 2.0], crop), kept.waveform(0.4, 1.0, 8000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: space)
    cache = DecodedCache(tmp_path / "full", part, 8000)
    with pytest.warns(UserWarning, match="is full"):
        media = cache.open(video_file)
    assert torch.equal(media.frames([1.0, 2.0], crop).frames, expected.frames)
    assert torch.equal(media.waveform(0.4, 1.0, 8000).samples, sound.samples)
    assert not (tmp_path / "full").exists()


def test_a_large_disk_is_used_until_10_gib_are_left(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**14, free=11 * 2**30))
    DecodedCache(tmp_path, Part(24), 8000).open(video_file)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, None])
def test_a_disk_that_fills_up_ends_nothing(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    def fill(*arrays: object) -> None:  # NumPy's own error has no number
        raise OSError(number, "full") if number else OSError("10 requested and 0 written")

    monkeypatch.setattr(np, "save", fill)
    cache = DecodedCache(tmp_path, Part(32), 8000)
    with pytest.warns(UserWarning, match="is full"):
        cache.open(video_file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert cache.open(video_file).frames([1.0], Part(32)).frames.shape[-2] == 32
    assert list(tmp_path.iterdir()) == []


def test_other_faults_of_a_disk_are_not_hidden(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arrays: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="Input/output error"):
        DecodedCache(tmp_path, Part(32), 8000).open(video_file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["frames.npy", "samples.npy", "facts.json"])
@pytest.mark.parametrize("kept", [0, 200, None])
def test_a_damaged_entry_is_made_again(video_file: Path, tmp_path: Path, name: str, kept: int | None) -> None:
    cache = DecodedCache(tmp_path, Part(32), 8000)
    expected = cache.open(video_file).frames([1.0]).frames
    (entry,) = tmp_path.iterdir()
    if kept is None:
        (entry / name).unlink()
    else:
        os.truncate(entry / name, kept)
    with pytest.warns(UserWarning, match=f"{entry} of .* is damaged"):
        assert torch.equal(cache.open(video_file).frames([1.0]).frames, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cache.open(video_file).frames([1.0]).frames, expected)


def test_what_was_begun_and_left_is_removed(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (f"{'0a' * 12}.1.part", f"{'0b' * 12}.2.part", "my.part"))
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "frames.npy").touch()
    for folder in (old, other):
        os.utime(folder / "frames.npy", (1, 1))
        os.utime(folder, (1, 1))
    DecodedCache(tmp_path, Part(32), 8000)
    assert set(tmp_path.iterdir()) == {new, other}


def test_two_writers_with_the_same_number_do_not_meet(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers that share a folder."""
    cache, save = DecodedCache(tmp_path, Part(32), 8000), np.savez
    monkeypatch.setattr(os, "getpid", lambda: 1)

    def save_late(*file: object, **arrays: object) -> None:
        monkeypatch.setattr(np, "savez", save)
        cache.open(video_file)  # another one begins and ends meanwhile
        save(*file, **arrays)

    monkeypatch.setattr(np, "savez", save_late)
    assert cache.open(video_file).frames([1.0]).frames.shape[-2] == 32
    assert len(list(tmp_path.iterdir())) == 1


def test_a_kept_picture_is_shown_at_every_time(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(numbered_frames(6)[5]).save(path)
    with DecodedCache(tmp_path / "cache", Part(48), 8000).open(path) as media:
        assert media.info.is_picture
        assert media.frames([0.0, 9.0]).coverage([0.0, 9.0]) == 1.0
