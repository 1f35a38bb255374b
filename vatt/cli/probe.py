"""``vatt probe``: classifiers on the frozen features of a model."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vatt.cli.commands import print_table
from vatt.cli.ranges import Count, CountOrZero, Fraction, Seed
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import Views
from vatt.datasets.labelled import LabelledDataModule
from vatt.datasets.manifest import read_manifest
from vatt.datasets.splits import describe_missing
from vatt.datasets.table import ClipTable
from vatt.errors import InputError
from vatt.evaluation.classification import accuracy, chance_levels
from vatt.evaluation.features import FINAL, extract
from vatt.evaluation.gradient_probe import OF_TOKENS, train_and_score
from vatt.evaluation.linear_probe import KINDS, fit_and_score, subsets
from vatt.evaluation.report import config_hash, write_report
from vatt.models.backbone import Backbone
from vatt.models.device import resolve_device
from vatt.models.readouts import released_layer
from vatt.models.vatt import load_model
from vatt.structures import NOT_READ, ClipFormat
from vatt.training.history import history_of

Kind = Literal["linear", "lowrank", "svm", "knn", "attentive", "readout"]
SEEDS = (0, 1, 2)  # of the parts of the labels
WITHOUT_EFFECT = ("output", "batch_size", "num_workers", "device")


@dataclass
class Result:
    """What a probe came to: a row for each fold, a column for each part of the labels.

    Attributes:
        top1: per cent.
        labels: clips that were trained on.
        chosen: hyper-parameters, by cross-validation.
    """

    top1: list[list[float]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    chosen: list[list[dict[str, Any]]] = field(default_factory=list)

    def begin_fold(self) -> None:
        for column in (self.top1, self.labels, self.chosen):
            column.append([])

    def add(self, labels: int, top1: float, chosen: dict[str, Any]) -> None:
        """Of one part of the labels of the last fold."""
        self.labels[-1].append(labels)
        self.top1[-1].append(top1)
        self.chosen[-1].append(chosen)

    def summary(self) -> dict[str, Any]:
        """Mean; sample standard deviation, of means over the folds, over the parts, or over the folds if there is one
        part; and what it is of."""
        parts = [statistics.fmean(column) for column in zip(*self.top1, strict=True)]
        over, values = ("parts of the labels", parts) if len(parts) > 1 else ("folds", [row[0] for row in self.top1])
        std = {"std": statistics.stdev(values), "std over": over} if len(values) > 1 else {}
        each = [round(value, 2) for row in self.top1 for value in row]
        labels = sorted({count for row in self.labels for count in row})
        chosen = [found for row in self.chosen for found in row]
        return {
            "top-1 (%)": statistics.fmean(parts), **std, "each": each,
            "training clips": labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}",
            **({"chosen": [found or "nothing: too few clips" for found in chosen]} if any(chosen) else {}),
        }  # fmt: skip


Results = dict[tuple[str, str, float], Result]  # by probe, layer and share of the labels


def probe(
    manifest: str,
    model: str,
    output: str,
    modality: Literal["video", "audio"] = "video",
    kinds: list[Kind] = ["linear"],  # noqa: B006 (jsonargparse takes the list as it stands)
    folds: list[int] | None = None,
    test_split: str = "test",
    layers: Literal["final", "all", "4ds"] | list[int] = "final",
    shares: list[Fraction] | None = None,
    windows: Count = 4,
    crops: Count = 1,
    together: bool = False,
    steps: Count = 2_000,
    batch_size: Count = 32,
    num_workers: CountOrZero = 2,
    seed: Seed = 0,
    device: str | None = None,
) -> int:
    """Train small classifiers on frozen features, and test them.

    Training clips give the features of the window in their middle, test clips those of several windows, over which
    probabilities are averaged (VATT, appendix A.3.2); or an attentive probe sees the tokens of all windows of a clip at
    once, in training too, and probabilities are averaged over squares (V-JEPA: 8 windows, 3 crops, together). The
    classifiers' hyper-parameters are chosen by cross-validation among the training clips.

    Exit status: 1 if some clips could not be read (they are named), 0 otherwise.

    Args:
        manifest: rows with one label each, and splits train and test, or folds.
        model: folder of a model.
        output: JSON file that gets the numbers; a Markdown page is written beside it.
        modality: what is classified.
        kinds: linear is logistic regression, lowrank the paper's classifier, svm linear, knn by cosine, attentive a
            learned query over all tokens, as V-JEPA has it, readout another, as 4DS has it.
        folds: numbers of the folds to test on in turn (columns x_fold, or x_fold1 …); the mean is reported.
        test_split: rows to test on, where there are no folds.
        layers: the final feature, a sweep over all, the block that 4DS's released code reads, or some by number: behind
            block 1, 2, …; the AGG token there, and for attentive and readout every token, which needs memory for all
            tokens of all clips.
        shares: of the training labels, three random parts each, for label-efficiency runs; all labels unless given.
        windows: of each test clip.
        crops: squares along the longer side of each window of a test clip, over which probabilities are averaged.
        together: attentive and readout classify the tokens of all windows of a clip at once, of training clips too.
        steps: of the training of lowrank, attentive and readout.
        batch_size: windows at a time.
        num_workers: processes that read.
        seed: of everything.
        device: cpu, cuda, …; a GPU is used if there is one.
    """
    began = time.perf_counter()
    asked = {name: value for name, value in locals().items() if name not in ("began", *WITHOUT_EFFECT)}
    if windows < 1 or crops < 1 or steps < 1:
        raise InputError("windows, crops and steps must be at least 1")
    resolve_device(device)  # before features are computed
    if crops > 1 and modality != "video":
        raise InputError(f"crops are squares of pictures: {modality} has none")
    if together and not {*kinds} <= {*OF_TOKENS}:
        raise InputError(f"together is what attention does: ask for --kinds [attentive], not {', '.join(kinds)}")
    net = load_model(model)
    if modality not in net.backbone.modalities:
        raise InputError(f"{model} has {', '.join(net.backbone.modalities)}, not {modality}")
    parts = _parts(manifest, modality, net.format, folds, test_split)
    tower = net.backbone.tower(modality)
    names = _layers(tower, layers)
    # With an AGG token among them tokens do not fall into times.
    times = 1 if tower.encoder(modality).agg else tower.tokenizers[modality].grid[0] * (windows if together else 1)
    options = {"batch_size": batch_size, "num_workers": num_workers, "device": device}
    reader = ClipReader(net.format, modalities=(modality,))
    looks = (Views(windows if together else 1), Views(windows, crops))
    middle, spread = (
        extract(tower, clips, reader, views, names if {*kinds} & {*OF_TOKENS} else (), **options)
        for clips, views in zip(_used(manifest, parts), looks, strict=True)
    )
    events = {(event["id"], event["kind"]): event for event in middle.events + spread.events}
    for event in events.values():
        print(f"{event['kind']}: {event['path']}: {event['reason']}")
    results: Results = {}
    present, wanted, targets = Counter[str](), Counter[str](), list[Tensor]()
    for data in parts:
        train, test = _rows(middle.ids, data.parts[""][0], data), _rows(spread.ids, data.test_clips, data)
        targets.append(test[1])
        present += Counter(training=len(train[0]), test=len(test[0]))
        wanted += Counter(training=len(data.parts[""][0]), test=len(data.test_clips))
        for kind in kinds:
            for layer in names:
                sides = [f.tokens[layer] if kind in OF_TOKENS else f.layers[layer] for f in (middle, spread)]
                if together:
                    sides = [_put_together(x, windows) for x in sides]
                x, views = sides[0][train[0]][:, 0], sides[1][test[0]]
                for share in shares or [1.0]:
                    result = results.setdefault((kind, layer, share), Result())
                    result.begin_fold()
                    for rows in subsets(train[1].numpy(), share, SEEDS if share < 1 else SEEDS[:1]):
                        chosen, count = torch.from_numpy(rows), len(data.classes)
                        learned, asked_of = (x[chosen], train[1][chosen]), (views, test[1])
                        result.add(len(rows), *_top1(kind, learned, asked_of, count, steps, seed, device, times))
    about = {
        "protocol": _protocol(windows, crops, together),
        "data": manifest,
        "part": f"split {test_split}" if folds is None else f"folds {', '.join(map(str, folds))}",
        "clips present": f"{present['test']} of {wanted['test']}",
        "training clips present": f"{present['training']} of {wanted['training']}",
        "classes": len(parts[0].classes),
        "chance": chance_levels(*targets, classes=len(parts[0].classes)),
        "model": f"{model} ({net.model_hash()})",
        "pretraining": history_of(model) or "not known",
        "configuration": config_hash(asked),
        "seed": seed,
        "steps": f"{steps} (lowrank, attentive, readout)",
        "minutes": round((time.perf_counter() - began) / 60, 2),
    }
    _say(results, f"Probes on frozen {modality} features", about, output)
    return 1 if any(event["kind"] in NOT_READ for event in events.values()) else 0


def _protocol(windows: int, crops: int, together: bool) -> str:
    """How the numbers came to be, in words."""
    if together:
        views = f"training clips: tokens of {windows} windows at once; test clips: so in {crops} squares, probabilities"
    else:
        views = f"training clips: the middle window; test clips: {windows} windows x {crops} squares, probabilities"
    return f"{views} (of the svm: margins) averaged; hyper-parameters by 3-fold cross-validation among training clips"


def _parts(
    manifest: str, modality: str, format: ClipFormat, folds: list[int] | None, test_split: str
) -> list[LabelledDataModule]:
    """Training and test of every fold, once their labels were looked at."""
    found = []
    for fold in folds or [None]:
        options = {"val_split": None, "test_split": test_split, "fold": fold}  # probes use no validation clips
        data = LabelledDataModule(manifest, modality, base=format.to_dict(), **options)
        _ = data.classes
        if not data.test_clips:
            missing = describe_missing([test_split], {clip.split for clip in read_manifest(manifest).heads()})
            raise InputError(
                f"{manifest}: {missing}. Give rows the splits train and test, or set --test_split or --folds"
            )
        found.append(data)
    return found


def _layers(tower: Backbone, layers: str | list[int]) -> list[str]:
    """Names of layers, as `extract` has them."""
    (modality,) = tower.modalities
    depth = len(getattr(tower.transformers[modality], "blocks", ()))
    if layers == "4ds":
        return [str(released_layer(depth))]
    if isinstance(layers, str):
        return [FINAL] if layers == FINAL else [*map(str, range(1, depth + 1)), FINAL]
    wrong = [layer for layer in layers if not 1 <= layer <= depth]
    if wrong or not layers:
        raise InputError(f"layers are numbers from 1 to {depth}, not {wrong}")
    return [str(layer) for layer in dict.fromkeys(layers)]


def _used(manifest: str, parts: list[LabelledDataModule]) -> list[ClipTable]:
    """The clips that any of the folds trains on, and those that any of them tests on."""
    clips = read_manifest(manifest)
    tables = [[data.parts[""][0] for data in parts], [data.test_clips for data in parts]]
    used = [{clip.id for table in group for clip in table.heads()} for group in tables]
    return [clips.take(row for row, clip in enumerate(clips.heads()) if clip.id in names) for names in used]


def _put_together(tokens: Tensor, windows: int) -> Tensor:
    """Tokens of views (N, windows * crops, T, D) to those of all windows at once (N, crops, windows * T, D)."""
    return tokens.unflatten(1, (windows, -1)).transpose(1, 2).flatten(2, 3)


def _rows(ids: list[str], part: ClipTable, data: LabelledDataModule) -> tuple[Tensor, Tensor]:
    """Where the clips of a part are among the features, and their classes."""
    place = {name: row for row, name in enumerate(ids)}
    read = [clip for clip in part.heads() if clip.id in place]
    if not read:
        raise InputError(f"{data.manifest}: none of {len(part)} clips could be read")
    target = [data.classes.number(clip.labels[0]) for clip in read]
    return torch.tensor([place[clip.id] for clip in read]), torch.tensor(target)


def _top1(
    kind: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    steps: int,
    seed: int,
    device: str | None,
    times: int,
) -> tuple[float, dict[str, Any]]:
    """Top-1 in per cent of a probe, scores averaged over the views (N, V, …) of the test clips, and what it chose."""
    (x, target), (views, right) = train, test
    flat, chosen = views.flatten(0, 1), {}
    if kind in KINDS:
        found, chosen = fit_and_score(kind, x.numpy(), target.numpy(), flat.numpy(), classes, seed)
        scores = torch.from_numpy(found)
    else:
        scores = train_and_score(kind, x, target, flat, classes, steps, seed, resolve_device(device), times)
    return accuracy(scores.view(len(views), -1, classes).mean(dim=1), right)["top1"], chosen


def _say(results: Results, title: str, about: dict[str, Any], output: str) -> None:
    """Print the table, and write the report."""
    rows, metrics, chance = [], {}, f"{about['chance']['majority class (%)']:.1f}"
    for (kind, layer, share), result in results.items():
        found = result.summary()
        spread = f"{found['std']:.1f} over {found['std over']}" if "std" in found else "–"
        labels = f"{100 * share:g}%"
        rows.append((kind, layer, labels, found["training clips"], f"{found['top-1 (%)']:.1f}", chance, spread))
        metrics[f"{kind}, layer {layer}, {labels} of the labels"] = found
    columns = ("probe", "layer", "labels", "clips", "top-1 (%)", "chance (%)", "std")
    print_table(f"{title}: {about['clips present']} test clips", columns, rows)
    if len(set(about["training clips present"].split(" of "))) > 1:
        print(f"of the training clips {about['training clips present']} could be read")
    page = write_report(output, title, metrics, about)
    print(f"report: {output}    {page}")
