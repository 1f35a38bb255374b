from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_protocols import row
from vatt.retrieval.claims import claim
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.store import SCHEMA, missing_shards, read_errors, read_notes, write_shard
from vatt.retrieval.tables import StoreError

UNREADABLE = {"kind": "unreadable", "id": "x", "path": "x.mp4", "reason": "no video"}


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 4)).astype(np.float32)
    text, sound = row("t", "text", "video_text", vectors[3], "hello"), row("a", "audio", "video_audio", [1.0, 2.0])
    write_shard(tmp_path, "m", [row("v2", "video", "video_text", vectors[2]), text, sound], shard=1)
    write_shard(tmp_path, "m", (row(f"v{i}", "video", "video_text", vectors[i]) for i in range(2)))
    store = Embeddings(tmp_path)
    assert store.model == "m"
    assert store.kinds() == [("audio", "video_audio"), ("text", "video_text"), ("video", "video_text")]
    videos = store.select("video", "video_text")
    assert np.array_equal(videos.vectors, vectors[:3])
    assert videos.column("id") == ["v0", "v1", "v2"]
    assert store.select("text", "video_text").column("text") == ["hello"]


def test_the_files_are_plain_parquet(tmp_path: Path) -> None:
    write_shard(tmp_path, "m", [row("v", "video", "video_text", [1.0, 2.0])], [UNREADABLE])
    (tmp_path / "embeddings.parquet" / ".00001.7.part").write_bytes(b"of a run that was killed")
    assert pq.read_table(tmp_path / "errors.parquet").to_pylist() == read_errors(tmp_path) == [UNREADABLE]
    table = pq.read_table(tmp_path / "embeddings.parquet")
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist()[0]["vector"] == [1.0, 2.0]
    assert table.to_pylist()[0]["model"] == "m"


def test_a_shard_that_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    write_shard(tmp_path, "m", [row("first", "video", "video_text", [1.0])])
    monkeypatch.setattr(os, "replace", stop)
    for shard in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_shard(tmp_path, "m", [row("second", "video", "video_text", [1.0])], shard=shard)
    assert missing_shards(tmp_path, 3) == [1, 2]
    assert Embeddings(tmp_path).select("video", "video_text").column("id") == ["first"]


def test_a_folder_is_taken_once(tmp_path: Path) -> None:
    plan = {"model": "m", "hop_s": 1.0, "shards": 2}
    claim(tmp_path, plan, {"source": "here"})
    write_shard(tmp_path, "m", [row("v", "video", "video_text", [1.0])])
    with pytest.raises(StoreError, match=r"is incomplete \(1 of 2 shards\)"):
        Embeddings(tmp_path)
    claim(tmp_path, plan, {"source": "here"})
    assert missing_shards(tmp_path, 2) == [1]
    with pytest.raises(StoreError, match=r"other embeddings \(hop_s, model differ\).*--overwrite true"):
        claim(tmp_path, plan | {"hop_s": 2.0, "model": "n"}, {})
    claim(tmp_path, plan | {"hop_s": 2.0}, {"source": "there"}, overwrite=True)
    assert missing_shards(tmp_path, 2) == [0, 1]
    assert read_notes(tmp_path) == {"plan": plan | {"hop_s": 2.0}, "complete": False, "source": "there"}


def test_embeddings_of_one_file_are_read_and_not_written_over(tmp_path: Path) -> None:
    """So they were before there were shards."""
    write_shard(tmp_path / "new", "m", [row("v", "video", "video_text", [1.0])])
    (tmp_path / "new" / "embeddings.parquet" / "00000.parquet").rename(tmp_path / "embeddings.parquet")
    (tmp_path / "embeddings.json").write_text('{"model": "m", "model_folder": null}')
    for source in (tmp_path, tmp_path / "embeddings.parquet"):
        assert Embeddings(source).select("video", "video_text").column("id") == ["v"]
    with pytest.raises(StoreError, match="has other embeddings"):
        claim(tmp_path, {"model": "m", "shards": 1}, {})
    claim(tmp_path, {"model": "m", "shards": 1}, {}, overwrite=True)
    assert missing_shards(tmp_path, 1) == [0]


def test_what_is_wrong_with_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="vatt embed PATH"):
        Embeddings(tmp_path)
    write_shard(tmp_path / "empty", "m", [])
    with pytest.raises(StoreError, match="has no embeddings"):
        Embeddings(tmp_path / "empty")
    ragged = [row("a", "video", "video_text", [1.0]), row("b", "video", "video_text", [1.0, 2.0])]
    write_shard(tmp_path / "ragged", "m", ragged)
    store = Embeddings(tmp_path / "ragged")
    with pytest.raises(StoreError, match="differ in length"):
        store.select("video", "video_text")
    with pytest.raises(StoreError, match="no audio in the video_audio space; it has video in video_text"):
        store.select("audio", "video_audio")
    for shard, model in enumerate(("m", "other")):
        write_shard(tmp_path / "mixed", model, [row("a", "video", "video_text", [1.0])], shard=shard)
    with pytest.raises(StoreError, match="several models: m, other"):
        Embeddings(tmp_path / "mixed")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "embeddings.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="damaged"):
        Embeddings(tmp_path / "broken")
