from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_protocols import row
from vatt.errors import InputError
from vatt.io import file_hash
from vatt.retrieval.index import Index, IndexMismatch
from vatt.retrieval.store import write_notes, write_shard
from vatt.retrieval.tables import StoreError
from vatt.retrieval.vectors import FLAT_UP_TO, HNSW_UP_TO, choose, unit

pytest.importorskip("faiss")
RNG = np.random.default_rng(0)
VIDEO, AUDIO = RNG.normal(size=(30, 8)).astype(np.float32), RNG.normal(size=(20, 4)).astype(np.float32)


def embeddings(folder: Path, model: str = "m", names: str = "v") -> Path:
    rows = [
        row(f"{names}{i}", "video", "video_text", VIDEO[i]) | {"start_s": i * 1.5, "end_s": i * 1.5 + 1}
        for i in range(30)
    ]
    write_shard(folder, model, rows)
    write_shard(folder, model, [row(f"a{i}", "audio", "video_audio", AUDIO[i]) for i in range(20)], shard=1)
    (folder / "embeddings.json").write_text(json.dumps({"model_folder": str(folder.parent / "model")}))
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Index:
    Index.build([embeddings(tmp_path / "embeddings")]).save(tmp_path / "index")
    return Index.load(tmp_path / "index")


def test_search_is_cosine_over_everything(index: Index) -> None:
    queries = RNG.normal(size=(5, 8)).astype(np.float32)
    found = index.search(queries, "m", k=30)
    cosine = (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (VIDEO / np.linalg.norm(VIDEO, axis=1)[:, None]).T
    for hits, expected in zip(found, cosine, strict=True):
        order = np.argsort(-expected)
        assert [hit.id for hit in hits] == [f"v{i}" for i in order]
        assert [hit.rank for hit in hits] == list(range(1, 31))
        assert [hit.score for hit in hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
        assert [hit.start_s for hit in hits] == [i * 1.5 for i in order]


def _elsewhere(folder: Path, query: np.ndarray) -> Path:
    place = {"path": "elsewhere/a.mp4", "start_s": 0.4, "end_s": 2.0}
    write_shard(folder / "elsewhere", "m", [row("a", "video", "video_text", query[0]) | place])
    return folder / "elsewhere"


def test_a_moment_is_answered_once_where_asked(tmp_path: Path) -> None:
    """Clip a has windows at 0.0, 0.4 and 1.6 s, and clip b one at 0.4 s, worse in this order."""
    spans = enumerate([("a", 0.4), ("a", 0.0), ("b", 0.4), ("a", 1.6)])
    rows = [
        row(name, "video", "video_text", np.array([1.0, place], np.float32)) | {"start_s": begin, "end_s": begin + 1.6}
        for place, (name, begin) in spans
    ]
    write_shard(tmp_path / "embeddings", "m", rows)
    index = Index.build([tmp_path / "embeddings"])
    query = np.array([[1.0, 0.0]], np.float32)
    found = index.search(query, "m", k=3, distinct=True)[0]
    assert [(hit.rank, hit.id, hit.start_s) for hit in found] == [(1, "a", 0.4), (2, "b", 0.4), (3, "a", 1.6)]
    assert len(index.search(query, "m", k=9, distinct=True)[0]) == 3
    both = Index.build([tmp_path / "embeddings", _elsewhere(tmp_path, query)])
    assert len(both.search(query, "m", k=9, distinct=True)[0]) == 4  # of the same id, but another file
    assert [hit.start_s for hit in index.search(query, "m", k=2)[0]] == [0.4, 0.0]


def test_file_with_several_paths_is_one_result(tmp_path: Path) -> None:
    """Check an index at its original location, and after it was moved with the media and their links."""
    (tmp_path / "old" / "real").mkdir(parents=True)
    (tmp_path / "old" / "real" / "a.mp4").write_bytes(b"media")
    (tmp_path / "old" / "link").symlink_to("real")
    paths = [str(tmp_path / "old" / name / "a.mp4") for name in ("real", "link")]
    rows = [row(path, "video", "video_text", VIDEO[i]) | {"path": path} for i, path in enumerate(paths)]
    write_shard(tmp_path / "old" / "embeddings", "m", rows)
    Index.build([tmp_path / "old" / "embeddings"]).save(tmp_path / "old" / "index")
    for name in ("old", "new"):
        index = Index.load(tmp_path / name / "index")
        assert [len(index.search(VIDEO[:1], "m", 9, distinct=distinct)[0]) for distinct in (False, True)] == [2, 1]
        if name == "old":
            (tmp_path / "old").rename(tmp_path / "new")


def test_parts_are_kept_apart(index: Index) -> None:
    assert index.kinds() == [("audio", "video_audio", 20), ("video", "video_text", 30)]
    assert len(index) == 50
    assert index.search(AUDIO[3:4], "m", 1, "audio", "video_audio")[0][0].id == "a3"
    with pytest.raises(IndexMismatch, match="no text in the video_text space; it has audio in video_audio"):
        index.search(VIDEO[:1], "m", 1, "text")


def test_vectors_of_another_model_are_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexMismatch, match="vectors of model m, but the query is of model other"):
        index.search(VIDEO[:1], "other")
    with pytest.raises(IndexMismatch, match=r"queries must be \(Q, 8\), not \(1, 5\)"):
        index.search(np.ones((1, 5), np.float32), "m")
    with pytest.raises(IndexMismatch, match="NaN"):
        index.search(np.full((1, 8), np.nan, np.float32), "m")
    with pytest.raises(IndexMismatch, match="made by model other"):
        Index.build([embeddings(tmp_path / "one"), embeddings(tmp_path / "two", model="other")])


def test_several_stores_of_one_model_make_one_index(tmp_path: Path) -> None:
    index = Index.build([embeddings(tmp_path / "one"), embeddings(tmp_path / "two", names="w")])
    assert len(index) == 100
    assert {hit.id for hit in index.search(VIDEO[:1], "m", 2)[0]} == {"v0", "w0"}


def test_an_index_moves_with_its_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    Index.build([embeddings(run / "embeddings")]).save(run / "index")
    run.rename(tmp_path / "elsewhere")
    assert Index.load(tmp_path / "elsewhere" / "index").model_folder == tmp_path / "elsewhere" / "model"


def test_saving_replaces_an_index_and_nothing_else(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 50
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not an index"):
        index.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_damaged_index_is_refused_by_name(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(StoreError, match="vatt index EMBEDDINGS"):
        Index.load(tmp_path)
    video, audio = folder / "video.video_text.1.faiss", folder / "audio.video_audio.1.parquet"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"video.video_text is missing or damaged: .* has \d+ bytes instead of \d+"):
        Index.load(folder)
    video.write_bytes(b"?" * len(whole))
    with pytest.raises(StoreError, match=r"video.video_text is missing or damaged"):
        Index.load(folder)
    video.write_bytes(whole)
    table = pq.read_table(audio)
    audio.unlink()
    with pytest.raises(StoreError, match=r"audio.video_audio is missing"):
        Index.load(folder)
    pq.write_table(table.slice(0, 19), audio)
    says = json.loads((folder / "index.json").read_text())
    for part in says["parts"]:
        if part["modality"] == "audio":
            part["files"][audio.name] = [audio.stat().st_size, file_hash(audio)]
    (folder / "index.json").write_text(json.dumps(says))
    with pytest.raises(StoreError, match=r"audio.video_audio.1.parquet: the rows have 19 vectors, but there are 20"):
        Index.load(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(StoreError, match=r"index.json is damaged"):
        Index.load(folder)
    (folder / "index.json").write_text('{"model": "m", "parts": []}')
    with pytest.raises(StoreError, match="another version of vatt"):
        Index.load(folder)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_every_kind_finds_adds_removes_and_compacts(tmp_path: Path, kind: str) -> None:
    """Against brute force, through the disk each time. Vectors lie in clusters, as those of videos do."""
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(20, 16))
    x = (centres[draw.integers(20, size=900)] + 0.5 * draw.normal(size=(900, 16))).astype(np.float32)

    def store(folder: str, numbers: range) -> Path:
        rows = [row(f"v{i}", "video", "video_text", x[i]) | {"path": f"/{'ab'[i % 2]}/{i}.mp4"} for i in numbers]
        write_shard(tmp_path / folder, "m", rows)
        return tmp_path / folder

    def recall(index: Index, there: list[int], **options: str) -> float:
        expected = np.argsort(-(unit(x[:50]) @ unit(x[there]).T), axis=1)[:, :10]
        found = index.search(x[:50], "m", 10, **options)
        names = [{hit.id for hit in hits} for hits in found]
        right = [{f"v{there[i]}" for i in best} for best in expected]
        return float(np.mean([len(some & all_) / 10 for some, all_ in zip(names, right, strict=True)]))

    def saved(index: Index) -> Index:
        index.save(tmp_path / "index")
        return Index.load(tmp_path / "index")

    index = saved(Index.build([store("first", range(600))], kind))
    assert index.parts["video", "video_text"].kind == kind
    assert recall(index, list(range(600))) >= (1.0 if kind == "flat" else 0.97)
    index = Index.load(tmp_path / "index", mapped=False)
    assert index.add([store("second", range(550, 900))]) == 350
    index = saved(index)
    assert len(index) == 900  # those that came twice were replaced
    assert recall(index, list(range(900))) >= (1.0 if kind == "flat" else 0.97)
    even = [i for i in range(900) if i % 2 == 0]
    assert recall(index, even, path="/a/*") >= (1.0 if kind == "flat" else 0.97)
    assert index.search(x[:1], "m", path="/a/4?.mp4", k=99)[0][-1].path in {f"/a/{i}.mp4" for i in range(40, 50)}
    assert index.remove("/b/*") == 450
    index = saved(index)
    assert len(index) == 450
    assert recall(index, even) >= (1.0 if kind == "flat" else 0.97)
    index.compact("flat" if kind == "ivfpq" else kind)
    index = saved(index)
    assert recall(index, even) >= (1.0 if kind == "flat" else 0.97)
    assert index.parts["video", "video_text"].total == 450
    assert len(list((tmp_path / "index").iterdir())) == (5 if kind == "hnsw" else 4)  # no files of earlier versions


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_index_may_be_emptied_and_filled_again(tmp_path: Path, kind: str) -> None:
    source = embeddings(tmp_path / "embeddings")
    index = Index.build([source], kind)
    assert index.remove("*") == 50
    for name in ("removed", "built", "compacted"):
        index.save(tmp_path / name)
        index = Index.load(tmp_path / name, mapped=False)
        assert len(index) == 0
        with pytest.raises(StoreError, match="the index is empty"):
            index.search(VIDEO[:1], "m", 5)
        if name == "removed":
            index = Index.build([tmp_path / name], kind)
        elif name == "built":
            index.compact()
    assert index.add([source]) == 50
    index.save(tmp_path / "compacted")
    assert len(Index.load(tmp_path / "compacted").search(VIDEO[:1], "m", 99)[0]) == 30


def test_indexes_are_put_together(index: Index, tmp_path: Path) -> None:
    both = Index.build([tmp_path / "index", embeddings(tmp_path / "two", names="w")])
    assert len(both) == 100
    assert {hit.id for hit in both.search(VIDEO[:1], "m", 2)[0]} == {"v0", "w0"}
    index.save(tmp_path / "moved" / "index")
    with pytest.raises(IndexMismatch, match=r"made by model other, .*index by m"):
        index.add([embeddings(tmp_path / "three", model="other")])


@pytest.mark.parametrize("how", ["add", "build"])
def test_equal_clips_of_two_sources_are_in_the_index_once(tmp_path: Path, how: str) -> None:
    """The same files and segments with other ids, and one of them with a modality that the other source lacks."""

    def store(name: str, clips: range, vectors: np.ndarray) -> Path:
        rows = [
            row(f"{name}{i}-{k}", "video", "video_text", vectors[i]) | {"path": str(tmp_path / f"{i}.mp4")}
            for i in clips
            for k in range(2)  # two rows for each clip
        ]
        write_shard(tmp_path / name, "m", rows)
        return tmp_path / name

    first, second = store("first", range(10), VIDEO), store("second", range(5, 15), VIDEO[::-1])
    sound = row("sound", "audio", "video_audio", AUDIO[0]) | {"path": str(tmp_path / "7.mp4")}
    write_shard(first, "m", [sound], shard=1)
    if how == "build":
        index = Index.build([first, second])
    else:
        Index.build([first]).save(tmp_path / "index")
        index = Index.load(tmp_path / "index", mapped=False)
        assert index.add([second]) == 20
    assert index.replaced == 10
    assert index.kinds() == [("audio", "video_audio", 1), ("video", "video_text", 30)]
    ids = set(index.rows(("video", "video_text")).column("id").to_pylist())
    assert ids == {f"first{i}-{k}" for i in range(5) for k in range(2)} | {
        f"second{i}-{k}" for i in range(5, 15) for k in range(2)
    }
    hits = index.search(VIDEO[:1], "m", 30, distinct=True)[0]
    assert sorted(hit.path for hit in hits) == sorted(str(tmp_path / f"{i}.mp4") for i in range(15))


def test_an_index_that_is_not_written_to_its_end_is_the_one_before(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    index.remove("v*")
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        index.save(tmp_path / "index")
    monkeypatch.undo()
    assert len(Index.load(tmp_path / "index")) == 50
    index.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 20
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        ".lock",
        "audio.video_audio.2.faiss",
        "audio.video_audio.2.parquet",
        "index.json",
        "video.video_text.2.faiss",
        "video.video_text.2.parquet",
    ]


def test_a_kind_is_chosen_by_size_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert [choose(n) for n in (10, FLAT_UP_TO, FLAT_UP_TO + 1, HNSW_UP_TO + 1)] == ["flat", "flat", "hnsw", "ivfpq"]
    folder = embeddings(tmp_path / "embeddings")
    with pytest.raises(InputError, match="flat, hnsw, ivfpq, not 'tree'"):
        Index.build([folder], "tree")
    with pytest.raises(InputError, match="needs at least 256 vectors, not 20"):
        Index.build([folder], "ivfpq")


def test_rows_are_chosen_by_what_the_manifest_says(tmp_path: Path) -> None:
    rows = [
        row(f"v{i}", "video", "video_text", VIDEO[i])
        | {"extra": json.dumps({"x_late": "yes" if i > 20 else "no", "labels": ["a", f"l{i}"]}) if i else None}
        for i in range(30)
    ]
    write_shard(tmp_path / "embeddings", "m", rows)
    index = Index.build([tmp_path / "embeddings"])
    late = index.search(VIDEO[:1], "m", 30, where="x_late=yes")
    assert {hit.id for hit in late[0]} == {f"v{i}" for i in range(21, 30)}
    assert [hit.id for hit in index.search(VIDEO[:1], "m", 30, where="labels=l7")[0]] == ["v7"]
    assert len(index.search(VIDEO[:1], "m", 30, where="labels=a", path="*")[0]) == 29
    with pytest.raises(InputError, match="no clip has a column 'x_early'; available columns: labels, x_late"):
        index.search(VIDEO[:1], "m", 30, where="x_early=1")
    with pytest.raises(InputError, match="COLUMN=VALUE"):
        index.search(VIDEO[:1], "m", 30, where="late")


def test_more_answers_than_there_are_is_no_error(index: Index) -> None:
    assert len(index.search(VIDEO[:1], "m", k=1000)[0]) == 30


def test_vectors_of_length_1_stay_as_they_are() -> None:
    """So that compacting again, or putting indexes together, changes no bit."""
    once = unit(np.random.default_rng(0).normal(size=(5000, 256)).astype(np.float32) * 7)
    assert np.array_equal(unit(once), once)
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1, atol=1e-6)
    assert not unit(np.zeros((1, 4), np.float32)).any()


@pytest.mark.parametrize("others", [0, 3])
def test_captions_of_replaced_clips_are_removed(tmp_path: Path, others: int) -> None:
    names = ["a", "b"]
    clips = [row(name, "video", "video_text", VIDEO[i]) for i, name in enumerate(names)]
    captions = [row(name, "text", "video_text", VIDEO[10 + i], f"caption of {name}") for i, name in enumerate(names)]
    captions += [row(f"c{i}", "text", "video_text", VIDEO[20 + i], f"caption {i}") for i in range(others)]
    for item in (*clips, *captions):
        item["path"] = str(tmp_path / item["path"])
    write_shard(tmp_path / "first", "m", [*clips, *captions])
    write_shard(tmp_path / "second", "m", clips)
    write_notes(tmp_path / "second", {"modalities": ["video", "text"]})
    Index.build([tmp_path / "first"]).save(tmp_path / "index")
    added = Index.load(tmp_path / "index", mapped=False)
    assert added.add([tmp_path / "second"]) == 2
    added.save(tmp_path / "index")
    for index in (added, Index.load(tmp_path / "index"), Index.build([tmp_path / "first", tmp_path / "second"])):
        assert sorted(index.rows(("video", "video_text")).column("id").to_pylist()) == names
        counts = {modality: count for modality, _, count in index.kinds()}
        assert (counts["video"], counts.get("text", 0)) == (2, others)
        if others:
            assert {hit.id for hit in index.search(VIDEO[10:11], "m", 9, "text")[0]} == {"c0", "c1", "c2"}
        else:
            with pytest.raises(IndexMismatch, match="the index has no text in the video_text space"):
                index.search(VIDEO[10:11], "m", 9, "text")
    assert added.replaced == 4
