from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_protocols import row
from vatt.retrieval.store import SCHEMA, Embeddings, EmbeddingWriter, StoreError


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 4)).astype(np.float32)
    with EmbeddingWriter(tmp_path, "m") as writer:
        writer.add(row(f"v{i}", "video", "video_text", vectors[i]) for i in range(3))
        writer.add([])
        writer.add([row("t", "text", "video_text", vectors[3], "hello"), row("a", "audio", "video_audio", [1.0, 2.0])])
    assert writer.rows == 5
    store = Embeddings(tmp_path)
    assert store.model == "m"
    assert store.kinds() == [("audio", "video_audio"), ("text", "video_text"), ("video", "video_text")]
    videos = store.select("video", "video_text")
    assert np.array_equal(videos.vectors, vectors[:3])
    assert videos.column("id") == ["v0", "v1", "v2"]
    assert store.select("text", "video_text").column("text") == ["hello"]


def test_the_file_is_plain_parquet(tmp_path: Path) -> None:
    with EmbeddingWriter(tmp_path, "m") as writer:
        writer.add([row("v", "video", "video_text", [1.0, 2.0])])
    table = pq.read_table(tmp_path / "embeddings.parquet")
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist()[0]["vector"] == [1.0, 2.0]
    assert table.to_pylist()[0]["model"] == "m"


def test_a_run_that_fails_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    def write(fail: bool, name: str) -> None:
        with EmbeddingWriter(tmp_path, "m") as writer:
            writer.add([row(name, "video", "video_text", [1.0])])
            if fail:
                raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write(True, "first")
    assert list(tmp_path.iterdir()) == []
    write(False, "second")
    with pytest.raises(RuntimeError, match="stop"):
        write(True, "third")
    assert Embeddings(tmp_path).select("video", "video_text").column("id") == ["second"]


def test_what_is_wrong_with_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="vatt embed PATH"):
        Embeddings(tmp_path)
    with EmbeddingWriter(tmp_path / "empty", "m"):
        pass
    with pytest.raises(StoreError, match="holds no embedding"):
        Embeddings(tmp_path / "empty")
    with EmbeddingWriter(tmp_path / "ragged", "m") as writer:
        writer.add([row("a", "video", "video_text", [1.0]), row("b", "video", "video_text", [1.0, 2.0])])
    store = Embeddings(tmp_path / "ragged")
    with pytest.raises(StoreError, match="differ in length"):
        store.select("video", "video_text")
    with pytest.raises(StoreError, match="no audio in the video_audio space; it has video in video_text"):
        store.select("audio", "video_audio")
    with EmbeddingWriter(tmp_path / "mixed", "m") as writer:
        writer.add([row("a", "video", "video_text", [1.0])])
        writer.model = "other"
        writer.add([row("b", "video", "video_text", [1.0])])
    with pytest.raises(StoreError, match="several models: m, other"):
        Embeddings(tmp_path / "mixed")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "embeddings.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="damaged"):
        Embeddings(tmp_path / "broken")
