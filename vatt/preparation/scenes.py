"""Scenes whose depth, camera, points and boxes are known: flat shapes that move in space before a moving camera.

A pinhole camera that does not turn looks along Z. A point (X, Y, Z) is seen at u = F (X - cx) / (Z - cz) and v
likewise, both from -1 to 1 in the picture, down being positive. (cx, cy, cz) is where the camera is: (0, 0, 0) in the
first frame. A chequered wall stands at Z = 10; before it shapes, each in a plane of its own, move within it, all of
about the same true size: what is farther away looks smaller.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vatt.datasets.manifest import write_manifest
from vatt.errors import InputError
from vatt.io import atomic_write
from vatt.media.encoding import write_media
from vatt.preparation.drawing import draw_all
from vatt.structures import Clip

FRAMES, FPS, SIZE = 16, 10, 64
FOCAL, WALL = 2.0, 10.0
TILE, CONTRAST = 2.5, 0.08  # of the wall, and of the waves on shapes
SHAPES, POINTS = 3, 12  # of a scene
DRAWING = 2  # raised whenever scenes of the same plan look otherwise
TRUTH = "truth"  # folder of what is known, beside clips


@dataclass(frozen=True)
class ScenePlan:
    """How many scenes there are.

    Args:
        num_train, num_test: of each split.
        seed: of everything.
    """

    num_train: int = 1_500
    num_test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_test) < 0:
            raise InputError(f"numbers of scenes cannot be negative: {self}")


@dataclass(frozen=True)
class Scene:
    """A scene as it is seen, and what is known about it. T frames of H x W pixels, K shapes, P points.

    Attributes:
        frames: (T, H, W, 3) uint8.
        depth: (T, H, W) float32, distance along Z from the camera.
        shape: (T, H, W) uint8, number of the shape that is seen, from 1, farthest first; 0 is the wall.
        camera: (T, 3) float32, where the camera is.
        boxes: (T, K, 4) float32, left, top, right and bottom of the whole shapes in [0, 1], cut at the edges.
        points: (T, P, 2) float32, x and y in [0, 1] of points of shapes and wall, all visible in the first frame; what
            has left the picture is outside.
        visible: (T, P) bool: in the picture, and nothing is before it.
    """

    frames: np.ndarray
    depth: np.ndarray
    shape: np.ndarray
    camera: np.ndarray
    boxes: np.ndarray
    points: np.ndarray
    visible: np.ndarray


def draw_scene(rng: np.random.Generator) -> Scene:
    """A scene, of random numbers alone."""
    t = np.arange(FRAMES) / (FRAMES - 1)
    camera = _camera(t, rng)
    depths = np.sort(rng.choice(np.arange(3.5, 8.5, 0.5), SHAPES, replace=False))[::-1]
    pixel = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    v, u = np.meshgrid(pixel, pixel, indexing="ij")
    frames = np.zeros((FRAMES, SIZE, SIZE, 3))
    depth, shape = np.zeros((FRAMES, SIZE, SIZE)), np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    bodies = [_Body(0, WALL, np.zeros((FRAMES, 2)), np.inf, 2.0, _Tiles(rng))]
    bodies += [_body(number, z, t, rng) for number, z in enumerate(depths, start=1)]
    for body in bodies:  # farthest first: what comes later hides it
        away = body.z - camera[:, 2, None, None]
        x, y = u * away / FOCAL + camera[:, 0, None, None], v * away / FOCAL + camera[:, 1, None, None]
        x, y = x - body.centre[:, 0, None, None], y - body.centre[:, 1, None, None]
        inside = body.contains(x, y)
        frames[inside] = body.texture(x[inside], y[inside])
        depth[inside] = np.broadcast_to(away, depth.shape)[inside]
        shape[inside] = body.number
    boxes = np.stack([body.box(camera) for body in bodies[1:]], axis=1)
    points, visible = _points(bodies, camera, shape, rng)
    single = {"depth": depth, "camera": camera, "boxes": boxes, "points": points}
    return Scene(
        frames=(frames.clip(0, 1) * 255).round().astype(np.uint8), shape=shape, visible=visible,
        **{name: x.astype(np.float32) for name, x in single.items()},
    )  # fmt: skip


def write_scenes(output: str | Path, plan: ScenePlan = ScenePlan(), num_workers: int | None = None) -> Path:
    """Write ``clips/*.mp4``, ``truth/*.npz`` and ``manifest.jsonl``. What is there already, by the same plan, is kept.

    Args:
        output: folder.
        plan: what it consists of.
        num_workers: processes; one per CPU unless given, and none beside this one for 1.

    Returns:
        Path of the manifest.
    """
    output = Path(output)
    manifest, stamp = output / "manifest.jsonl", output / "scenes.json"
    told = asdict(plan) | {"drawing": DRAWING}
    if manifest.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == told:
        print(f"{output}: the scenes are there already")
        return manifest
    for name in ("clips", TRUTH):
        (output / name).mkdir(parents=True, exist_ok=True)
    counts = {"train": plan.num_train, "test": plan.num_test}
    jobs = [(output, split, number, plan.seed) for split, count in counts.items() for number in range(count)]
    write_manifest(draw_all(_write, jobs, num_workers), manifest)
    with atomic_write(stamp, "w") as file:
        json.dump(told, file)
    return manifest


def read_truth(manifest: str | Path, name: str) -> dict[str, np.ndarray]:
    """What is known of a scene: the fields of `Scene` but for its frames.

    Raises:
        FileNotFoundError: nothing is.
    """
    file = Path(manifest).parent / TRUTH / f"{name}.npz"
    if not file.is_file():
        raise FileNotFoundError(f"nothing is known of scene {name}: there is no {file}")
    with np.load(file) as known:
        return {key: known[key] for key in known.files}


def _write(job: tuple[Path, str, int, int]) -> Clip:
    output, split, number, seed = job
    scene = draw_scene(np.random.default_rng([seed, split == "test", number]))
    name = f"{split}-{number}"
    write_media(output / "clips" / f"{name}.mp4", scene.frames, FPS, crf=12)
    known = {key: x for key, x in vars(scene).items() if key != "frames"}
    with atomic_write(output / TRUTH / f"{name}.npz") as file:
        np.savez_compressed(file, **known)
    return Clip(id=name, path=str(output / "clips" / f"{name}.mp4"), split=split)


class _Texture:
    """Waves of colour over a plane."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.tone = rng.uniform(0.15, 0.85, 3)
        self.waves = rng.normal(0, 2.5, (6, 2))
        self.phases, self.colours = rng.uniform(0, 2 * np.pi, 6), rng.uniform(-CONTRAST, CONTRAST, (6, 3))

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N,) places to (N, 3)."""
        picture = np.repeat(self.tone[None], len(x), axis=0)
        # One by one: threads of a matrix library would wait for each other beside other work.
        for (along, down), phase, colour in zip(self.waves, self.phases, self.colours, strict=True):
            picture += np.cos(along * x + down * y + phase)[:, None] * colour
        return picture


class _Tiles:
    """A chequered plane in two colours, whose edges are soft so that small movements are seen."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.colours = rng.uniform(0.15, 0.85, (2, 3))
        self.begin = rng.uniform(0, TILE, 2)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N,) places to (N, 3)."""
        waves = [np.sin(np.pi * (at - begin) / TILE) for at, begin in zip((x, y), self.begin, strict=True)]
        share = (1 + np.tanh(5 * waves[0] * waves[1])) / 2
        return share[:, None] * self.colours[0] + (1 - share[:, None]) * self.colours[1]


@dataclass(frozen=True)
class _Body:
    number: int
    z: float
    centre: np.ndarray  # (T, 2)
    radius: float
    power: float  # 1 is a diamond, 2 a disc, many a square
    texture: _Texture | _Tiles

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Places as seen from the centre."""
        if np.isinf(self.radius):
            return np.ones(x.shape, bool)
        return (np.abs(x / self.radius) ** self.power + np.abs(y / self.radius) ** self.power) < 1

    def box(self, camera: np.ndarray) -> np.ndarray:
        """(T, 4) in [0, 1]."""
        away = self.z - camera[:, 2:]
        middle = FOCAL * (self.centre - camera[:, :2]) / away
        half = FOCAL * self.radius / away
        return (np.concatenate([middle - half, middle + half], axis=1).clip(-1, 1) + 1) / 2


def _camera(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 3) along a smooth path."""
    reach = np.array([1.6, 1.6, 1.6])
    way, swing = rng.uniform(-1, 1, 3) * reach, rng.uniform(-0.3, 0.3, 3) * reach
    return t[:, None] * way + np.sin(np.pi * t)[:, None] * swing


def _body(number: int, z: float, t: np.ndarray, rng: np.random.Generator) -> _Body:
    """A shape that is in the middle of the picture in the middle of the scene, or near it."""
    unit = z / FOCAL  # of the plane, for 1 in the picture
    radius = rng.uniform(0.8, 1.1)  # what is farther away looks smaller
    start, way = rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.5, 0.5, 2)
    centre = (start + (t[:, None] - 0.5) * way) * unit
    power = float(rng.choice([1.0, 2.0, 8.0]))
    return _Body(number, z, centre, radius, power, _Texture(rng))


def _points(
    bodies: list[_Body], camera: np.ndarray, shape: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the first frame, equally many of shapes and wall as far as there are, followed through the scene."""
    weight = np.bincount(shape[0].ravel(), minlength=len(bodies))
    chance = 1.0 / weight[shape[0].ravel()]
    chosen = rng.choice(SIZE * SIZE, POINTS, replace=False, p=chance / chance.sum())
    rows, columns = np.divmod(chosen, SIZE)
    points = np.zeros((FRAMES, POINTS, 2))
    visible = np.zeros((FRAMES, POINTS), bool)
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        body = bodies[shape[0, row, column]]
        first = (np.array([column, row]) + 0.5) / SIZE * 2 - 1
        on_body = first * (body.z - camera[0, 2]) / FOCAL + camera[0, :2] - body.centre[0]
        seen = FOCAL * (on_body + body.centre - camera[:, :2]) / (body.z - camera[:, 2:])
        points[:, place] = (seen + 1) / 2
        inside = (np.abs(seen) < 1).all(axis=1)
        at = (points[:, place] * SIZE).astype(int).clip(0, SIZE - 1)
        visible[:, place] = inside & (shape[np.arange(FRAMES), at[:, 1], at[:, 0]] == body.number)
    return points, visible
