from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from vatt.models.positions import Positions, RelativeBias, spline_matrix
from vatt.models.tokenizers import VideoTokenizer


def polyharmonic(known: int, wanted: int, dtype: type = np.float64) -> np.ndarray:
    """The official code's formula: a polyharmonic spline of order 3 with a linear term, as a dense system."""
    x, q = (np.arange(known) / known).astype(dtype), (np.arange(wanted) / wanted).astype(dtype)

    def phi(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a * a)[:, None] - 2 * a[:, None] * b[None] + (b * b)[None]
        return np.maximum(squared, dtype(1e-10)) ** dtype(1.5)

    linear = np.stack([x, np.ones_like(x)], axis=1)
    system = np.block([[phi(x, x), linear], [linear.T, np.zeros((2, 2), dtype)]])
    weights = np.linalg.solve(system, np.concatenate([np.eye(known, dtype=dtype), np.zeros((2, known), dtype)]))
    return np.concatenate([phi(q, x), q[:, None], np.ones_like(q)[:, None]], axis=1) @ weights


@pytest.mark.parametrize(("known", "wanted"), [(4, 6), (14, 20), (8, 16), (20, 30), (14, 10), (2, 5), (3, 7)])
def test_the_spline_is_the_official_one(known: int, wanted: int) -> None:
    assert np.abs(spline_matrix(known, wanted).numpy() - polyharmonic(known, wanted)).max() < 1e-5


def test_what_single_precision_makes_of_the_official_formula() -> None:
    """The reason why the reference for longer sounds is met to 2e-3 only."""
    single = polyharmonic(20, 30, np.float32)
    assert 1e-4 < np.abs(single - polyharmonic(20, 30)).max() < 2e-2
    assert np.abs(polyharmonic(4, 6, np.float32) - polyharmonic(4, 6)).max() < 1e-5


@pytest.mark.parametrize(("known", "wanted"), [(8, 16), (14, 20), (1200, 2400)])
def test_between_the_places_it_is_the_natural_cubic_spline(known: int, wanted: int) -> None:
    table = np.random.default_rng(0).normal(size=(known, 3))
    at = np.arange(wanted) / wanted
    inside = at <= (known - 1) / known
    expected = CubicSpline(np.arange(known) / known, table, bc_type="natural")(at)
    found = spline_matrix(known, wanted).numpy() @ table
    assert np.abs(found - expected)[inside].max() < 1e-9
    # Beyond the last place it is straight.
    steps = np.diff(found[~inside], axis=0)
    assert np.abs(np.diff(steps, axis=0)).max(initial=0) < 1e-9


def test_the_spline_keeps_lines_and_its_own_places() -> None:
    line = torch.arange(10, dtype=torch.float64) / 10
    assert torch.allclose(spline_matrix(10, 25) @ line, torch.arange(25, dtype=torch.float64) / 25)
    assert torch.allclose(spline_matrix(6, 12)[::2], torch.eye(6, dtype=torch.float64), atol=1e-12)
    assert torch.equal(spline_matrix(7, 1), torch.eye(7, dtype=torch.float64)[:1])  # an image: the first place
    assert torch.equal(spline_matrix(1, 3), torch.ones(3, 1, dtype=torch.float64))


def test_positions_on_another_grid_are_read_from_the_resized_tables() -> None:
    positions = Positions([4, 3], 8)
    place = torch.tensor([[[5, 1, 0], [0, 4, 0]]])
    rows = spline_matrix(4, 6).float() @ positions.tables[0], spline_matrix(3, 5).float() @ positions.tables[1]
    expected = positions.norm(torch.stack([rows[0][5] + rows[1][1], rows[0][0] + rows[1][4]]))
    assert torch.allclose(positions(place, (6, 5))[0], expected, atol=1e-6)
    positions(place, (6, 5)).square()[..., 0].sum().backward()  # the sum of all that is normed would have no gradient
    assert all(table.grad.abs().sum() > 0 for table in positions.tables)


def test_what_is_kept_of_a_spline_serves_every_device_and_mode() -> None:
    positions = Positions([5], 8).double()
    place = torch.tensor([[[6, 0, 0]]])
    with torch.inference_mode():
        expected = positions(place, (7,)).clone()
    with torch.device("meta"):
        assert Positions([5], 8).double()(torch.zeros(1, 1, 3, dtype=torch.int64), (7,)).device.type == "meta"
        assert spline_matrix(5, 7).device.type == "cpu"
    found = positions(place, (7,))
    assert torch.equal(found, expected)
    found.sum().backward()


def test_the_papers_form_has_no_norm() -> None:
    positions = Positions([4, 3], 8, norm=False)
    found = positions(torch.tensor([[[2, 1, 0]]]))[0, 0]
    assert torch.allclose(found, positions.tables[0][2] + positions.tables[1][1])


def test_one_model_takes_longer_and_larger_videos_and_images() -> None:
    tokenizer = VideoTokenizer(8, grid=(2, 3, 3), patch=(4, 16, 16))
    assert tokenizer(torch.randn(2, 16, 3, 80, 64)).grid == (4, 5, 4)
    image = tokenizer(torch.randn(2, 4, 3, 48, 48))
    assert image.grid == (1, 3, 3)
    # The one place in time is the first of the table.
    tables = tokenizer.positions.tables
    first = tokenizer.positions.norm(tables[0][0] + tables[1][1] + tables[2][2])
    patch = tokenizer.patchify(torch.zeros(1, 4, 3, 48, 48))
    assert torch.allclose(tokenizer.positions(patch.position, patch.grid)[0, 5], first, atol=1e-6)


def test_distances_are_told_apart_as_t5_does() -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    bias = RelativeBias(heads=2, buckets=32, max_distance=64)
    distance = torch.arange(40)[None, :] - torch.arange(40)[:, None]
    expected = modeling.T5Attention._relative_position_bucket(distance, True, 32, 64)
    assert torch.equal(bias.bucket(distance), expected)
    found = bias(40)
    assert found.shape == (1, 2, 40, 40)
    assert found[0, 1, 3, 7] == bias.table.weight[expected[3, 7], 1]
