from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vatt.errors import InputError
from vatt.evaluation.protocols import PROTOCOLS, evaluate
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.store import write_shard
from vatt.retrieval.tables import StoreError


def row(name: str, modality: str, space: str, vector: list[float], text: str | None = None) -> dict:
    return {
        "id": name,
        "path": f"{name}.mp4",
        "start_s": 0.0,
        "end_s": 1.0,
        "clip_start_s": 0.0,
        "modality": modality,
        "space": space,
        "text": text,
        "vector": np.array(vector, np.float32),
    }


def store(folder: Path, rows: list[dict]) -> Path:
    write_shard(folder, "model1", rows)
    return folder


def test_windows_are_averaged_and_the_first_caption_counts(tmp_path: Path) -> None:
    rows = [
        # The windows of a mean to (1, 0), those of b to (0, 1).
        row("a", "video", "video_text", [3.0, 2.0]),
        row("a", "video", "video_text", [1.0, -2.0]),
        row("b", "video", "video_text", [0.0, 5.0]),
        row("a", "text", "video_text", [1.0, 0.1], "one"),
        row("a", "text", "video_text", [-1.0, 0.0], "not looked at"),
        row("b", "text", "video_text", [0.1, 1.0], "two"),
    ]
    report = evaluate(store(tmp_path, rows), "first-caption")
    assert {name for name in report if "_to_" in name} == {"text_to_video", "video_to_text"}
    assert (report["clips_present"], report["clips_expected"], report["windows"]) == (2, 2, "not known")
    assert report["text_to_video"]["R@1"] == report["video_to_text"]["R@1"] == 100
    assert report["text_to_video"]["gallery"] == 2
    assert report["model"] == "model1"


@pytest.mark.parametrize("row_per_caption", [True, False])
def test_every_caption_is_a_query_for_its_clip(tmp_path: Path, row_per_caption: bool) -> None:
    """Rows of one file and segment are one clip, also if each caption has a row, an id and windows of its own."""
    rng = np.random.default_rng(0)
    clips, captions, rows = 12, 5, []
    video = rng.normal(size=(clips, 2, 6))
    text = video.mean(axis=1)[:, None] + 1.5 * rng.normal(size=(clips, captions, 6))
    for i in range(clips):
        for j in range(captions if row_per_caption else 1):
            for k, vector in enumerate(video[i]):
                rows.append(row(f"v{i}-{j}", "video", "video_text", list(vector)) | {"start_s": k, "end_s": k + 1.0})
        for j in range(captions):
            name = f"v{i}-{j if row_per_caption else 0}"
            rows.append(row(name, "text", "video_text", list(text[i, j]), f"caption {i} {j}"))
    rows = [each | {"path": f"{each['id'].partition('-')[0]}.mp4"} for each in rows]
    report = evaluate(store(tmp_path, rows))

    means, queries = video.mean(axis=1), text.reshape(-1, 6)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    similarity, owner = queries @ means.T, np.repeat(np.arange(clips), captions)
    to_video = [1 + (line > line[own]).sum() for line, own in zip(similarity, owner, strict=True)]
    to_text = [1 + (line > line[owner == i].max()).sum() for i, line in enumerate(similarity.T)]
    for direction, ranks, gallery in (("text_to_video", to_video, 12), ("video_to_text", to_text, 60)):
        result = report[direction]
        assert (result["queries"], result["gallery"]) == (len(ranks), gallery)
        assert result["MedR"] == np.median(ranks)
        for k in (1, 5, 10):
            assert result[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(ranks) <= k), abs=0.01)
    assert report["clips_present"] == 12
    assert 20 < report["text_to_video"]["R@1"] < 95


def test_clips_with_one_side_only_are_counted_out(tmp_path: Path) -> None:
    rows = [row(n, "video", "video_audio", [i, 1.0]) for i, n in enumerate("abcd")]
    rows += [row(n, "audio", "video_audio", [i, 1.0]) for i, n in enumerate("abe")]
    report = evaluate(store(tmp_path, rows))
    assert report["audio_to_video"]["gallery"] == 2
    assert report["audio_to_video"]["missing"] == 3


def test_shared_captions_are_counted(tmp_path: Path) -> None:
    rows = []
    for i, (name, text) in enumerate([("a", "x"), ("b", "x"), ("c", "y")]):
        rows += [row(name, "video", "video_text", [i, 1.0]), row(name, "text", "video_text", [i, 1.0], text)]
    assert evaluate(store(tmp_path, rows))["text_to_video"]["same_text"] == 2


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to compare"):
        evaluate(store(tmp_path, [row("a", "video", "video_text", [1.0, 0.0])]))


def benchmark(
    folder: Path,
    clips: int,
    captions: int,
    windows: int | None = 4,
    split: str | None = "test",
    seed: int = 0,
    hop_s: float | None = None,
    lists: tuple[str, ...] = ("msrvtt-1ka",),
) -> Path:
    """Random embeddings as ``vatt embed --split test --windows 4`` would leave them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(clips):
        centre = rng.normal(size=6)
        rows += [row(f"v{i}", "video", "video_text", list(centre + rng.normal(size=6))) for _ in range(windows or 1)]
        texts = [list(centre + rng.normal(size=6) * 2) for _ in range(captions)]
        rows += [row(f"v{i}", "text", "video_text", x, f"caption {i} {j}") for j, x in enumerate(texts)]
    store(folder, rows)
    notes = {"windows_per_clip": windows, "split": split, "clips": clips, "lists": lists, "hop_s": hop_s}
    (folder / "embeddings.json").write_text(json.dumps(notes))
    return folder


@pytest.mark.parametrize("protocol", ["msrvtt-1ka", "msrvtt-full", "youcook2"])
def test_protocols_against_sorting(tmp_path: Path, protocol: str) -> None:
    split = PROTOCOLS[protocol].split
    count = 20 if protocol == "msrvtt-full" else 1
    folder = benchmark(tmp_path, clips=30, captions=count, split=split, lists=(protocol,))
    table = Embeddings(folder)
    video, text = table.select("video", "video_text"), table.select("text", "video_text")
    means = np.stack([video.vectors[4 * i : 4 * i + 4].mean(axis=0) for i in range(30)])
    captions, owner = text.vectors, np.repeat(np.arange(30), count)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    to_video, to_text = [], []
    for caption, own in zip(captions, owner, strict=True):
        order = sorted(range(30), key=lambda v: -cosine(caption, means[v]))
        to_video.append(order.index(own) + 1)
    for v in range(30):
        order = sorted(range(len(captions)), key=lambda t: -cosine(captions[t], means[v]))
        to_text.append(min(order.index(t) + 1 for t in range(len(captions)) if owner[t] == v))
    report = evaluate(folder, protocol)
    for direction, found in (("text_to_video", to_video), ("video_to_text", to_text)):
        said = report[direction]
        assert said["queries"] == len(found)
        assert said["MedR"] == np.median(found)
        assert said["MeanR"] == pytest.approx(np.mean(found), abs=0.01)
        for k in (1, 5, 10):
            assert said[f"R@{k}"] == pytest.approx(100 * np.mean(np.array(found) <= k), abs=0.01)
    assert report["clips_present"] == 30
    assert report["clips_expected"] == PROTOCOLS[protocol].clips


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"windows": 2},
            "of split 'test' with 4 windows per clip.*made with --split test and --windows 2. Run vatt embed",
        ),
        ({"split": "train"}, "made with --split train and --windows 4. Run vatt embed with --split test --windows 4"),
        ({"split": None}, "made without --split and --windows 4. Run"),
        ({"windows": None, "hop_s": 1.28}, "--split test and without --windows, one window every 1.28 s. Run"),
        ({"clips": 1001}, "has 1000 clips, and .* 1001"),
        ({"captions": 2}, "1 captions a clip, and v0 in .* 2"),
        ({"lists": ("msrvtt-full",)}, "those of .* are of .'msrvtt-full'."),
        ({"lists": ("none",)}, "--protocol manifest"),
    ],
)
def test_embeddings_made_otherwise_are_refused(tmp_path: Path, made: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(benchmark(tmp_path, **{"clips": 5, "captions": 1} | made), "msrvtt-1ka")


def test_an_unknown_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no protocol 'msrvtt'; there are manifest, first-caption, youcook2"):
        evaluate(benchmark(tmp_path, 3, 1), "msrvtt")


def test_clips_with_less_than_the_protocol_asks_for_are_counted(tmp_path: Path) -> None:
    folder = benchmark(tmp_path, clips=4, captions=20, lists=("msrvtt-full",))
    rows = Embeddings(folder).table.to_pylist()
    left = [r for r in rows if (r["id"], r["modality"]) != ("v1", "video")] + [r for r in rows if r["id"] == "v1"][:2]
    left = [r for r in left if r["text"] != "caption 2 7"]
    store(folder, [{key: value for key, value in r.items() if key != "model"} for r in left])
    report = evaluate(folder, "msrvtt-full")
    assert (report["clips_with_fewer_windows"], report["clips_with_fewer_captions"]) == (1, 1)
    assert report["clips_present"] == 4
