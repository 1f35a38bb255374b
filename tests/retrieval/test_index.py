from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_protocols import row
from vatt.retrieval.index import Index, IndexMismatch
from vatt.retrieval.store import StoreError, write_shard

pytest.importorskip("faiss")
RNG = np.random.default_rng(0)
VIDEO, AUDIO = RNG.normal(size=(30, 8)).astype(np.float32), RNG.normal(size=(20, 4)).astype(np.float32)


def embeddings(folder: Path, model: str = "m", names: str = "v") -> Path:
    rows = [row(f"{names}{i}", "video", "video_text", VIDEO[i]) | {"start_s": i * 1.5} for i in range(30)]
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


def test_parts_are_kept_apart(index: Index) -> None:
    assert index.kinds() == [("audio", "video_audio", 20), ("video", "video_text", 30)]
    assert len(index) == 50
    assert index.search(AUDIO[3:4], "m", 1, "audio", "video_audio")[0][0].id == "a3"
    with pytest.raises(IndexMismatch, match="no text in the video_text space; it has audio in video_audio"):
        index.search(VIDEO[:1], "m", 1, "text")


def test_vectors_of_another_model_are_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(IndexMismatch, match="vectors of model m, the query is of model other"):
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
    with pytest.raises(FileExistsError, match="is no index"):
        index.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_damaged_index_is_refused_by_name(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(StoreError, match="vatt index EMBEDDINGS"):
        Index.load(tmp_path)
    whole = (folder / "video.video_text.faiss").read_bytes()
    (folder / "video.video_text.faiss").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=r"video.video_text is missing or damaged"):
        Index.load(folder)
    (folder / "video.video_text.faiss").write_bytes((folder / "audio.video_audio.faiss").read_bytes())
    with pytest.raises(StoreError, match="20 vectors, 30 rows"):
        Index.load(folder)
    (folder / "audio.video_audio.parquet").unlink()
    with pytest.raises(StoreError, match=r"audio.video_audio is missing"):
        Index.load(folder)


def test_more_answers_than_there_are_is_no_error(index: Index) -> None:
    assert len(index.search(VIDEO[:1], "m", k=1000)[0]) == 30
