from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from vatt.datasets.manifest import read_manifest
from vatt.media.decoding import open_media
from vatt.preparation.synthetic import (
    BODIES_HZ,
    COLOURS,
    SAMPLE_RATE,
    Attributes,
    Plan,
    captions,
    combinations,
    draw_beat,
    render_frames,
    render_sound,
    synthesize,
)

SMALL = Plan(clips_per_combination=2, num_test=3, num_val=2, num_train=2, seed=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    synthesize(folder, SMALL, num_workers=1)
    return folder


def test_splits_share_no_combination_and_captions_of_the_test_differ() -> None:
    by_split: dict[str, list[Attributes]] = {}
    for what, split, _, _ in Plan().clips():
        by_split.setdefault(split, []).append(what)
    assert {split: len(found) for split, found in by_split.items()} == {"test": 216, "val": 60, "train": 3 * 480}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not set(by_split[a]) & set(by_split[b])
    said = {captions(what, np.random.default_rng(0))[0] for what in by_split["test"]}
    assert len(said) == 216


def test_the_manifest_says_what_the_plan_says(corpus: Path) -> None:
    clips = read_manifest(corpus / "manifest.jsonl")
    assert [(clip.split, clip.id.rpartition("-")[2]) for clip in clips] == [
        *[("test", "0")] * 3,
        *[("val", "0")] * 2,
        *[("train", take) for _ in range(2) for take in "01"],
    ]
    for clip, (what, _, _, _) in zip(clips, SMALL.clips(), strict=True):
        assert clip.extra == {f"x_{k}": v for k, v in asdict(what).items()}
        assert clip.texts[0].text.split()[:3] == ["an" if what.colour == "orange" else "a", what.colour, what.shape]
        assert len(clip.texts) == 3


def test_files_are_real_video_with_sound(corpus: Path) -> None:
    clip = read_manifest(corpus / "manifest.jsonl")[0]
    with open_media(clip.path) as media:
        info = media.info
        assert (info.video_codec, info.audio_codec) == ("h264", "aac")
        assert info.duration_s == pytest.approx(2.0, abs=0.1)
        frames, sound = media.frames([0.2, 1.8]).frames, media.waveform(0.2, 1.6, 8000)
    assert frames.float().std() > 5
    assert sound.coverage() > 0.95
    assert sound.samples.abs().max() > 0.1


def test_a_second_call_keeps_the_corpus(corpus: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path: path.stat().st_mtime_ns for path in (corpus / "clips").iterdir()}
    synthesize(corpus, SMALL)
    assert "there already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (corpus / "clips").iterdir()}
    assert json.loads((corpus / "corpus.json").read_text())["seed"] == 1


def test_another_plan_in_the_same_folder_is_written(tmp_path: Path) -> None:
    plan = Plan(clips_per_combination=1, num_test=1, num_val=0, num_train=1, seed=1)
    first = synthesize(tmp_path, plan, num_workers=1).read_text()
    assert synthesize(tmp_path, replace(plan, seed=2), num_workers=1).read_text() != first
    assert synthesize(tmp_path, plan, num_workers=1).read_text() == first


def test_the_same_seed_draws_the_same_clip() -> None:
    what = Attributes("red", "ring", "left", "fast")

    def draw(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        rng = np.random.default_rng(seed)
        beat = draw_beat(what, rng)
        return render_frames(what, beat, rng), render_sound(what, beat, rng), captions(what, rng)

    a, b, c = draw(1), draw(1), draw(2)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])
    assert a[2] == b[2]
    assert not np.array_equal(a[0], c[0])


def centre(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the red of a picture lies, over time, in fractions of it."""
    x = frames.astype(np.float64)
    red = np.clip(x[..., 0] - np.maximum(x[..., 1], x[..., 2]) - 60, 0, None)
    grid = np.arange(frames.shape[1]) / frames.shape[1]
    return (red.sum(1) * grid).sum(1) / red.sum((1, 2)), (red.sum(2) * grid).sum(1) / red.sum((1, 2))


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)])
def test_motion_is_seen_and_fast_is_faster(motion: str, axis: int, sign: int) -> None:
    ways = {}
    for speed in ("slow", "fast"):
        what = Attributes("red", "circle", motion, speed)
        rng = np.random.default_rng(0)
        place = centre(render_frames(what, draw_beat(what, rng), rng))[axis]
        ways[speed] = (place[-1] - place[0]) * sign
    assert 0.2 < ways["slow"] < 0.45 < ways["fast"]


def test_the_sound_tells_shape_and_motion_but_not_colour() -> None:
    def spectrum(what: Attributes, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return np.abs(np.fft.rfft(render_sound(what, draw_beat(what, rng), rng)))

    for shape, body_hz in BODIES_HZ.items():
        power = spectrum(Attributes("red", shape, "grow", "fast"), 0)
        bands = {name: power[int(hz * 2) - 40 : int(hz * 2) + 40].sum() for name, hz in BODIES_HZ.items()}
        assert max(bands, key=bands.get) == shape, (body_hz, bands)
    first, second = (spectrum(Attributes(c, "ring", "left", "slow"), 3) for c in ("red", "blue"))
    assert np.allclose(first, second)
    tones = {m: spectrum(Attributes("red", "ring", m, "slow"), 0)[: 2 * 950].argmax() / 2 for m in ("left", "right")}
    assert tones["left"] == pytest.approx(220, abs=5)
    assert tones["right"] == pytest.approx(392, abs=5)


def test_flashes_follow_the_beat() -> None:
    what = Attributes("red", "circle", "left", "slow")
    rng = np.random.default_rng(4)
    beat = draw_beat(what, rng)
    frames = render_frames(what, beat, rng).astype(np.float64)
    seen = np.quantile(frames[..., 0] - frames[..., 1:].max(axis=-1), 0.98, axis=(1, 2))
    since = beat.since(np.arange(len(frames)) / 10)
    assert np.corrcoef(seen, np.exp(-since / 0.08))[0, 1] > 0.8


def test_all_combinations_are_there() -> None:
    assert len(combinations()) == len(set(combinations())) == 756
    assert len({what.colour for what in combinations()}) == len(COLOURS)
    assert 2 * max(BODIES_HZ.values()) <= SAMPLE_RATE


def test_more_than_there_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asks for 800 combinations of 756"):
        synthesize(tmp_path, Plan(num_test=500, num_val=0, num_train=300))


def test_captions_never_name_another_attribute() -> None:
    rng = np.random.default_rng(0)
    colours = set(COLOURS)
    for what in combinations()[::7]:
        for text in captions(what, rng):
            assert colours & set(text.split()) == {what.colour}
