"""Equal and nearly equal vectors: no other vector is lost, and every row is a separate result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("faiss")
from tests.evaluation.test_protocols import row
from vatt.retrieval import vectors as module
from vatt.retrieval.duplicates import ALMOST, find_equal, find_groups, first_equal, group
from vatt.retrieval.index import Index
from vatt.retrieval.store import write_shard
from vatt.retrieval.vectors import Vectors, unit

COUNT, WIDTH = 2400, 32


def rows_of(count: int) -> pa.Table:
    names = [f"/clips/{i}.mp4" for i in range(count)]
    return pa.table(
        {
            "id": names,
            "path": names,
            "start_s": np.zeros(count),
            "end_s": np.ones(count),
            "clip_start_s": np.zeros(count),
            "clip_end_s": pa.nulls(count, pa.float64()),
            "text": pa.nulls(count, pa.string()),
            "extra": pa.nulls(count, pa.string()),
        }
    )


def vectors_with_copies(share: float, cosine: float, order: str, width: int = WIDTH) -> np.ndarray:
    """Return (COUNT, width) vectors, of which a fraction ``share`` are copies with about the given pairwise cosine."""
    rng = np.random.default_rng(0)
    copies = int(share * COUNT)
    noise = unit(rng.normal(size=(copies, width))) if copies else np.zeros((0, width))
    near = unit(rng.normal(size=(1, width))) + np.sqrt(1 - cosine) * noise
    x = np.concatenate([near, rng.normal(size=(COUNT - copies, width))])
    if order == "last":
        x = x[::-1]
    return unit(rng.permutation(x) if order == "mixed" else x.copy())


def recall(part: Vectors, x: np.ndarray, queries: np.ndarray, k: int = 10, allowed: np.ndarray | None = None) -> float:
    """Return the recall of the k nearest vectors of each query, compared with exact search by NumPy."""
    exact = queries @ x.T
    if allowed is not None:
        exact[:, ~allowed] = -np.inf
    least = np.sort(exact, axis=1)[:, -k]
    scores, rows = part.search(queries, k, allowed)
    assert rows.shape == (len(queries), k)
    assert (rows >= 0).all()
    assert all(len(set(some)) == k for some in rows.tolist())
    assert np.all(np.diff(scores, axis=1) <= 1e-6)
    scores_at_rows = np.take_along_axis(exact, rows, axis=1)
    np.testing.assert_allclose(scores_at_rows, scores, atol=1e-5)
    return float((scores_at_rows >= least[:, None] - 1e-6).mean())


@pytest.fixture(params=["graph", "default"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small indexes are searched exactly by default; "graph" searches them with the structure."""
    if request.param == "graph":
        monkeypatch.setattr(module, "SMALL", 0)
    return request.param


@pytest.mark.parametrize("order", ["first", "last", "mixed"])
@pytest.mark.parametrize(
    ("share", "cosine"), [(0, 1), (0.1, 1), (0.9, 1), (0.1, 0.99995), (0.9, 0.99995), (0.9, 0.9999)]
)
def test_no_vector_is_lost_among_copies(small: str, share: float, cosine: float, order: str) -> None:
    x = vectors_with_copies(share, cosine, order)
    part = Vectors.build(x, rows_of(COUNT), "hnsw")
    queries = unit(np.concatenate([x[::40], np.random.default_rng(1).normal(size=(40, WIDTH))]))
    assert recall(part, x, queries) >= (0.98 if small == "graph" else 1.0)
    others = np.flatnonzero((x @ x.T > 0.99).sum(axis=1) < 10)[:200]
    assert np.mean(part.search(x[others], 1)[1][:, 0] == others) >= 0.98


def test_many_groups_of_copies_do_not_hide_each_other(small: str) -> None:
    """Every vector has nine neighbors with a cosine above 0.9999: 20 groups of 120, and 240 of ten."""
    rng = np.random.default_rng(0)
    for groups in (20, 240):
        centers = unit(rng.normal(size=(groups, WIDTH)))
        x = unit(np.repeat(centers, COUNT // groups, axis=0) + 0.003 * unit(rng.normal(size=(COUNT, WIDTH))))
        x = x[rng.permutation(COUNT)]
        part = Vectors.build(x, rows_of(COUNT), "hnsw")
        assert part.groups.representatives < 1.1 * groups
        assert recall(part, x, unit(np.concatenate([x[:50], rng.normal(size=(50, WIDTH))]))) >= 0.98


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_equal_vectors_are_separate_results_in_row_order(kind: str, small: str) -> None:
    x = vectors_with_copies(0.5, 1, "mixed")
    part = Vectors.build(x, rows_of(COUNT), kind)
    copied = np.flatnonzero((x == x[np.argmax((x @ x.T > 0.9999).sum(axis=1))]).all(axis=1))
    assert len(copied) == COUNT // 2
    scores, rows = part.search(x[copied[:1]], 500)
    assert rows[0].tolist() == copied[:500].tolist()
    assert len(set(scores[0].tolist())) == 1
    assert part.search(x[copied[:1]], len(copied) + 3)[1][0, : len(copied)].tolist() == copied.tolist()
    allowed = np.arange(COUNT) % 3 == 0
    assert part.search(x[copied[:1]], 50, allowed)[1][0].tolist() == copied[copied % 3 == 0][:50].tolist()
    part.keep(~np.isin(np.arange(COUNT), copied[:100]))
    assert part.search(x[copied[:1]], 50)[1][0].tolist() == copied[100:150].tolist()
    few = np.zeros(COUNT, bool)
    few[copied[-5:]] = True
    assert part.search(x[copied[:1]], 9, few)[1][0].tolist() == [*copied[-5:].tolist(), -1, -1, -1, -1]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
@pytest.mark.parametrize("cosine", [1, 0.99995])
def test_copies_are_removed_filtered_added_compacted_saved_and_loaded(
    tmp_path: Path, kind: str, cosine: float, small: str
) -> None:
    x = vectors_with_copies(0.6, cosine, "mixed", 16)
    limit = (
        1.0 if kind == "flat" or small != "graph" else {"hnsw": 0.98, "ivfpq": 0.8}[kind]
    )  # random vectors have no clusters
    queries = x[::30]

    def store(name: str, numbers: range) -> Path:
        write_shard(
            tmp_path / name,
            "m",
            [row(f"v{i}", "video", "video_text", x[i]) | {"path": f"/clips/{i}.mp4"} for i in numbers],
        )
        return tmp_path / name

    def saved(index: Index) -> Index:
        index.save(tmp_path / "index")
        return Index.load(tmp_path / "index")

    index = saved(Index.build([store("first", range(1500))], kind))
    part = index.parts["video", "video_text"]
    stored = part._vectors
    assert len(stored) == (len(np.unique(x[:1500], axis=0)))
    assert recall(part, x[:1500], queries) >= limit
    allowed = np.arange(1500) % 2 == 0
    assert recall(part, x[:1500], queries, allowed=allowed) >= limit

    index = Index.load(tmp_path / "index", mapped=False)
    index.add([store("second", range(1400, COUNT))])
    index = saved(index)
    part = index.parts["video", "video_text"]
    order = [int(name[1:]) for name in part.rows.column("id").to_pylist()]
    assert np.array_equal(part.exact(), unit(x)[order])
    assert len(index) == COUNT
    assert recall(part, x[order], queries, allowed=part.kept) >= limit
    assert np.array_equal(part.groups.representative[: part.groups.representatives], range(part.groups.representatives))

    index.remove("/clips/?00*.mp4")
    index = saved(index)
    part = index.parts["video", "video_text"]
    assert recall(part, x[order], queries, allowed=part.kept) >= limit
    before = index.search(queries, "m", 10)
    index.compact()
    index = saved(index)
    part = index.parts["video", "video_text"]
    assert part.total == len(index) == len(part.rows)
    assert recall(part, part.exact(), queries) >= limit
    if limit == cosine == 1:  # the order of nearly equal scores depends on rounding
        after = index.search(queries, "m", 10)
        assert [[hit.id for hit in hits] for hits in after] == [[hit.id for hit in hits] for hits in before]


def test_distinct_results_among_copies(small: str, tmp_path: Path) -> None:
    """`distinct` continues after many equal windows of one clip."""
    rows = [
        row("black", "video", "video_text", [1.0, 0.0]) | {"start_s": i / 10, "end_s": i / 10 + 1} for i in range(300)
    ]
    rows += [row(f"v{i}", "video", "video_text", [1.0, 0.1 * (i + 1)]) for i in range(5)]
    write_shard(tmp_path, "m", rows)
    index = Index.build([tmp_path], "hnsw")
    hits = index.search(np.array([[1.0, 0.0]], np.float32), "m", 70, distinct=True)[0]
    assert len(hits) == 60 + 5
    assert [hit.id for hit in hits[-5:]] == [f"v{i}" for i in range(5)]
    starts = sorted(hit.start_s for hit in hits[:-5])
    assert np.diff(starts).min() >= 0.5  # half of a window


def test_groups_contain_only_near_duplicates() -> None:
    rng = np.random.default_rng(0)
    base = unit(rng.normal(size=(3000, 24)))
    near = unit(np.repeat(base[:3], [2500, 40, 1], axis=0) + 0.008 * unit(rng.normal(size=(2541, 24))))
    x = np.concatenate([base, near, base[:10]])[rng.permutation(3000 + 2541 + 10)]
    stored, groups = find_groups(x, near=True)
    assert np.array_equal(x[stored][groups.of_row], x)
    cosines = np.einsum("ue,ue->u", x[stored], x[stored][groups.representative])
    assert cosines.min() > ALMOST - 1e-6
    assert groups.representatives < 3000 * 1.02
    assert np.array_equal(groups.representative[: groups.representatives], np.arange(groups.representatives))
    assert sorted(stored.tolist()) == np.flatnonzero(first_equal(x) == np.arange(len(x))).tolist()
    assert (group(x[:1]) == [0]).all()


def test_rows_are_compared_bytewise() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9000, 5)).astype(np.float32)
    x[8500] = x[3]
    x[20] = x[3]
    x[5000] = -x[6]
    first = first_equal(x)
    assert np.flatnonzero(first != np.arange(len(x))).tolist() == [20, 8500]
    assert first[[20, 8500]].tolist() == [3, 3]
    assert find_equal(x[[3, 6, 8999]], x[:5000]).tolist() in ([3, 6, -1], [20, 6, -1])
    assert find_equal(x[:2], x[:0]).tolist() == [-1, -1]
