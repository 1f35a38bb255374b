"""The paper's pictures: t-SNE, distributions of similarities, activations of nodes, quality against operations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vatt.errors import InputError
from vatt.evaluation.plots import import_pyplot, save
from vatt.evaluation.protocols import means
from vatt.evaluation.scaling import fit_power_law, frontier
from vatt.retrieval.saved_embeddings import Embeddings

PROBED = re.compile(r"(\w+), layer (\w+), ([\d.]+)% of the labels")
PROBED = re.compile(r"(\w+), layer (\w+), ([\d.]+)% of the labels")  # as vatt probe names its numbers
MARKERS = {"video": "o", "text": "x", "audio": "^"}
MOST_COLOURS = 20
AVERAGED = {"interpolation": "antialiased", "interpolation_stage": "data"}  # there are more nodes than lines


def plot_tsne(
    stores: Mapping[str, str | Path], classes: Mapping[str, str], output: str | Path, about: str = "", seed: int = 0
) -> list[Path]:
    """Vectors of video and text in their common space, drawn near each other where they are similar (VATT, figure 3).

    Args:
        stores: folders of embeddings by the title of their panel.
        classes: class of each clip by its id; clips without one are left out.
        output: PNG or SVG file; without a suffix both are written.
        about: of the data, for the title.
        seed: of t-SNE.

    Returns:
        What was written.

    Raises:
        InputError: too few clips with a class, or more classes than colours tell apart.
        ImportError: matplotlib or scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ImportError('t-SNE needs scikit-learn: pip install "vatt[probes]"') from error
    pyplot = import_pyplot()
    names = sorted(set(classes.values()))
    if not 1 < len(names) <= MOST_COLOURS:
        raise InputError(f"colours tell 2 to {MOST_COLOURS} classes apart, not {len(names)}")
    colours = dict(zip(names, pyplot.get_cmap("tab10" if len(names) <= 10 else "tab20").colors, strict=False))
    figure, axes = pyplot.subplots(
        1, len(stores), figsize=(6 * len(stores) + 1.5, 5.6), layout="constrained", squeeze=False
    )
    for axis, (title, source) in zip(axes[0], stores.items(), strict=True):
        store = Embeddings(source)
        points, labels, kinds = [], [], []
        for modality in ("video", "text"):
            if (modality, "video_text") not in store.kinds():
                continue
            rows = store.select(modality, "video_text")
            units = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
            for name, vector in zip(rows.column("id"), units, strict=True):
                if name in classes:
                    points.append(vector)
                    labels.append(classes[name])
                    kinds.append(modality)
        if len(points) < 10:
            raise InputError(
                f"{store.file}: {len(points)} vectors of video and text in one space have a class, too few to draw; "
                f"its clips are such as {store.table.column('id')[0]}, those with a class such as {next(iter(classes))}"
            )
        perplexity = min(30.0, (len(points) - 1) / 3)
        places = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=seed).fit_transform(
            np.stack(points)
        )
        for kind in dict.fromkeys(kinds):
            for name in names:
                rows_of = [i for i, pair in enumerate(zip(kinds, labels, strict=True)) if pair == (kind, name)]
                axis.scatter(*places[rows_of].T, s=18, marker=MARKERS[kind], color=colours[name], linewidths=1)
        axis.set(title=f"{title} ({kinds.count('video')} video, {kinds.count('text')} text)", xticks=[], yticks=[])
    handles = [pyplot.Line2D([], [], marker="o", linestyle="", color=colours[name], label=name) for name in names]
    handles += [
        pyplot.Line2D([], [], marker=MARKERS[kind], linestyle="", color="black", label=kind)
        for kind in ("video", "text")
    ]
    figure.legend(handles=handles, loc="outside right upper", frameon=False)
    figure.suptitle(f"t-SNE of vectors in the video-text space{about and f', {about}'}")
    return save(figure, output)


def plot_similarities(
    stores: Mapping[str, str | Path], output: str | Path, about: str = "", seed: int = 0
) -> list[Path]:
    """Cosines of pairs that belong together, and of random pairs, in both common spaces.

    Of a clip's windows the mean is taken, of its captions the first, as in retrieval.

    Args:
        stores: folders of embeddings by the title of their row.
        output, about, seed: see `plot_tsne`.
    """
    pyplot = import_pyplot()
    pairs = (("text", "video", "video_text"), ("audio", "video", "video_audio"))
    figure, axes = pyplot.subplots(
        len(stores), 2, figsize=(10, 3.2 * len(stores) + 0.6), layout="constrained", squeeze=False, sharex=True
    )
    rng = np.random.default_rng(seed)
    for row, (title, source) in zip(axes, stores.items(), strict=True):
        store = Embeddings(source)
        for axis, (first, second, space) in zip(row, pairs, strict=True):
            axis.set(title=f"{title}: {first} and {second}", xlim=(-1, 1), yticks=[])
            there = {(first, space), (second, space)} <= set(store.kinds())
            a, b = (_of_each(store, modality, space) if there else {} for modality in (first, second))
            shared = [name for name in a if name in b]
            if len(shared) < 2:
                axis.text(0, 0.5, f"{len(shared)} clips have {first} and {second}", ha="center")
                continue
            x, y = np.stack([a[name] for name in shared]), np.stack([b[name] for name in shared])
            positive = (x * y).sum(axis=1)
            others = rng.integers(1, len(shared), size=len(shared))
            random = (x * y[(np.arange(len(shared)) + others) % len(shared)]).sum(axis=1)
            bins = np.linspace(-1, 1, 61)
            for values, label in ((random, "random"), (positive, "of one clip")):
                axis.hist(values, bins, alpha=0.6, density=True, label=f"{label}, mean {values.mean():.2f}")
            axis.legend(frameon=False, fontsize=9)
            axis.set_title(f"{title}: {first} and {second}, {len(shared)} clips")
    for axis in axes[-1]:
        axis.set_xlabel("cosine")
    figure.suptitle(f"Similarities of pairs{about and f', {about}'}")
    return save(figure, output)


def plot_activations(
    activations: Mapping[str, np.ndarray], output: str | Path, about: str = "", clips: Mapping[str, int] | None = None
) -> list[Path]:
    """Mean activation of every hidden node of the MLPs, by layer and modality (VATT, figure 4).

    Args:
        activations: (L, H) by modality; see `vatt.evaluation.activations.mean_activations`.
        output, about: see `plot_tsne`.
        clips: how many were looked at, by modality.
    """
    pyplot = import_pyplot()
    values = np.concatenate([x.ravel() for x in activations.values()])
    low, high = float(values.min()), float(np.quantile(values, 0.995))  # a few nodes would hide all the others
    figure, axes = pyplot.subplots(
        1, len(activations), figsize=(3.6 * len(activations) + 1, 5), layout="constrained", squeeze=False
    )
    for axis, (modality, x) in zip(axes[0], activations.items(), strict=True):
        picture = axis.imshow(x.T, aspect="auto", cmap="magma", vmin=low, vmax=high, **AVERAGED)
        count = "" if clips is None else f", {clips[modality]} {'texts' if modality == 'text' else 'clips'}"
        axis.set(title=modality + count, xlabel="block", xticks=range(len(x)), xticklabels=range(1, len(x) + 1))
    axes[0][0].set_ylabel("hidden node of the MLP")
    figure.colorbar(picture, ax=axes[0].tolist(), label="mean activation (after GELU)", extend="max")
    figure.suptitle(f"Mean activation of nodes{about and f', {about}'}")
    return save(figure, output)


def plot_tradeoff(points: Sequence[Mapping[str, Any]], output: str | Path, about: str = "") -> list[Path]:
    """Quality against operations at several rates of DropToken (VATT, table 5).

    Args:
        points: one for each rate: ``drop``, ``gflops`` of a training clip's forward pass, and ``metrics`` by name.
        output, about: see `plot_tsne`.
    """
    pyplot = import_pyplot()
    figure, axis = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    ordered = sorted(points, key=lambda point: point["gflops"])
    for name in ordered[0]["metrics"]:
        axis.plot([p["gflops"] for p in ordered], [p["metrics"][name] for p in ordered], marker="o", label=name)
    above = axis.get_xaxis_transform()
    for point in ordered:
        axis.axvline(point["gflops"], color="grey", linewidth=0.5, zorder=0)
        share = f"{100 * point['drop']:g} %"
        axis.text(point["gflops"], 1.01, share, transform=above, va="bottom", ha="center", fontsize=9)
    axis.set(xlabel="GFLOPs of a clip's forward pass in training", ylabel="per cent")
    axis.set_title(f"DropToken{about and f', {about}'}\nshare of the tokens that was dropped:", fontsize=11, pad=18)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return save(figure, output)


def plot_ways(ways: Mapping[str, Mapping[str, Mapping[str, float]]], output: str | Path, about: str = "") -> list[Path]:
    """Ways to pretrain: linear probes by layer, and by share of the labels.

    Args:
        ways: by way and label, top-1 in per cent under the names that ``vatt probe`` reports.
        output, about: see `plot_tsne`.
    """
    pyplot = import_pyplot()
    labels = list(next(iter(ways.values())))
    figure, axes = pyplot.subplots(
        len(labels), 2, figsize=(10, 3.4 * len(labels) + 0.6), layout="constrained", squeeze=False
    )
    for row, label in zip(axes, labels, strict=True):
        for name, of in ways.items():
            names = {key: match.groups() for key in of[label] if (match := PROBED.fullmatch(key))}
            linear = {found[1:]: of[label][key] for key, found in names.items() if found[0] == "linear"}
            layers = [(layer, top1) for (layer, share), top1 in linear.items() if float(share) == 100]
            parts = sorted((float(share), top1) for (layer, share), top1 in linear.items() if layer == "final")
            style = {"linestyle": ":"} if name.startswith("untrained") else {}
            row[0].plot([x for x, _ in layers], [y for _, y in layers], marker="o", label=name, **style)
            row[1].plot([x for x, _ in parts], [y for _, y in parts], marker="o", label=name, **style)
        row[0].set(title=f"{label}, by layer", xlabel="block", ylabel="top-1, per cent")
        row[1].set(title=f"{label}, by share of the labels", xlabel="per cent of the labels", xscale="log")
        ticks = [x for x, _ in parts]
        row[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        row[1].minorticks_off()
        for axis in row:
            axis.grid(alpha=0.3)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"Linear probes on frozen video towers{about and f', {about}'}")
    return save(figure, output)


def plot_scenes(
    scenes: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]], output: str | Path, about: str = ""
) -> list[Path]:
    """Frames of scenes with their boxes and the points that are visible, and how far away everything is.

    Args:
        scenes: by name, frames (T, H, W, 3) in [0, 1] and what is known: see `vatt.preparation.scenes.Scene`.
        output, about: see `plot_tsne`.
    """
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(
        len(scenes), 5, figsize=(9, 1.75 * len(scenes) + 0.6), layout="constrained", squeeze=False
    )
    for row, (name, (frames, known)) in zip(axes, scenes.items(), strict=True):
        times = np.linspace(0, len(frames) - 1, 4).round().astype(int)
        height, width = frames.shape[1:3]
        for axis, t in zip(row, times, strict=False):
            axis.imshow(frames[t], extent=(0, width, height, 0))
            for box in known["boxes"][t] * [width, height, width, height]:
                axis.add_patch(pyplot.Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, color="white"))
            points = known["points"][t][known["visible"][t]] * [width, height]
            axis.scatter(*points.T, s=14, c="white", edgecolors="black", linewidths=0.8)
            axis.set_title(f"frame {t}", fontsize=8)
        far = row[4].imshow(known["depth"][times[-1]], cmap="viridis_r")
        row[4].set_title("distance", fontsize=8)
        figure.colorbar(far, ax=row[4])
        for axis in row:
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    figure.suptitle(f"Scenes{about and f', {about}'}", fontsize=10)
    return save(figure, output)


def plot_scaling(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], output: str | Path, about: str = ""
) -> list[Path]:
    """Losses of trainings against their operations, and the power law of the best points.

    Args:
        runs: operations and losses by name.
        output, about: see `plot_tsne`.
    """
    pyplot = import_pyplot()
    figure, axis = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    for name, (operations, losses) in runs.items():
        axis.plot(operations, losses, label=name, linewidth=1)
    best = frontier(list(runs.values()))
    law = fit_power_law(*best)
    ends = np.array([min(best[0]), max(best[0])])
    told = f"L = {law.factor:.3g} C$^{{{law.exponent:.4f}}}$"
    axis.plot(ends, law(ends), color="black", linestyle="--", label=told)
    axis.set(xscale="log", yscale="log", xlabel="operations C of the training", ylabel="loss L")
    axis.set_title(f"Loss against operations{about and f', {about}'}")
    axis.legend(frameon=False)
    axis.grid(alpha=0.3, which="both")
    return save(figure, output)


def _of_each(store: Embeddings, modality: str, space: str) -> dict[str, np.ndarray]:
    """A unit vector for each clip: of the mean of its windows, or of its first text."""
    rows = store.select(modality, space)
    clips = store.clips(rows)
    if modality == "text":
        found: dict[str, np.ndarray] = {}
        for name, vector in zip(clips, rows.vectors, strict=True):
            found.setdefault(name, vector)
    else:
        found = {name: mean.numpy() for name, mean in means(rows, clips).items()}
    return {name: vector / np.linalg.norm(vector) for name, vector in found.items()}
