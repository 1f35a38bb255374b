"""``vatt plot``: the paper's pictures, of runs, embeddings and models."""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from vatt.cli.ranges import Count, Seed
from vatt.errors import InputError


def plot(
    kind: str,
    sources: list[str],
    output: str,
    labels: str | None = None,
    column: str = "label",
    about: str = "",
    split: str | None = None,
    clips: Count = 32,
    seed: Seed = 0,
) -> int:
    """Draw a picture.

    curves RUN: losses and validation of a training. tsne EMBEDDINGS …: vectors of video and text, coloured by class, a
    panel for each folder. similarities EMBEDDINGS …: cosines of pairs that belong together and of random pairs.
    activations MODEL MANIFEST: what the nodes of each layer do for each modality. droptoken TABLE: quality against
    operations, of the JSON file that vatt droptoken writes. compare TABLE: probes by layer and by share of the labels,
    of the JSON file that vatt compare writes. tokens RUN: loss by the number of the token, of an autoregressive
    training. scaling RUN …: losses of trainings against their operations, and the power law of the best of them.
    scenes MANIFEST: what is seen in some scenes of vatt scenes, and what is known of them.

    Args:
        kind: curves, tsne, similarities, activations, droptoken, compare, tokens, scaling or scenes.
        sources: what is drawn.
        output: PNG or SVG file; without a suffix both are written.
        labels: manifest with the classes of the embedded clips, for tsne.
        column: of that manifest: label, or a column of its own that begins with x_.
        about: data and protocol, for the title; what is known of them unless given.
        split: of the manifest, for activations and scenes.
        clips: of the manifest, spread over it, for activations; for scenes the first ones, and at most 6.
        seed: of t-SNE, and of the random pairs.
    """
    drawers: dict[str, Callable[[], list[Path]]] = {
        "curves": lambda: _curves(_one(kind, sources), output),
        "tsne": lambda: _tsne(sources, labels, column, output, about, seed),
        "similarities": lambda: _similarities(sources, output, about, seed),
        "activations": lambda: _activations(sources, split, clips, output, about),
        "droptoken": lambda: _tradeoff(_one(kind, sources), output, about),
        "compare": lambda: _compared(_one(kind, sources), output, about),
        "tokens": lambda: _tokens(_one(kind, sources), output),
        "scaling": lambda: _scaling(sources, output, about),
        "scenes": lambda: _scenes(_one(kind, sources), split, clips, output, about),
    }
    if kind not in drawers:
        close = get_close_matches(kind, drawers, n=1)
        raise InputError(
            f"there is no picture {kind!r}"
            + (f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(drawers)}")
        )
    print(f"{kind}: {', '.join(map(str, drawers[kind]()))}")
    return 0


def _one(kind: str, sources: list[str]) -> str:
    if len(sources) != 1:
        raise InputError(f"{kind} is of one source, not of {len(sources)}")
    return sources[0]


def _curves(run: str, output: str) -> list[Path]:
    from vatt.evaluation.plots import plot_curves

    return plot_curves(run, output)


def _tokens(run: str, output: str) -> list[Path]:
    from vatt.evaluation.plots import plot_tokens

    return plot_tokens(run, output)


def _made_of(sources: list[str]) -> str:
    """What was embedded, if all folders agree."""
    from vatt.retrieval.store import read_notes

    found = set()
    for source in sources:
        said = read_notes(source)
        found.add(f"{said.get('source')}{', split ' + said['split'] if said.get('split') else ''}" if said else "")
    return found.pop() if len(found) == 1 else ""


def _titles(sources: list[str]) -> dict[str, str]:
    """Folders by the part of their paths in which they differ: runs/a/embeddings and runs/b/embeddings are a and b."""
    parts = [Path(source).parts for source in sources]
    if len(set(parts)) < len(parts):
        raise InputError("a folder comes twice")
    same = 0
    while len(parts) > 1 and same + 1 < min(map(len, parts)) and len({each[-same - 1] for each in parts}) == 1:
        same += 1
    ends = [each[: len(each) - same] for each in parts]
    if len(ends) == 1 and ends[0][-1] == "embeddings" and len(ends[0]) > 1:
        ends = [ends[0][:-1]]
    length = next(n for n in range(1, max(map(len, ends)) + 1) if len({each[-n:] for each in ends}) == len(ends))
    return {"/".join(each[-length:]): source for each, source in zip(ends, sources, strict=True)}


def _tsne(sources: list[str], labels: str | None, column: str, output: str, about: str, seed: int) -> list[Path]:
    from vatt.datasets.manifest import read_manifest
    from vatt.evaluation.figures import plot_tsne

    if labels is None:
        raise InputError("give --labels, the manifest that says what class each clip is of")
    classes, columns = {}, {"label"}
    for clip in read_manifest(labels, check_files=False).heads():
        columns |= set(clip.extra)
        value = clip.labels[0] if column == "label" and clip.labels else clip.extra.get(column)
        if value is not None:
            classes[clip.id] = str(value)
    if not classes:
        raise InputError(f"{labels}: no row has a {column}; there may be {', '.join(sorted(columns))}")
    about = about or ", ".join(filter(None, (_made_of(sources), f"coloured by {column}")))
    return plot_tsne(_titles(sources), classes, output, about, seed)


def _similarities(sources: list[str], output: str, about: str, seed: int) -> list[Path]:
    from vatt.evaluation.figures import plot_similarities

    return plot_similarities(_titles(sources), output, about or _made_of(sources), seed)


def _activations(sources: list[str], split: str | None, clips: int, output: str, about: str) -> list[Path]:
    import torch

    from vatt.datasets.clip_reader import ClipReader
    from vatt.datasets.clips import ClipDataset, Views
    from vatt.datasets.loading.batches import collate, finish
    from vatt.datasets.manifest import read_manifest
    from vatt.evaluation.activations import mean_activations
    from vatt.evaluation.figures import plot_activations
    from vatt.models.encoding import model_vocabulary
    from vatt.models.vatt import VATT

    if len(sources) != 2:
        raise InputError("activations are of a model and a manifest: vatt plot activations MODEL MANIFEST")
    model, vocabulary = VATT.from_pretrained(sources[0]), None
    if "text" in model.backbone.modalities:
        try:
            vocabulary = model_vocabulary(model)
        except FileNotFoundError as error:
            print(f"text is left out: {error}")
    table = read_manifest(sources[1], split=split)
    places = dict.fromkeys(round(x) for x in Views.spread(0, len(table) - 1, min(clips, len(table))))
    dataset = ClipDataset(table.take(places), ClipReader(model.format, vocabulary))
    batch = finish(collate([dataset[i] for i in range(len(dataset))]))
    for event in batch["events"]:
        print(f"{event['kind']}: {event['path']}: {event['reason']}")
    found, counts = {}, {}
    for modality in model.backbone.modalities:
        if modality not in batch:
            continue
        chosen = batch[modality][batch[f"{modality}_valid"]]
        if not len(chosen):
            print(f"{modality} is left out: none of {len(dataset)} clips has it")
            continue
        try:
            with torch.inference_mode():
                found[modality], counts[modality] = mean_activations(model.backbone, modality, chosen), len(chosen)
        except InputError as error:
            print(f"{modality} is left out: {error}")
    if not found:
        raise InputError(f"{sources[1]}: nothing of {len(dataset)} clips could be looked at")
    about = about or f"{sources[0]} on {sources[1]}{', split ' + split if split else ''}"
    return plot_activations(found, output, about, counts)


def _tradeoff(table: str, output: str, about: str) -> list[Path]:
    from vatt.evaluation.figures import plot_tradeoff

    try:
        found = json.loads(Path(table).read_text(encoding="utf-8"))
        points, known = found["rates"], found["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{table} is not a table of vatt droptoken: {error}") from error
    return plot_tradeoff(points, output, about or known)


def _compared(table: str, output: str, about: str) -> list[Path]:
    from vatt.evaluation.figures import plot_ways

    try:
        found = json.loads(Path(table).read_text(encoding="utf-8"))
        ways, known = {name: way["probes"] for name, way in found["ways"].items()}, found["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{table} is not a table of vatt compare: {error}") from error
    return plot_ways(ways, output, about or known)


def _scenes(manifest: str, split: str | None, clips: int, output: str, about: str) -> list[Path]:
    from vatt.datasets.clip_reader import ClipReader
    from vatt.datasets.clips import ClipDataset
    from vatt.datasets.loading.batches import collate, finish
    from vatt.datasets.manifest import read_manifest
    from vatt.evaluation.figures import plot_scenes
    from vatt.preparation.scenes import FPS, FRAMES, SIZE, read_truth
    from vatt.structures import ClipFormat

    chosen = read_manifest(manifest, split=split)[: min(clips, 6)]
    if not len(chosen):
        raise InputError(f"{manifest} has no scenes")
    reader = ClipReader(ClipFormat(num_frames=FRAMES, fps=FPS, size=SIZE), modalities=("video",))
    dataset = ClipDataset(chosen, reader)
    batch = finish(collate([dataset[i] for i in range(len(dataset))]))
    for event in batch["events"]:
        print(f"{event['kind']}: {event['path']}: {event['reason']}")
    frames = ((batch["video"] + 1) / 2).permute(0, 1, 3, 4, 2).numpy()
    scenes = {name: (x, read_truth(manifest, name)) for name, x in zip(batch["id"], frames, strict=True)}
    return plot_scenes(scenes, output, about or manifest)


def _scaling(runs: list[str], output: str, about: str) -> list[Path]:
    from vatt.cli.training import build_pretraining, clips_of_step
    from vatt.evaluation.figures import plot_scaling
    from vatt.evaluation.plots import read_logs
    from vatt.evaluation.scaling import fit_power_law, frontier
    from vatt.objectives.flops import step_flops
    from vatt.training.history import history_of

    found: dict[str, tuple[list[float], list[float]]] = {}
    for run in runs:
        if not (Path(run) / "config.yaml").is_file():
            raise FileNotFoundError(f"no config.yaml in {run}; is it the folder of a run?")
        given = ["--config", f"{run}/config.yaml", "--data.manifest=none", "--data.vocabulary=null"]
        cli = build_pretraining(given)
        data, clips = cli.datamodule, (history_of(f"{run}/model") or {}).get("batch") or clips_of_step(cli)
        flops = step_flops(cli.model.objective, cli.model.backbone, data.format, data.batch_size * data.windows)
        curve = read_logs(run).get("train/loss", [])
        if not curve:
            raise InputError(f"{run} has logged no loss")
        found[Path(run).name] = [step * clips * flops for step, _ in curve], [loss for _, loss in curve]
    law = fit_power_law(*frontier(list(found.values())))
    print(f"L = {law.factor:.4g} C^{law.exponent:.4f}, off by {100 * law.error:.1f} % (root mean square)")
    return plot_scaling(found, output, about)
