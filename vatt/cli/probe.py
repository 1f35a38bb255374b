"""``vatt probe``: classifiers on the frozen features of a model."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from vatt.cli.commands import print_table
from vatt.datasets.clips import ClipReader
from vatt.datasets.labelled import LabelledDataModule
from vatt.datasets.manifest import read_manifest
from vatt.datasets.table import ClipTable
from vatt.errors import InputError
from vatt.evaluation.classification import accuracy
from vatt.evaluation.probe import KINDS, fit_and_score, subsets
from vatt.evaluation.report import write_report
from vatt.models.vatt import VATT, Classifier, load_model
from vatt.retrieval.features import FINAL, FrozenFeatures, extract
from vatt.structures import ClipFormat
from vatt.training.probing import train_and_score

Results = dict[tuple[str, str, float], list[float]]  # top-1 by probe, layer and share of the labels
Kind = Literal["linear", "lowrank", "svm", "knn", "attentive"]
SEEDS = (0, 1, 2)  # of the parts of the labels


def probe(
    manifest: str,
    model: str,
    output: str,
    modality: Literal["video", "audio"] = "video",
    kinds: list[Kind] = ["linear"],  # noqa: B006 (jsonargparse takes the list as it stands)
    folds: list[int] | None = None,
    layers: Literal["final", "all"] = "final",
    shares: list[float] | None = None,
    windows: int = 4,
    steps: int = 2_000,
    batch_size: int = 32,
    num_workers: int = 2,
    seed: int = 0,
    device: str | None = None,
) -> int:
    """Train small classifiers on frozen features, and test them.

    Training clips give the features of the window in their middle, test clips those of several windows, over which
    probabilities are averaged (VATT, appendix A.3.2). The classifiers' hyper-parameters are chosen by cross-validation
    among the training clips.

    Exit status: 1 if some clips could not be read (they are named), 0 otherwise.

    Args:
        manifest: rows with one label each, and splits train and test, or folds.
        model: folder of a model.
        output: JSON file that gets the numbers; a Markdown page is written beside it.
        modality: what is classified.
        kinds: linear is logistic regression, lowrank the paper's classifier, svm linear, knn by cosine, attentive a
            learned query over all tokens.
        folds: numbers of the folds to test on in turn (columns x_fold, or x_fold1 …); the mean is reported.
        layers: the final feature, or a sweep over the AGG token behind every block (not for attentive).
        shares: of the training labels, three random parts each, for label-efficiency runs; all labels unless given.
        windows: of each test clip.
        steps: of the training of lowrank and attentive.
        batch_size: windows at a time.
        num_workers: processes that read.
        seed: of everything.
        device: cpu, cuda, …; a GPU is used if there is one.
    """
    if windows < 1 or steps < 1:
        raise InputError("windows and steps must be at least 1")
    net = load_model(model)
    if modality not in net.backbone.modalities:
        raise InputError(f"{model} has {', '.join(net.backbone.modalities)}, not {modality}")
    parts = _parts(manifest, modality, net.format, folds)
    options = {"batch_size": batch_size, "num_workers": num_workers, "device": device}
    middle, spread = (
        _features(net, modality, manifest, parts, count, "attentive" in kinds, options) for count in (1, windows)
    )
    events = {(event["id"], event["kind"]): event for event in middle.events + spread.events}
    for event in events.values():
        print(f"{event['kind']}: {event['path']}: {event['reason']}")
    results: Results = {}
    tested = wanted = 0
    for data in parts:
        train, test = _rows(middle.ids, data.parts[""][0], data), _rows(spread.ids, data.test_clips, data)
        tested, wanted = tested + len(test[0]), wanted + len(data.test_clips)
        for kind in kinds:
            for layer in list(middle.layers) if layers == "all" and kind != "attentive" else [FINAL]:
                sides = [f.tokens if kind == "attentive" else f.layers[layer] for f in (middle, spread)]
                x, views = sides[0][train[0]][:, 0], sides[1][test[0]]
                for share, rows in _label_parts(train[1], shares):
                    top1 = _top1(kind, (x[rows], train[1][rows]), (views, test[1]), len(data.classes), steps, seed)
                    results.setdefault((kind, layer, share), []).append(top1)
    about = {
        "protocol": f"training clips: the middle window; test clips: {windows} windows, probabilities averaged; "
        "hyper-parameters by 3-fold cross-validation among the training clips",
        "data": manifest,
        "part": "split test" if folds is None else f"folds {', '.join(map(str, folds))}",
        "clips present": f"{tested} of {wanted}",
        "model": f"{model} ({net.fingerprint()})",
        "seed": seed,
    }
    _say(results, f"Probes on frozen {modality} features", about, output)
    return 1 if any(event["kind"] == "unreadable" for event in events.values()) else 0


def _parts(manifest: str, modality: str, format: ClipFormat, folds: list[int] | None) -> list[LabelledDataModule]:
    """Training and test of every fold, once their labels were looked at."""
    found = []
    for fold in folds or [None]:
        data = LabelledDataModule(manifest, modality, base=format.to_dict(), fold=fold)
        _ = data.classes
        if not data.test_clips:
            raise InputError(f"{manifest}: no row has split 'test', so there is nothing to test on")
        found.append(data)
    return found


def _features(
    net: VATT | Classifier,
    modality: str,
    manifest: str,
    parts: list[LabelledDataModule],
    windows: int,
    tokens: bool,
    options: dict[str, Any],
) -> FrozenFeatures:
    """Of every clip that any of the folds uses, once."""
    clips = read_manifest(manifest)
    used = {clip.id for data in parts for part in (data.parts[""][0], data.test_clips) for clip in part.heads()}
    clips = clips.take(row for row, clip in enumerate(clips.heads()) if clip.id in used)
    reader = ClipReader(net.format, modalities=(modality,))
    return extract(net.backbone.tower(modality), clips, reader, windows, tokens, **options)


def _rows(ids: list[str], part: ClipTable, data: LabelledDataModule) -> tuple[Tensor, Tensor]:
    """Where the clips of a part are among the features, and their classes."""
    place = {name: row for row, name in enumerate(ids)}
    read = [clip for clip in part.heads() if clip.id in place]
    if not read:
        raise InputError(f"{data.manifest}: none of {len(part)} clips could be read")
    target = [data.classes.names.index(clip.labels[0]) for clip in read]
    return torch.tensor([place[clip.id] for clip in read]), torch.tensor(target)


def _label_parts(target: Tensor, shares: list[float] | None) -> Iterator[tuple[float, Tensor]]:
    """Shares of the labels, each with the rows that have one: three parts of each share below one."""
    for share in shares or [1.0]:
        for rows in subsets(target.numpy(), share, SEEDS if share < 1 else SEEDS[:1]):
            yield share, torch.from_numpy(rows)


def _top1(
    kind: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, steps: int, seed: int
) -> float:
    """Top-1 in per cent of a probe, scores averaged over the windows (N, V, …) of the test clips."""
    (x, target), (views, right) = train, test
    flat = views.flatten(0, 1)
    if kind in KINDS:
        scores = torch.from_numpy(fit_and_score(kind, x.numpy(), target.numpy(), flat.numpy(), classes, seed)[0])
    else:
        scores = train_and_score(kind, x, target, flat, classes, steps, seed)
    return accuracy(scores.view(len(views), -1, classes).mean(dim=1), right)["top1"]


def _say(results: Results, title: str, about: dict[str, Any], output: str) -> None:
    """Print the table, and write the report."""
    rows, metrics = [], {}
    for (kind, layer, share), found in results.items():
        mean, std = statistics.fmean(found), statistics.pstdev(found)
        rows.append((kind, layer, f"{share:.0%}", f"{mean:.1f}", f"{std:.1f}", len(found)))
        each = [round(value, 2) for value in found]
        metrics[f"{kind}, layer {layer}, {share:.0%} of the labels"] = {"top-1 (%)": mean, "std": std, "each": each}
    columns = ("probe", "layer", "labels", "top-1 (%)", "std", "runs")
    print_table(f"{title}: {about['clips present']} test clips", columns, rows)
    page = write_report(output, title, metrics, about)
    print(f"report: {output}    {page}")
