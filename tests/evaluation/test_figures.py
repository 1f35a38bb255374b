"""Pictures are drawn, and of what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.test_protocols import benchmark, row, store
from vatt.errors import InputError
from vatt.evaluation.figures import plot_activations, plot_similarities, plot_tradeoff, plot_tsne

pytest.importorskip("matplotlib")


def colours(path: Path) -> int:
    return len(Image.open(path).convert("RGB").getcolors(1 << 22))


def test_tsne_of_two_models(tmp_path: Path) -> None:
    stores = {name: benchmark(tmp_path / name, clips=20, captions=1, windows=1) for name in ("one", "two")}
    classes = {f"v{i}": "abc"[i % 3] for i in range(15)}  # the other clips have none
    plot_tsne(stores, classes, tmp_path / "tsne", about="random vectors")
    assert (tmp_path / "tsne.svg").read_text().count("random vectors") >= 1
    assert Image.open(tmp_path / "tsne.png").size[0] > 1400
    with pytest.raises(InputError, match="2 to 20 classes apart, not 1"):
        plot_tsne(stores, dict.fromkeys(classes, "a"), tmp_path / "no.png")
    with pytest.raises(InputError, match="too few to draw"):
        plot_tsne(stores, {"v0": "a", "v1": "b"}, tmp_path / "no.png")


def test_similarities_of_pairs(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        vector = list(np.eye(12)[i])
        rows += [row(f"v{i}", "video", "video_text", vector), row(f"v{i}", "text", "video_text", vector, "x")]
    plot_similarities({"model": store(tmp_path / "store", rows)}, tmp_path / "sim.svg")
    said = (tmp_path / "sim.svg").read_text()
    assert "of one clip, mean 1.00" in said
    assert "random, mean 0.00" in said
    assert "0 clips have audio and video" in said


def test_activations_and_the_tradeoff(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    plot_activations({m: rng.normal(size=(4, 32)) for m in ("video", "text")}, tmp_path / "nodes.png", "noise")
    assert colours(tmp_path / "nodes.png") > 100
    points = [
        {"drop": drop, "gflops": 10 * (1 - drop), "metrics": {"text → video R@1": 50 + 10 * drop}}
        for drop in (0.75, 0.5, 0.0)
    ]
    plot_tradeoff(points, tmp_path / "drop.svg", "noise")
    said = (tmp_path / "drop.svg").read_text()
    assert all(text in said for text in ("<!-- 75 % -->", "<!-- 0 % -->", "GFLOPs", "text → video R@1"))


def test_every_node_of_a_wide_layer_leaves_a_trace(tmp_path: Path) -> None:
    """One block of 4,096 nodes in which every other one is active, beside one in which all are by half."""
    x = np.stack([np.arange(4096) % 2.0, np.full(4096, 0.5)])
    plot_activations({"video": x}, tmp_path / "nodes.png", clips={"video": 3})
    picture = np.asarray(Image.open(tmp_path / "nodes.png").convert("L")).astype(int)
    height, width = picture.shape
    left, right = picture[height // 3 : height // 2, width // 4], picture[height // 3 : height // 2, width // 2]
    assert abs(left.mean() - right.mean()) < 12
    assert left.std() < 40
