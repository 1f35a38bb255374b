"""A corpus to try everything on: drawn shapes that move, with a sound that follows what is seen, as real MP4 files.

Four attributes make a clip: colour, shape, motion and speed. The caption names all of them. The sound has its timbre
from the shape, its pitch and contour from the motion and its rhythm from the speed; the beats, whose rate and phase
differ from clip to clip, are seen as flashes. Backgrounds, distractors, sizes, places, loudness and noise are drawn
independently of all that. No combination of the four attributes is in more than one split.
"""

from __future__ import annotations

import colorsys
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vatt.datasets.manifest import write_manifest
from vatt.errors import InputError
from vatt.io import atomic_write
from vatt.media.encoding import write_media
from vatt.preparation.drawing import draw_all
from vatt.structures import Clip, TimedText

SIZE, FPS, SAMPLE_RATE, DURATION_S = 96, 10, 16_000, 2.0
FRAMES, SAMPLES = round(FPS * DURATION_S), round(SAMPLE_RATE * DURATION_S)

# hue, saturation, value
COLOURS = {
    "red": (0.0, 0.9, 0.9),
    "orange": (0.08, 1.0, 1.0),
    "yellow": (0.15, 0.9, 1.0),
    "green": (0.36, 0.9, 0.75),
    "cyan": (0.5, 0.8, 0.95),
    "blue": (0.62, 0.9, 0.95),
    "purple": (0.78, 0.8, 0.8),
    "white": (0.0, 0.0, 1.0),
    "black": (0.0, 0.0, 0.04),
}
SHAPES = {
    "circle": ("circle", "disc"),
    "ring": ("ring", "hoop"),
    "bar": ("bar", "lying stick"),
    "pole": ("pole", "standing stick"),
    "slash": ("slash", "leaning stick"),
    "ladder": ("ladder", "stack of steps"),
}
MOTIONS = {
    "left": ("moves left", "slides to the left", "drifts leftwards"),
    "right": ("moves right", "slides to the right", "drifts rightwards"),
    "up": ("moves up", "climbs to the top", "rises"),
    "down": ("moves down", "sinks to the bottom", "falls"),
    "round": ("goes round", "orbits the middle", "runs in a loop"),
    "grow": ("grows", "gets bigger", "swells"),
    "shrink": ("shrinks", "gets smaller", "dwindles"),
}
SPEEDS = {
    "slow": ("slowly", "at a slow pace", "without haste"),
    "fast": ("quickly", "at a fast pace", "in a hurry"),
}

BODIES_HZ = {"circle": 1000.0, "ring": 1400.0, "bar": 1850.0, "pole": 2400.0, "slash": 3000.0, "ladder": 3600.0}


@dataclass(frozen=True)
class Attributes:
    """What a clip shows."""

    colour: str
    shape: str
    motion: str
    speed: str


def combinations() -> list[Attributes]:
    """All 756 combinations."""
    return [Attributes(*values) for values in itertools.product(COLOURS, SHAPES, MOTIONS, SPEEDS)]


def captions(what: Attributes, rng: np.random.Generator) -> list[str]:
    """The plain caption first, then two in other words."""
    colour, one = what.colour, "an" if what.colour == "orange" else "a"

    def words() -> tuple[str, str, str]:
        return tuple(rng.choice(table) for table in (SHAPES[what.shape], MOTIONS[what.motion], SPEEDS[what.speed]))

    (shape1, motion1, speed1), (shape2, motion2, speed2) = words(), words()
    return [
        f"{one} {colour} {what.shape} {MOTIONS[what.motion][0]} {SPEEDS[what.speed][0]}",
        f"{speed1} {one} {colour} {shape1} {motion1}",
        f"the {shape2} is {colour} and {motion2} {speed2}",
    ]


@dataclass(frozen=True)
class Beat:
    """When the notes of a clip begin: the rhythm that is heard and seen."""

    rate: float  # per second
    phase_s: float  # of the first one

    def since(self, t: np.ndarray) -> np.ndarray:
        """Seconds since the last beat."""
        return np.mod(t - self.phase_s, 1.0 / self.rate)


def draw_beat(what: Attributes, rng: np.random.Generator) -> Beat:
    """Slow is 2 to 3 beats a second, fast 5 to 7."""
    rate = rng.uniform(2.0, 3.0) if what.speed == "slow" else rng.uniform(5.0, 7.0)
    return Beat(rate, rng.uniform(0.0, 1.0 / rate))


def render_frames(what: Attributes, beat: Beat, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    t = np.arange(FRAMES) / FPS
    x, y, radius = _path(what, t, rng)
    grid = (np.arange(SIZE) + 0.5) / SIZE
    dx = (grid[None, None, :] - x[:, None, None]) / radius[:, None, None]
    dy = (grid[None, :, None] - y[:, None, None]) / radius[:, None, None]
    tilt = rng.uniform(-0.15, 0.15)
    dx, dy = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    edge = radius[:, None, None] * SIZE  # one pixel of antialiasing
    alpha = np.clip(0.5 - _distance(what.shape, dx, dy) * edge, 0.0, 1.0)[..., None]
    hue, saturation, value = COLOURS[what.colour]
    hsv = (hue + rng.uniform(-0.012, 0.012), saturation * rng.uniform(0.9, 1.0), value * rng.uniform(0.92, 1.0))
    flash = 0.55 + 0.45 * np.exp(-beat.since(t) / 0.08)
    colour = np.array(colorsys.hsv_to_rgb(hsv[0] % 1.0, hsv[1], hsv[2]))
    shape = colour * flash[:, None, None, None]
    picture = (1 - alpha) * _background(rng) + alpha * shape
    picture = picture * 255 + rng.normal(0.0, 6.0, (FRAMES, SIZE, SIZE, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def render_sound(what: Attributes, beat: Beat, rng: np.random.Generator) -> np.ndarray:
    """(S,) float32 in [-1, 1]: a tone whose pitch tells the motion, and strokes on a body that tells the shape."""
    t = np.arange(SAMPLES) / SAMPLE_RATE
    beats = np.floor((t - beat.phase_s) * beat.rate).astype(int)
    phase = 2 * np.pi * np.cumsum(_pitch(what.motion, t, beats)) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    loud = {"grow": np.linspace(0.3, 1.0, SAMPLES), "shrink": np.linspace(1.0, 0.3, SAMPLES)}
    tone = (np.sin(phase) + 0.3 * np.sin(2 * phase)) * loud.get(what.motion, 0.7)
    since = beat.since(t)
    stroke = np.sin(2 * np.pi * BODIES_HZ[what.shape] * since) * np.minimum(since / 0.002, 1.0) * np.exp(-since / 0.08)
    wave = 0.5 * tone + stroke
    wave = wave / np.abs(wave).max() * 10 ** (rng.uniform(-8.0, 0.0) / 20) * 0.9
    noise = rng.normal(0.0, 1.0, SAMPLES) * 10 ** (rng.uniform(-46.0, -34.0) / 20)
    return np.clip(wave + noise, -1.0, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Plan:
    """What a corpus consists of.

    Args:
        clips_per_combination: training clips of each combination; validation and test have one.
        num_test: combinations, and so clips with captions of their own, that are kept for the test.
        num_val: combinations for validation.
        num_train: combinations for training; all the others unless given.
        seed: of everything.
    """

    clips_per_combination: int = 3
    num_test: int = 216
    num_val: int = 60
    num_train: int | None = None
    seed: int = 0

    def clips(self) -> list[tuple[Attributes, str, int, int]]:
        """Attributes, split, number of the combination and take, for every clip."""
        everything = combinations()
        held = self.num_test + self.num_val
        train = len(everything) - held if self.num_train is None else self.num_train
        if min(self.num_test, self.num_val, train) < 0 or held + train > len(everything):
            raise InputError(f"{self} asks for {held + train} combinations of {len(everything)}")
        order = np.random.default_rng(self.seed).permutation(len(everything)).tolist()
        clips = []
        for place, number in enumerate(order[: held + train]):
            split = "test" if place < self.num_test else "val" if place < held else "train"
            for take in range(self.clips_per_combination if split == "train" else 1):
                clips.append((everything[number], split, number, take))
        return clips


def synthesize(output: str | Path, plan: Plan = Plan(), num_workers: int | None = None) -> Path:
    """Write a corpus: ``clips/*.mp4`` and ``manifest.jsonl``. What is there already, by the same plan, is kept.

    Args:
        output: folder.
        plan: what it consists of.
        num_workers: processes; one per CPU unless given, and none beside this one for 1.

    Returns:
        Path of the manifest.

    Raises:
        InputError: the plan asks for more combinations than there are.
    """
    output = Path(output)
    manifest, stamp = output / "manifest.jsonl", output / "corpus.json"
    if manifest.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == asdict(plan):
        print(f"{output}: the corpus is there already")
        return manifest
    (output / "clips").mkdir(parents=True, exist_ok=True)
    jobs = [(output, *clip, plan.seed) for clip in plan.clips()]
    write_manifest(draw_all(_make_clip, jobs, num_workers), manifest)
    with atomic_write(stamp, "w") as file:
        json.dump(asdict(plan), file)
    return manifest


def _make_clip(job: tuple[Path, Attributes, str, int, int, int]) -> Clip:
    output, what, split, number, take, seed = job
    rng = np.random.default_rng([seed, number, take])
    name = f"{what.colour}-{what.shape}-{what.motion}-{what.speed}-{take}"
    path = output / "clips" / f"{name}.mp4"
    beat = draw_beat(what, rng)
    frames, sound = render_frames(what, beat, rng), render_sound(what, beat, rng)
    write_media(path, frames, FPS, sound, SAMPLE_RATE, crf=26)
    texts = tuple(TimedText(text) for text in captions(what, rng))
    extra = {f"x_{key}": value for key, value in asdict(what).items()}
    return Clip(id=name, path=str(path), texts=texts, split=split, extra=extra)


def _path(what: Attributes, t: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and radius of the shape over time, in fractions of the picture."""
    fast = what.speed == "fast"
    size = rng.uniform(0.2, 0.26)
    done = t / DURATION_S - 0.5  # from -0.5 to 0.5
    x, y = np.full_like(t, rng.uniform(0.38, 0.62)), np.full_like(t, rng.uniform(0.38, 0.62))
    radius = np.full_like(t, size)
    if what.motion in ("left", "right", "up", "down"):
        way = rng.uniform(0.64, 0.72) if fast else rng.uniform(0.32, 0.38)
        along, sign = (x, what.motion) if what.motion in ("left", "right") else (y, what.motion)
        along += (way if sign in ("right", "down") else -way) * done - (along - 0.5) * (0.8 if fast else 0.0)
    elif what.motion == "round":
        angle = 2 * np.pi * ((1.6 if fast else 0.55) * t / DURATION_S + rng.uniform())
        x, y = 0.5 + 0.24 * np.cos(angle), 0.5 + 0.24 * np.sin(angle)
    else:
        factor = np.exp((1.6 if fast else 0.7) * done)
        radius = 0.22 * (factor if what.motion == "grow" else 1 / factor)
    return x, y, radius


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Below 0 inside the shape, in units of its radius; y points down."""
    r = np.hypot(x, y)
    if shape == "circle":
        return r - 1.0
    if shape == "ring":
        return np.abs(r - 0.78) - 0.24
    if shape == "ladder":
        rung = np.abs(np.mod(y + 1.0, 0.8) - 0.2) - 0.2
        return np.maximum(np.maximum(np.abs(x) - 0.85, np.abs(y + 0.0) - 1.0), rung)
    if shape == "slash":
        x, y = (x - y) / np.sqrt(2), (x + y) / np.sqrt(2)
    long, short = (np.abs(y), np.abs(x)) if shape == "pole" else (np.abs(x), np.abs(y))
    return np.maximum(long - 1.15, short - 0.36)


def _background(rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3): a dull gradient with blobs, and small bright dots in the colours of the shapes."""
    grid = np.linspace(-1, 1, SIZE)
    across, down = np.meshgrid(grid, grid)
    tone = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.4, 0.6)))
    other = np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.4, 0.6)))
    angle = rng.uniform(0, 2 * np.pi)
    mix = 0.5 + 0.35 * (across * np.cos(angle) + down * np.sin(angle))
    for _ in range(3):
        cx, cy, width = *rng.uniform(-1, 1, 2), rng.uniform(0.2, 0.5)
        mix = mix + rng.uniform(-0.5, 0.5) * np.exp(-((across - cx) ** 2 + (down - cy) ** 2) / width**2)
    picture = tone + np.clip(mix, 0, 1)[..., None] * (other - tone)
    for colour in rng.choice(list(COLOURS), 3):
        cx, cy = rng.uniform(-0.95, 0.95, 2)
        dot = np.clip((0.05 - np.hypot(across - cx, down - cy)) * SIZE / 2, 0, 1)[..., None]
        picture = (1 - dot) * picture + dot * 0.8 * np.array(colorsys.hsv_to_rgb(*COLOURS[str(colour)]))
    return picture


def _pitch(motion: str, t: np.ndarray, note: np.ndarray) -> np.ndarray:
    """Frequency in Hz at every sample."""
    done = t / DURATION_S
    if motion == "left":
        return np.full_like(t, 220.0)
    if motion == "right":
        return np.full_like(t, 392.0)
    if motion == "up":
        return 260.0 * 2 ** (1.3 * done)
    if motion == "down":
        return 640.0 * 2 ** (-1.3 * done)
    if motion == "round":
        return 520.0 * 2 ** (0.25 * np.sin(2 * np.pi * 3.0 * t))
    return np.full_like(t, 150.0 if motion == "grow" else 880.0)
