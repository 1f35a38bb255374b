from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vatt.errors import InputError
from vatt.evaluation import linear_probe as probe
from vatt.evaluation.linear_probe import KINDS, fit_and_score, subsets


def clouds(clips: int, classes: int, apart: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips of each class around a point of their own, features of very different sizes."""
    rng = np.random.default_rng(seed)
    target = np.arange(clips) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 8)) * apart
    return (centres[target] + rng.normal(size=(clips, 8))) * 10.0 ** np.arange(-4, 4), target


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_classes_that_lie_apart_are_told_apart(kind: str) -> None:
    (x, y), (x_test, y_test) = clouds(60, 3, 6.0, 0), clouds(90, 3, 6.0, 1)
    scores, chosen = fit_and_score(kind, x, y, x_test, 3)
    assert (scores.argmax(axis=1) == y_test).mean() > 0.97
    assert set(chosen) == {"C"}
    noise = np.random.default_rng(0).permutation(y)
    assert (fit_and_score(kind, x, noise, x_test, 3)[0].argmax(axis=1) == y_test).mean() < 0.6


def test_neighbours_are_those_of_smallest_angle() -> None:
    x, y = np.array([[1.0, 0], [0, 1], [10, 1], [1, 9]]), np.array([0, 1, 0, 1])
    scores, chosen = fit_and_score("knn", x, y, np.array([[0.1, 0.0], [0.0, 50.0]]), 2)
    assert scores.argmax(axis=1).tolist() == [0, 1]
    assert chosen == {}  # two clips of each class are too few to choose by


def test_a_rare_class_does_not_end_the_choice_for_all_others() -> None:
    x, y = clouds(60, 3, 1.0, 0)
    x, y = np.concatenate([x, x[:2] + 50]), np.concatenate([y, [3, 3]])
    scores, chosen = fit_and_score("linear", x, y, x, 4)
    assert set(chosen) == {"C"}
    assert scores.argmax(axis=1)[-2:].tolist() == [3, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [(0, 2), (1, 2, 4)])
def test_a_class_without_training_clips_is_never_found(kind: str, there: tuple[int, ...]) -> None:
    x, y = clouds(30, len(there), 5.0, 0)
    scores, _ = fit_and_score(kind, x, np.array(there)[y], x, 5)
    assert scores.shape == (30, 5)
    assert set(scores.argmax(axis=1)) <= set(there)


def test_what_cannot_be_trained_is_said() -> None:
    x = np.zeros((4, 2))
    with pytest.raises(InputError, match="one class"):
        fit_and_score("linear", x, np.zeros(4, int), x, 3)
    with pytest.raises(InputError, match="no probe 'forest'"):
        fit_and_score("forest", x, np.arange(4), x, 4)


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), share=st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=40)
def test_parts_of_the_labels_have_the_same_share_of_every_class(counts: list[int], share: float) -> None:
    target = np.repeat(np.arange(len(counts)), counts)
    parts = list(subsets(target, share, (0, 1, 0)))
    for part in parts:
        assert len(set(part)) == len(part)
        found = np.bincount(target[part], minlength=len(counts))
        assert found.tolist() == [max(1, round(share * count)) for count in counts]
    assert np.array_equal(parts[0], parts[2])
    with pytest.raises(InputError, match="share"):
        next(subsets(target, 1.5, (0,)))


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_what_did_not_converge_is_told_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(60, 8)), rng.integers(3, size=60)
    assert "converged" not in fit_and_score(kind, x, target, x, 3)[1]
    monkeypatch.setitem(probe.ITERATIONS, kind, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_and_score(kind, x, target, x, 3)[1]["converged"] is False
