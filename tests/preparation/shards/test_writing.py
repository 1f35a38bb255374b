"""Clips out of shards are the clips of the files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from tests.conftest import TINY, numbered_frames, read_number
from tests.media.test_inspection import spoil, write_video
from tests.media.test_transcode import beeps_of, shown_at
from tests.media.tracks.test_choice import Sound, rename, write
from tests.media.zoo import ODD, ZOO
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, MixedDataset
from vatt.datasets.loading.batches import collate
from vatt.datasets.loading.sampling import Shuffled, StepSampler
from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.datasets.transforms import Augment
from vatt.datasets.windows import Windows
from vatt.media.decoding import open_media
from vatt.media.sources.files import split_member
from vatt.media.transcode import Encoding
from vatt.preparation.scan.file import scan_file
from vatt.preparation.shards.writing import Summary, prepare
from vatt.structures import Clip, TimedText

FINE = Encoding(crf=10)


def run(source: Path, output: Path, **options: object) -> Summary:
    return prepare(source, output, **{"encoding": FINE, "shard_mb": 0.1, "num_workers": 2} | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def manifest(path: Path, clips: list[Clip]) -> Path:
    write_manifest(clips, path)
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo") / "media"
    folder.mkdir()
    for name, make in ZOO.items():
        make(folder / name)
    for name in ("half.mkv", "half.mp4", "empty.mp4", "page.mp4", "sound_only.m4a", "one_frame.mp4", "turned.mp4"):
        ODD[name][0](folder / name)
    return folder


@pytest.fixture(scope="module")
def shards(zoo: Path) -> tuple[Path, Summary]:
    output = zoo.parent / "shards"
    return output, run(zoo, output)


def test_every_file_is_in_a_shard_or_in_the_list_of_errors(shards: tuple[Path, Summary], zoo: Path) -> None:
    output, summary = shards
    with (output / "errors.csv").open(newline="") as file:
        errors = {row["id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(errors) == {"half.mkv", "half.mp4", "page.mp4"}  # empty files of a directory are skipped
    assert "promises" in errors["half.mkv"]
    assert "no index" in errors["half.mp4"] or "moov" in errors["half.mp4"] or "no readable" in errors["half.mp4"]
    clips = read_manifest(output / "manifest.jsonl")
    assert [clip.id for clip in clips] == [clip.id for clip in read_manifest(zoo) if clip.id not in errors]
    assert all(clip.extra == {"x_source": clip.id} for clip in clips)
    assert (summary.rows, summary.members, len(summary.left_out)) == (len(clips), len(clips), 3)
    listed = json.loads((output / "shards.json").read_text())["shards"]
    assert summary.shards == len(listed) > 3
    assert sum(shard["rows"] for shard in listed) == len(clips)
    assert summary.size_after == sum(path.stat().st_size for path in output.glob("*.tar"))
    assert summary.size_before == sum(path.stat().st_size for path in zoo.iterdir())
    assert summary.duration_s == pytest.approx(sum(open_media(clip.path).info.duration_s for clip in clips), abs=1)
    assert {path.name for path in (output / ".prepare").iterdir() if path.suffix != ".json"} == {"lock"}


@pytest.mark.parametrize("name", [*ZOO, "sound_only.m4a", "one_frame.mp4"])
def test_a_clip_in_a_shard_shows_and_sounds_as_in_its_file(shards: tuple[Path, Summary], zoo: Path, name: str) -> None:
    (clip,) = (clip for clip in read_manifest(shards[0] / "manifest.jsonl") if clip.id == name)
    assert "#" in clip.path
    with open_media(clip.path) as new, open_media(zoo / name) as old:
        if old.info.has_video:
            times_s = old.all_frames().times_s.numpy() + 0.005
            numbers = [[read_number(frame) for frame in file.frames(times_s.tolist()).frames] for file in (old, new)]
            assert numbers[0] == numbers[1]
            expected = [shown_at(name, at_s) for at_s in times_s]
            assert [n for n, e in zip(numbers[1], expected, strict=True) if e is not None] == [
                e for e in expected if e is not None
            ]
        assert new.info.has_audio == old.info.has_audio
    if name not in ("no_sound.mp4", "one_frame.mp4"):
        ends_s = 3.5 if name == "edit_list.mp4" else 5.9
        then, now = (beeps_of(path, 0.05, ends_s) for path in (zoo / name, clip.path))
        assert len(then) > 4
        assert now == pytest.approx(then, abs=0.005)


def test_the_library_webdataset_reads_the_shards(shards: tuple[Path, Summary], zoo: Path) -> None:
    output, summary = shards
    tars = sorted(map(str, output.glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert len(samples) == summary.members
    by_id = {json.loads(sample["json"])["id"]: sample for sample in samples}
    for clip in read_manifest(output / "manifest.jsonl"):
        file, offset, size = split_member(clip.path)
        member = Path(file).read_bytes()[offset : offset + size]
        kind = "m4a" if clip.id == "sound_only.m4a" else "mp4"
        assert by_id[clip.id][kind] == member
    assert by_id["sound_only.m4a"]["m4a"] == (zoo / "sound_only.m4a").read_bytes()


def samples_of(clips: list[Clip], num_workers: int, start: int = 0) -> list[dict]:
    dataset = MixedDataset([ClipDataset(clips, ClipReader(TINY), Augment(), seed=3)])
    sampler = StepSampler([Shuffled(len(clips), seed=5, whole=4)], 4, steps=12)
    sampler.load_state_dict(sampler.state_dict() | {"step": start, "slot": 4 * start})
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    return list(loader)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def test_the_order_and_the_samples_depend_on_the_step_alone(shards: tuple[Path, Summary]) -> None:
    clips = read_manifest(shards[0] / "manifest.jsonl")
    alone = samples_of(clips, 0)
    assert len({name for batch in alone for name in batch["id"]}) > 20
    for num_workers in (1, 2):
        for a, b in zip(alone, samples_of(clips, num_workers), strict=True):
            assert same(a, b)
    for a, b in zip(alone[7:], samples_of(clips, 2, start=7), strict=True):
        assert same(a, b)


def test_shards_are_read_from_behind_urls(shards: tuple[Path, Summary]) -> None:
    output, _ = shards
    memory = fsspec.filesystem("memory")
    for name, content in contents(output).items():
        memory.pipe(f"/prepared/{name}", content)
    here = samples_of(read_manifest(output / "manifest.jsonl"), 0)[:3]
    for url in ("memory://prepared/manifest.jsonl", f"file://{output}/manifest.jsonl"):
        clips = read_manifest(url)
        assert clips[0].path.startswith(url.rpartition("/")[0])
        for a, b in zip(here, samples_of(clips, 0), strict=False):
            assert same(a, b)


def test_rows_of_one_file_share_it_or_are_cut_out(zoo: Path, tmp_path: Path) -> None:
    film = str(zoo / "h264.mp4")  # 6 s
    texts = (TimedText("whole"), TimedText("later", 2.5, 3.0))
    kept = {"labels": ("dog",), "split": "test", "extra": {"x_mine": 7}}
    spans = [
        Clip(id="cut", path=film, start_s=2.0, end_s=3.2, texts=texts, words=(TimedText("w", 2.1, 2.2),), **kept),
        Clip(id="beside", path=film, start_s=4.0, end_s=4.8),
        Clip(id="over", path=film, start_s=3.0, end_s=3.4),
        Clip(id="late", path=film, start_s=7.0, end_s=8.0),
    ]
    summary = run(manifest(tmp_path / "spans.jsonl", spans), tmp_path / "cut")
    assert [(event["id"], event["kind"]) for event in summary.left_out] == [("late", "outside")]
    assert (summary.rows, summary.members) == (3, 2)
    cut, beside, over = read_manifest(tmp_path / "cut" / "manifest.jsonl")
    assert (cut.start_s, cut.end_s, over.start_s, over.end_s) == (0.0, 1.2, 1.0, 1.4)
    assert cut.path == over.path != beside.path
    assert cut.texts == (TimedText("whole"), TimedText("later", 0.5, 1.0))
    assert cut.words == (TimedText("w", 0.1, 0.2),)
    assert (cut.labels, cut.split, cut.extra) == (("dog",), "test", {"x_source": film, "x_mine": 7})
    for clip, number in ((cut, 50), (over, 75), (beside, 100)):
        with open_media(clip.path) as media:
            assert media.info.duration_s < 1.5
            found = media.frames((clip.start_s + np.arange(0.01, 0.35, 0.04)).tolist())
        assert [read_number(frame) for frame in found.frames] == list(range(number, number + 9))
    with_text = [row for row in map(json.loads, rows_in_tars(tmp_path / "cut")) if "rows" in row]
    assert [[row["id"] for row in rows["rows"]] for rows in with_text] == [["cut", "over"]]

    spans[3] = Clip(id="half", path=film, start_s=0.0, end_s=1.9)
    summary = run(manifest(tmp_path / "more.jsonl", spans), tmp_path / "shared")
    assert (summary.rows, summary.members) == (4, 1)
    shared = read_manifest(tmp_path / "shared" / "manifest.jsonl")
    assert len({clip.path for clip in shared}) == 1
    assert [(clip.start_s, clip.end_s) for clip in shared] == [(2.0, 3.2), (4.0, 4.8), (3.0, 3.4), (0.0, 1.9)]
    assert shared[0].texts == texts


def rows_in_tars(folder: Path) -> list[bytes]:
    tars = sorted(map(str, folder.glob("*.tar")))
    return [sample["json"] for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)]


def test_pictures_sounds_and_sound_beside_pictures(zoo: Path, tmp_path: Path) -> None:
    Image.fromarray(numbered_frames(6)[5]).save(tmp_path / "five.JPG", quality=95)
    shutil.copy(zoo / "sound_only.m4a", tmp_path / "sound.m4a")
    picture, sound, film = (str(tmp_path / "five.JPG"), str(tmp_path / "sound.m4a"), str(zoo / "h264.mp4"))
    clips = [
        Clip(id="picture", path=picture, labels=("five",)),
        Clip(id="sound", path=sound),
        Clip(id="both", path=picture, audio_path=sound),
        Clip(id="cut", path=film, audio_path=sound, start_s=1.25, end_s=3.25),
        Clip(id="dubbed", path=str(zoo / "no_sound.mp4"), audio_path=str(zoo / "late_sound.mkv")),
        Clip(id="mute", path=film, audio_path=str(zoo / "no_sound.mp4")),
    ]
    summary = run(manifest(tmp_path / "mixed.jsonl", clips), tmp_path / "out")
    assert {event["id"]: event["reason"] for event in summary.left_out} == {"mute": "no audio track"}
    found = {clip.id: clip for clip in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    for name, path in ((found["picture"].path, picture), (found["both"].path, picture), (found["sound"].path, sound),
                       (found["both"].audio_path, sound)):  # fmt: skip
        file, offset, size = split_member(name)
        assert Path(file).read_bytes()[offset : offset + size] == Path(path).read_bytes()
    cut = found["cut"]
    assert (cut.start_s, cut.end_s) == (0.0, 2.0)
    assert beeps_of(cut.audio_path, 0, 2) == pytest.approx([0.25, 0.75, 1.25, 1.75], abs=0.005)
    with open_media(cut.path) as media:
        assert not media.info.has_audio
        assert [read_number(frame) for frame in media.frames([0.0, 0.5, 1.9]).frames] == [31, 43, 78]
    dubbed = found["dubbed"]
    assert beeps_of(dubbed.audio_path, 0, 2.8) == pytest.approx([1.0, 1.5, 2.0, 2.5], abs=0.005)
    sample = ClipDataset([dubbed], ClipReader(TINY))[0][0]
    assert sample["video_valid"]
    assert sample["audio_valid"]


def test_shards_can_be_made_of_shards(shards: tuple[Path, Summary], tmp_path: Path) -> None:
    chosen = [c for c in read_manifest(shards[0] / "manifest.jsonl") if c.id in ("h264.mp4", "sound_only.m4a")]
    run(manifest(tmp_path / "chosen.jsonl", chosen), tmp_path / "out", encoding=Encoding(short_side=24, crf=10))
    video, sound = read_manifest(tmp_path / "out" / "manifest.jsonl")
    with open_media(video.path) as media:
        assert media.info.height == 24
        assert [read_number(frame) for frame in media.frames([1.01, 5.01]).frames] == [25, 125]
    assert beeps_of(sound.path, 0.05, 5.9) == pytest.approx(np.arange(0.5, 5.6, 0.5), abs=0.005)
    assert video.extra == {"x_source": "h264.mp4"}  # where it came from in the first place


def test_files_with_non_unicode_names_are_skipped_and_reported(video_file: Path, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    shutil.copy(video_file, tmp_path / "media" / "a.mp4")
    shutil.copy(video_file, os.fsencode(tmp_path / "media") + b"/caf\xe9.mp4")
    summary = run(tmp_path / "media", tmp_path / "out")
    (event,) = summary.left_out
    assert summary.rows == 1
    assert (event["kind"], event["reason"]) == ("unreadable", "its path is not valid Unicode: rename the file")
    assert "caf\\xe9.mp4" in (tmp_path / "out" / "errors.csv").read_text()


def test_damage_costs_only_the_rows_it_is_in(tmp_path: Path) -> None:
    clean = write_video(tmp_path / "clean.mp4", [40 * i for i in range(50)], noise=True)
    film = str(spoil(clean, tmp_path / "spoilt.mp4", range(41, 49)))
    rows = [Clip(id="good", path=film, start_s=0.1, end_s=0.5), Clip(id="bad", path=film, start_s=1.65, end_s=1.9)]
    summary = run(manifest(tmp_path / "clips.jsonl", rows), tmp_path / "out")
    assert [(event["id"], event["kind"]) for event in summary.left_out] == [("bad", "unreadable")]
    assert "damaged" in summary.left_out[0]["reason"]
    assert [clip.id for clip in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["good"]


def test_audio_that_cannot_be_decoded_is_reported(tmp_path: Path) -> None:
    film = rename(write(tmp_path / "film.mov", [Sound(440)]), b"mp4a", b"apac", 0)
    summary = run(film, tmp_path / "out")
    reason = "its audio cannot be decoded: FFmpeg does not know the codec of track 1"
    assert (summary.rows, summary.left_out) == (1, [])
    assert [(event["kind"], event["reason"]) for event in summary.incomplete] == [("incomplete", reason)]
    assert reason in (tmp_path / "out" / "errors.csv").read_text()
    facts = scan_file(str(film), 3, 60.0)
    assert (facts.status, facts.reason, facts.video_codec) == ("damaged", reason, "h264")
    windows = list(Windows(ClipReader(TINY), hop_s=1.0).of(Clip(id="film", path=str(film))))
    assert [event["reason"] for window in windows for event in window["events"]] == [reason]
