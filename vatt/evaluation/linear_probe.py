"""Classifiers on frozen features: logistic regression, a linear SVM and nearest neighbours, from scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vatt.errors import InputError

STRENGTHS = [10.0**power for power in range(-4, 4)]  # of C, from which cross-validation chooses
NEIGHBOURS = [1, 5, 10, 20]
KINDS = ("linear", "svm", "knn")
ITERATIONS = {"linear": 2_000, "svm": 10_000}


def fit_and_score(
    kind: str, train: np.ndarray, target: np.ndarray, test: np.ndarray, classes: int, seed: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train a classifier, its one hyper-parameter chosen by cross-validation among the training clips.

    Args:
        kind: "linear" (logistic regression) or "svm" (linear, one against the rest), both on standardised features,
            or "knn" (cosine, weighted by nearness).
        train: (N, D).
        target: (N,) int.
        test: (M, D).
        classes: C.
        seed: of the folds of the cross-validation.

    Returns:
        (M, C) probabilities, of the SVM its margins; a class without a training clip has the lowest. And what was
        chosen; nothing where no class has three clips to choose by, ``converged`` False if iterations were too few.

    Raises:
        InputError: an unknown kind, or training clips of one class only.
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError('probes need scikit-learn: pip install "vatt[probes]"') from error
    if kind not in KINDS:
        raise InputError(f"there is no probe {kind!r}; there are {', '.join(KINDS)}")
    there, counts = np.unique(target, return_counts=True)
    if len(there) < 2:
        raise InputError("the training clips are of one class, so there is nothing to tell apart")
    if kind == "knn":
        model: Any = KNeighborsClassifier(metric="cosine", weights="distance")
        choices = {"n_neighbors": [k for k in NEIGHBOURS if k <= len(target) * 2 // 3] or [1]}
    else:
        make = LogisticRegression if kind == "linear" else LinearSVC
        last = make(max_iter=ITERATIONS[kind], random_state=seed)
        model = make_pipeline(StandardScaler(), last)
        choices = {f"{type(last).__name__.lower()}__C": STRENGTHS}
    if counts.max() >= 3:
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        # Matrices are small: several threads would wait for each other, beside other work for minutes.
        with threadpool_limits(1), warnings.catch_warnings():
            # A class of fewer than three clips is in some of the parts alone.
            warnings.filterwarnings("ignore", "The least populated class")
            warnings.simplefilter("ignore", ConvergenceWarning)  # of candidates; of the chosen one it is told
            search = GridSearchCV(model, choices, cv=folds).fit(train, target)
        model, chosen = search.best_estimator_, search.best_params_
        if kind != "knn" and np.max(model[-1].n_iter_) >= model[-1].max_iter:
            chosen = {**chosen, "converged": False}
    else:
        middle = {name: values[len(values) // 2] for name, values in choices.items()}
        model, chosen = model.set_params(**middle).fit(train, target), {}
    if kind == "svm":
        found = model.decision_function(test)
        found = np.stack([-found, found], axis=1) if found.ndim == 1 else found
    else:
        found = model.predict_proba(test)
    scores = np.full((len(test), classes), found.min() - 1.0)
    scores[:, there] = found
    return scores, {name.rpartition("__")[2]: value for name, value in chosen.items()}


def subsets(target: np.ndarray, share: float, seeds: Sequence[int]) -> Iterator[np.ndarray]:
    """Random parts of the training clips for label-efficiency runs: the same share of every class, at least one clip.

    Args:
        target: (N,) int.
        share: in (0, 1].
        seeds: one part each.

    Yields:
        Ascending indices.
    """
    if not 0 < share <= 1:
        raise InputError(f"a share of labels lies in (0, 1], not {share:g}")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        parts = []
        for c in np.unique(target):
            rows = np.flatnonzero(target == c)
            parts.append(rng.permutation(rows)[: max(1, round(share * len(rows)))])
        yield np.sort(np.concatenate(parts))
