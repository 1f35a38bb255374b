"""The published annotation files themselves, against counts made without the code under test."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.preparation.annotations.conftest import Done
from vatt.evaluation.protocols import evaluate
from vatt.retrieval.store import write_shard

pytestmark = pytest.mark.needs_shared
Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]


@pytest.fixture
def annotations(shared: Path) -> Path:
    return shared / "data" / "annotations"


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_kinetics400(prepare: Prepare, touch: Touch, annotations: Path) -> None:
    rows = table(annotations / "kinetics400_val.csv")
    there = [row for number, row in enumerate(rows) if row["youtube_id"].startswith("-") or number % 20 == 0]
    assert 1000 < len(there) < len(rows)
    names = [f"{r['youtube_id']}_{int(r['time_start']):06d}_{int(r['time_end']):06d}" for r in there]
    done = prepare("kinetics", annotations / "kinetics400_val.csv", touch(*(f"{name}.mp4" for name in names)))
    assert [Path(clip.path).stem for clip in done.clips] == names
    assert Counter(clip.labels[0] for clip in done.clips) == Counter(row["label"] for row in there)
    assert len(done.missing) == len(rows) - len(there)
    assert f"{len(there)} rows (val {len(there)})" in done.out
    assert f"Missing media: {len(rows) - len(there)} of {len(rows)} rows" in done.out


def test_kinetics400_class_names(prepare: Prepare, touch: Touch, save: Save, annotations: Path) -> None:
    names = (annotations / "kinetics400_labels.txt").read_text().splitlines()
    path = save("val.csv", "".join(f"{number} {name}.mp4 {number}\n" for number, name in enumerate(names)))
    media = touch(*(f"{number} {name}.mp4" for number, name in enumerate(names)))
    done = prepare("video_lists", path, media, "--classes", annotations / "kinetics400_labels.txt")
    assert [clip.labels for clip in done.clips] == [(name,) for name in names]


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51(prepare: Prepare, touch: Touch, annotations: Path, fold: int) -> None:
    path = annotations / "hmdb51_splits.csv"
    rows = table(path)
    media = touch(*(f"{row['label'].removesuffix('_test')}/{row['video_id']}" for row in rows))
    done = prepare("hmdb51", path, media, "--fold", fold)
    assert Counter(clip.split for clip in done.clips) == {"train": 3570, "test": 1530}  # 70 and 30 of 51 classes
    per_class = Counter((clip.labels[0], clip.split) for clip in done.clips)
    assert set(per_class.values()) == {70, 30}
    assert len(per_class) == 102
    assert all(Path(clip.path).parent.name == clip.labels[0] for clip in done.clips)
    assert "Clips that fold" in done.out
    assert "Names that fit several" not in done.out


def test_esc50_and_its_small_one(prepare: Prepare, touch: Touch, annotations: Path, shared: Path) -> None:
    path = annotations / "esc50.csv"
    media = touch(*(row["filename"] for row in table(path)))
    done = prepare("esc50", path, media, "--fold", 3)
    assert Counter((clip.split, clip.extra["x_fold"] == 3) for clip in done.clips) == {
        ("train", False): 1600,
        ("test", True): 400,
    }
    assert set(Counter(clip.labels[0] for clip in done.clips).values()) == {40}

    small = prepare("esc50", path, media, "--esc10")
    copy = prepare("esc50", shared / "data/esc10/esc10.csv", shared / "data/esc10/clips")
    assert (len(small.clips), len(copy.clips), copy.missing) == (400, 400, [])
    folds = [Counter((clip.labels, clip.extra["x_fold"]) for clip in done.clips) for done in (small, copy)]
    assert folds[0] == folds[1]
    assert set(folds[0].values()) == {8}  # 10 classes of 40 in 5 folds
    assert {clip.id for clip in copy.clips} == {clip.id.rpartition("-")[0] for clip in small.clips}


def test_youcook2(prepare: Prepare, touch: Touch, annotations: Path) -> None:
    path = annotations / "youcook2_val.csv"
    rows = table(path)
    videos = sorted({row["video_id"] for row in rows})[::3]
    done = prepare("youcook2", path, touch(*(f"{row}.mp4" for row in videos)))
    there = [row for row in rows if row["video_id"] in set(videos)]
    segments: dict[tuple[str, float, float], list[str]] = {}
    for row in there:
        segments.setdefault((row["video_id"], float(row["start"]), float(row["end"])), []).append(row["text"])
    assert {(Path(c.path).stem, c.start_s, c.end_s): [text.text for text in c.texts] for c in done.clips} == segments
    assert {clip.split for clip in done.clips} == {"val"}
    assert len(done.missing) == len(rows) - len(there)
    twice = prepare("youcook2", path, touch("oJZUxU9szWA.mp4")).by_id()["oJZUxU9szWA@120-252"]
    assert len(twice.texts) == 2
    assert twice.extra["x_row_ids"] == ["oJZUxU9szWA@120-252", "oJZUxU9szWA@120-252#2"]


def test_msrvtt(prepare: Prepare, touch: Touch, annotations: Path) -> None:
    path = annotations / "msrvtt_1ka_test.csv"
    rows = table(path)
    done = prepare("msrvtt", path, touch(*(f"{row['video_id']}.mp4" for row in rows)))
    assert [(clip.id, clip.texts[0].text, clip.split) for clip in done.clips] == [
        (row["video_id"], row["sentence"], "test") for row in rows
    ]
    assert len(done.clips) == 1000


def test_audioset_classes(prepare: Prepare, touch: Touch, save: Save, annotations: Path) -> None:
    classes = annotations / "audioset_class_labels_indices.csv"
    names = {row["mid"]: row["display_name"] for row in table(classes)}
    path = save("eval_segments.csv", f'# YTID\n-aaaaaaaaaa, 30.000, 40.000, "{",".join(names)}"\n')
    (clip,) = prepare("audioset", path, touch("-aaaaaaaaaa.wav"), "--classes", classes).clips
    assert clip.labels == tuple(names.values())
    assert len(set(clip.labels)) == 527


@pytest.mark.parametrize(
    ("name", "file", "protocol", "count", "captions"),
    [
        ("youcook2", "youcook2_val.csv", "youcook2", 3349, 3350),  # one segment is listed twice
        ("msrvtt", "msrvtt_1ka_test.csv", "msrvtt-1ka", 1000, 1000),
    ],
)
def test_lists_are_what_their_protocols_ask_for(
    prepare: Prepare,
    touch: Touch,
    annotations: Path,
    tmp_path: Path,
    name: str,
    file: str,
    protocol: str,
    count: int,
    captions: int,
) -> None:
    videos = {row["video_id"] for row in table(annotations / file)}
    clips = prepare(name, annotations / file, touch(*(f"{video}.mp4" for video in videos))).clips
    rng = np.random.default_rng(0)
    rows = []
    for clip in clips:
        where = {"id": clip.id, "path": clip.path, "start_s": clip.start_s, "end_s": clip.end_s or 1.0}
        where |= {"space": "video_text", "clip_start_s": clip.start_s, "clip_end_s": clip.end_s}
        rows += [where | {"modality": "video", "vector": rng.normal(size=4)} for _ in range(4)]
        texts = [text.text for text in clip.texts]
        rows += [where | {"modality": "text", "text": text, "vector": rng.normal(size=4)} for text in texts]
    write_shard(tmp_path / "embeddings", "random", rows)
    notes = {
        "windows_per_clip": 4,
        "split": clips[0].split,
        "lists": sorted({clip.extra["x_list"] for clip in clips}),
        "clips": len(clips),
    }
    (tmp_path / "embeddings" / "embeddings.json").write_text(json.dumps(notes))
    report = evaluate(tmp_path / "embeddings", protocol)
    assert report["clips_present"] == report["clips_expected"] == count
    assert (report["text_to_video"]["queries"], report["text_to_video"]["gallery"]) == (captions, count)
    assert (report["clips_with_fewer_windows"], report["clips_with_fewer_captions"]) == (0, 0)
