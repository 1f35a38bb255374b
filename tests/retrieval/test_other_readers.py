"""Embeddings are read without this package: by pandas, DuckDB and PyArrow, into NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_protocols import row
from vatt.retrieval.store import write_shard


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two shards with videos and captions of the same clips, and the (7, 5) float32 vectors of the videos."""
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    for shard, numbers in enumerate((range(4), range(4, 7))):
        videos = [row(f"clip{i}", "video", "video_text", vectors[i]) for i in numbers]
        texts = [row(f"clip{i}", "text", "video_text", -vectors[i], "a caption") for i in numbers]
        write_shard(tmp_path, "m", [*videos, *texts], shard=shard)
    return tmp_path / "embeddings.parquet", vectors


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted)


def test_pandas(stored: tuple[Path, np.ndarray]) -> None:
    pd = pytest.importorskip("pandas")
    table = pd.read_parquet(stored[0], filters=[("modality", "=", "video"), ("space", "=", "video_text")])
    same(np.stack(table["vector"]), stored[1])
    assert table["id"].tolist() == [f"clip{i}" for i in range(7)]


def test_duckdb(stored: tuple[Path, np.ndarray]) -> None:
    duckdb = pytest.importorskip("duckdb")
    where = f"FROM '{stored[0]}/*.parquet' WHERE modality = 'video' AND space = 'video_text' ORDER BY id"
    same(np.stack(duckdb.sql(f"SELECT vector {where}").fetchnumpy()["vector"]), stored[1])


def test_pyarrow_and_numpy(stored: tuple[Path, np.ndarray]) -> None:
    table = pq.read_table(stored[0], filters=[("modality", "=", "video"), ("space", "=", "video_text")])
    same(table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1), stored[1])
