from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.evaluation.metrics import PairedRetrieval, ranks, retrieval, summarize


@given(q=st.integers(1, 6), g=st.integers(1, 8), levels=st.integers(1, 4), seed=st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_ranks_against_sorting_with_ties_last(q: int, g: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity, target = rng.integers(0, levels, (q, g)).astype(float), rng.integers(0, g, q)
    slow = []
    for i in range(q):
        # Sort by similarity, and among equals put the right one last: its place is its rank.
        order = sorted(range(g), key=lambda j: (-similarity[i, j], j == target[i]))
        slow.append(order.index(target[i]) + 1)
    right = torch.from_numpy(target)[:, None] == torch.arange(g)
    assert ranks(torch.from_numpy(similarity), right).tolist() == slow


@given(q=st.integers(1, 5), g=st.integers(2, 9), levels=st.integers(1, 4), seed=st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_the_best_of_several_right_ones_counts(q: int, g: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarity, owner = rng.integers(0, levels, (q, g)).astype(float), rng.permutation(np.arange(g) % q)
    if len(set(owner)) < q:
        return
    right = torch.arange(q)[:, None] == torch.from_numpy(owner)
    slow = []
    for i in range(q):
        order = sorted(range(g), key=lambda j: (-similarity[i, j], owner[j] == i))
        slow.append(next(place for place, j in enumerate(order, start=1) if owner[j] == i))
    assert ranks(torch.from_numpy(similarity), right).tolist() == slow


def test_chance_of_several_right_ones_is_what_guessing_finds() -> None:
    torch.manual_seed(0)
    owner = torch.arange(40).repeat_interleave(5)
    result = [retrieval(torch.randn(40, 16), torch.randn(200, 16), torch.arange(40), owner) for _ in range(40)]
    for key in ("R@1", "R@5", "R@10", "MedR"):
        mean = sum(f[key] for f in result) / len(result)
        assert mean == pytest.approx(result[0]["chance"][key], rel=0.15), key


def test_all_equal_is_the_worst_rank_for_everybody() -> None:
    assert ranks(torch.zeros(3, 5), torch.eye(5, dtype=torch.bool)[[0, 2, 4]]).tolist() == [5, 5, 5]


@pytest.mark.parametrize("gallery", [5, 7, 10, 1025])
def test_equal_vectors_are_equal_in_every_product(gallery: int) -> None:
    x = torch.randn(1, 33).expand(gallery, 33) * torch.rand(gallery, 1)
    result = retrieval(x, x)
    assert (result["MeanR"], result["R@1"]) == (gallery, 0)


def test_summary_by_hand() -> None:
    result = summarize(torch.tensor([1, 1, 3, 6, 20]), gallery=50)
    assert {k: result[k] for k in ("R@1", "R@5", "R@10", "MedR", "MeanR", "queries", "gallery")} == {
        "R@1": 40.0,
        "R@5": 60.0,
        "R@10": 80.0,
        "MedR": 3.0,
        "MeanR": 6.2,
        "queries": 5,
        "gallery": 50,
    }
    assert result["chance"] == {"R@1": 2.0, "R@5": 10.0, "R@10": 20.0, "MedR": 25.5}
    assert summarize(torch.tensor([1, 4]), 4)["MedR"] == 2.5


def test_guessing_gives_chance() -> None:
    torch.manual_seed(0)
    result = retrieval(torch.randn(400, 16), torch.randn(400, 16))
    assert abs(result["R@10"] - result["chance"]["R@10"]) < 2
    assert abs(result["MedR"] - result["chance"]["MedR"]) < 40


def test_length_of_vectors_does_not_matter_and_order_is_the_pairing() -> None:
    x = torch.randn(20, 8)
    assert retrieval(x * torch.rand(20, 1), x)["R@1"] == 100
    assert retrieval(x, x.roll(1, 0))["R@1"] < 100
    assert retrieval(x, x.roll(1, 0), query_of=(torch.arange(20) + 1) % 20)["R@1"] == 100


def test_broken_vectors_are_an_error() -> None:
    x = torch.randn(4, 3)
    x[1] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        retrieval(x, x)
    with pytest.raises(ValueError, match="no query"):
        summarize(torch.tensor([]), 3)


def test_the_metric_does_not_depend_on_the_batches() -> None:
    a, b = torch.randn(23, 6), torch.randn(23, 6)
    result = []
    for size in (1, 7, 23):
        metric = PairedRetrieval(("text", "video"))
        for i in range(0, 23, size):
            metric.update(a[i : i + size], b[i : i + size])
        result.append(metric.compute())
    assert result[0] == result[1] == result[2]
    assert result[0]["text_to_video"] == retrieval(a, b)
    assert result[0]["video_to_text"] == retrieval(b, a)


def test_all_captions_of_a_clip_are_queries_and_the_best_of_them_counts() -> None:
    video, text = torch.randn(7, 6), torch.randn(7, 3, 6)
    valid = torch.tensor([[True, True, True], [True, False, False], [False] * 3] + [[True, True, False]] * 4)
    metric = PairedRetrieval(("text", "video"))
    for part in (slice(0, 3), slice(3, 7)):
        metric.update(text[part], video[part], valid[part])
    result = metric.compute()
    similarity = torch.nn.functional.cosine_similarity(text[:, :, None], video[None, None], dim=-1)  # (7, 3, 7)
    gallery = [clip for clip in range(7) if valid[clip].any()]
    queries = valid.nonzero().tolist()
    to_video = [sum(similarity[i, j, g] > similarity[i, j, i] for g in gallery) + 1 for i, j in queries]
    best = {g: max(similarity[i, j, g] for i, j in queries if i == g) for g in gallery}
    to_text = [sum(similarity[i, j, g] > best[g] for i, j in queries if i != g) + 1 for g in gallery]
    for direction, slow, items in (("text_to_video", to_video, 6), ("video_to_text", to_text, 12)):
        assert (result[direction]["queries"], result[direction]["gallery"]) == (len(slow), items)
        assert result[direction]["MeanR"] == pytest.approx(float(torch.tensor(slow).float().mean()), abs=0.01)
        assert result[direction]["R@1"] == pytest.approx(
            100 * sum(int(rank) == 1 for rank in slow) / len(slow), abs=0.01
        )


def test_no_pair_gives_no_number() -> None:
    metric = PairedRetrieval(("text", "video"))
    metric.update(torch.zeros(0, 6), torch.zeros(0, 6))
    assert metric.compute() == {}


def test_invalid_pairs_are_ignored() -> None:
    a, b, valid = torch.randn(9, 6), torch.randn(9, 6), torch.arange(9) % 3 != 0
    metric = PairedRetrieval(("text", "video"))
    metric.update(a[:5], b[:5], valid[:5])
    metric.update(a[5:], b[5:], valid[5:])
    assert metric.compute()["text_to_video"] == retrieval(a[valid], b[valid])
    metric.reset()
    metric.update(a, b, torch.zeros(9, dtype=torch.bool))
    assert metric.compute() == {}
