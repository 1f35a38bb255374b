"""Scenes: what is said to be known is what is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vatt.datasets.manifest import read_manifest
from vatt.errors import InputError
from vatt.preparation.scenes import (
    FOCAL,
    FRAMES,
    POINTS,
    SHAPES,
    SIZE,
    WALL,
    ScenePlan,
    draw_scene,
    read_truth,
    write_scenes,
)


@pytest.fixture(scope="module", params=range(4))
def scene(request: pytest.FixtureRequest):
    return draw_scene(np.random.default_rng(request.param))


def test_it_begins_where_the_camera_is_and_ends_at_the_wall(scene) -> None:
    assert np.abs(scene.camera[0]).max() < 1e-6
    wall = scene.shape == 0
    away = np.broadcast_to(WALL - scene.camera[:, 2, None, None], scene.depth.shape)
    assert np.abs(scene.depth[wall] - away[wall]).max() < 1e-4
    assert (scene.depth[~wall] < away[~wall]).all()
    assert scene.depth.min() > 0.5


def test_later_numbers_are_nearer(scene) -> None:
    for t in range(FRAMES):
        depths = [scene.depth[t][scene.shape[t] == number] for number in range(1 + SHAPES)]
        shown = [float(d[0]) for d in depths if len(d)]
        assert shown == sorted(shown, reverse=True)
        for d in depths:
            assert len(d) == 0 or np.ptp(d) < 1e-4  # flat, and before the camera


def test_boxes_hold_their_shapes(scene) -> None:
    """The nearest shape is hidden by nothing, so that its box is tight, to a pixel, unless it leaves the picture."""
    for t in range(FRAMES):
        for number in range(1, 1 + SHAPES):
            rows, columns = np.nonzero(scene.shape[t] == number)
            if not len(rows):
                continue
            seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            box = scene.boxes[t, number - 1] * SIZE
            assert (seen[:2] >= box[:2] - 1).all()
            assert (seen[2:] <= box[2:] + 1).all()
            if number == SHAPES:
                assert np.abs(seen - box).max() < 2.5


def test_points_stay_on_what_they_are_of(scene) -> None:
    """A visible point has the colour, to interpolation, and the number of the shape that it had in the first frame."""
    assert scene.visible[0].all()
    assert scene.points.shape == (FRAMES, POINTS, 2)
    at = (scene.points * SIZE).astype(int).clip(0, SIZE - 1)
    first = scene.shape[0][at[0, :, 1], at[0, :, 0]]
    for t in range(FRAMES):
        here = scene.shape[t][at[t, :, 1], at[t, :, 0]]
        assert (here[scene.visible[t]] == first[scene.visible[t]]).all()
        outside = ((scene.points[t] < 0) | (scene.points[t] > 1)).any(axis=1)
        assert not scene.visible[t][outside].any()
    # A point of the wall moves as the camera's way says.
    for p in np.flatnonzero(first == 0):
        world = (scene.points[0, p] * 2 - 1) * WALL / FOCAL
        wanted = FOCAL * (world - scene.camera[:, :2]) / (WALL - scene.camera[:, 2:])
        assert np.abs((wanted + 1) / 2 - scene.points[:, p]).max() < 1e-5


def test_they_are_written_and_read(tmp_path: Path) -> None:
    plan = ScenePlan(3, 2)
    manifest = write_scenes(tmp_path, plan, num_workers=1)
    clips = read_manifest(manifest)
    assert [clip.split for clip in clips] == ["train"] * 3 + ["test"] * 2
    known = read_truth(manifest, "train-0")
    again = draw_scene(np.random.default_rng([0, False, 0]))
    assert np.array_equal(known["shape"], again.shape)
    assert np.array_equal(known["camera"], again.camera)
    assert not np.array_equal(known["camera"], read_truth(manifest, "test-0")["camera"])
    before = (tmp_path / "clips" / "train-0.mp4").stat().st_mtime_ns
    write_scenes(tmp_path, plan, num_workers=1)
    assert (tmp_path / "clips" / "train-0.mp4").stat().st_mtime_ns == before
    stamp = tmp_path / "scenes.json"  # of the same plan, drawn as scenes once were
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"drawing": 1}))
    write_scenes(tmp_path, plan, num_workers=1)
    assert (tmp_path / "clips" / "train-0.mp4").stat().st_mtime_ns > before
    with pytest.raises(FileNotFoundError, match="nothing is known of scene other"):
        read_truth(manifest, "other")
    with pytest.raises(InputError, match="cannot be negative"):
        ScenePlan(-1)
