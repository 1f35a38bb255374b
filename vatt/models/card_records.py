"""Sections and metadata of a model card, from the records of training, conversion and evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult

if TYPE_CHECKING:
    from vatt.models.saving import HubModel

MAX_REPORT_BYTES = 2**20
CLASSIFICATION = {  # label in a report: metric of the Hub
    "top-1 (%)": "accuracy",
    "top-5 (%)": "top_5_accuracy",
    "mAP (%)": "mean_average_precision",
    "AUC (%)": "roc_auc",
    "d′": "dprime",
}
RETRIEVAL = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10", "MedR": "median_rank"}
TRAINED = {  # key in training.json: label in the model card
    "weights": "weights",
    "steps": "steps",
    "batch": "batch size",
    "minutes": "minutes",
    "seed": "seed",
    "gpu": "GPU",
    "machine": "machine",
    "torch": "PyTorch",
}


def read_record(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if there is no such file or it holds something else."""
    try:
        record = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= MAX_REPORT_BYTES else None
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def conversion_section(converted: dict[str, Any]) -> str:
    """Return the section on the checkpoint that a model was converted from; see `vatt.cli.models.convert`."""
    sentences = [f"Converted from {_short(str(converted.get('source')))}.", *map(str, converted.get("notes", []))]
    return "## Conversion\n\n" + " ".join(sentences)


def training_section(trained: dict[str, Any] | None) -> str:
    """Return the section on the training; see `vatt.training.export.ExportModel` for its record."""
    if not trained:
        return "## Training\n\nNo training record is stored with the model."
    tuned = trained.get("finetuning") or {}
    origin = tuned.get("data") or {}
    manifests = trained.get("data") or [origin[key] for key in ("manifest",) if key in origin]
    part = origin.get("part") or ", ".join(f"split {name}" for name in trained.get("splits", []))
    train_clips, val_clips = (trained.get(key, "unknown") for key in ("train_clips", "val_clips"))
    clips = f"{train_clips} for training, {val_clips} for validation"
    rows = [("objective", trained.get("objective")), ("data", ", ".join(map(_short, manifests))), ("part", part)]
    rows.append(("clips", clips))
    if tuned:
        task = "binary cross-entropy of each class" if tuned.get("multi_label") else "cross-entropy of the classes"
        before, steps = tuned.get("pretrained"), (tuned.get("pretraining") or {}).get("steps")
        start = "random weights" if before is None else _short(before) + (f", of {steps} steps" if steps else "")
        rows = [("objective", task), ("initialized from", start), *rows[1:]]
    rows += [(label, trained.get(key)) for key, label in TRAINED.items()]
    return "\n".join(["## Training", "", *_table(("", ""), [row for row in rows if row[1] not in (None, "")])])


def find_reports(model: HubModel, source: Path, trained: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the reports of evaluations of this model, in order of the names of their files."""
    own = {key: value for key, value in trained.items() if key != "finetuning"}
    reports = []
    for file in sorted({*source.glob("*.json"), *source.absolute().parent.glob("*.json")}, key=lambda file: file.name):
        report = read_record(file)
        if not report or "title" not in report:
            continue
        if "protocol" in report and list(_directions(report)):
            belongs = report.get("model") == model.model_hash()
        else:  # `vatt finetune test` stores the training record of the tested model under 'fine-tuning'
            belongs = report.get("fine-tuning") == own and any(label in report for label in CLASSIFICATION)
        if belongs:
            reports.append(report)
    return reports


def eval_results(report: dict[str, Any]) -> Iterable[EvalResult]:
    """Yield the metrics of a report as metadata of the Hub."""
    name = _dataset(report)
    about = {"dataset_type": name.replace("/", "-"), "dataset_name": name, "dataset_split": report.get("split")}
    for direction, metrics in _directions(report):
        task = {"task_type": "feature-extraction", "task_name": _label(direction) + " retrieval"}
        for key, metric in RETRIEVAL.items():
            yield EvalResult(
                metric_type=metric,
                metric_name=f"{_label(direction)} {key}",
                metric_value=metrics[key],
                **task,
                **about,
            )
    for label, metric in CLASSIFICATION.items():
        if isinstance(report.get(label), (int, float)):
            task = {"task_type": f"{report['title'].rpartition(' ')[2]}-classification"}
            yield EvalResult(metric_type=metric, metric_name=label, metric_value=report[label], **task, **about)


def results_section(reports: Sequence[dict[str, Any]]) -> str:
    """Return the section with a table of each report; empty if there are none."""
    parts = ["## Results"] if reports else []
    for report in reports:
        count = report.get("clips present") or f"{report.get('clips_present')} of {report.get('clips_expected')}"
        part = report.get("part") or (f"split {report['split']}" if report.get("split") else "all")
        parts.append(
            f"{report['title']}: {_dataset(report)}, {part}, {count} clips; vatt {report.get('code', 'unknown')}"
        )
        if "text_to_video" in report or "audio_to_video" in report:
            rows = [
                (_label(direction), *(_number(metrics, key) for key in RETRIEVAL))
                for direction, metrics in _directions(report)
            ]
            parts.append("\n".join(_table(("(chance level in parentheses)", *RETRIEVAL), rows)))
        else:
            rows = [(label, f"{report[label]:.2f}") for label in CLASSIFICATION if label in report]
            parts.append("\n".join(_table(("", ""), rows)))
    return "\n\n".join(parts)


def _directions(report: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((key, metrics) for key, metrics in report.items() if isinstance(metrics, dict) and "R@1" in metrics)


def _label(direction: str) -> str:
    return direction.replace("_", " ")


def _dataset(report: dict[str, Any]) -> str:
    protocol = report.get("protocol")
    name = report.get("source") or report.get("data") or "unnamed"
    return protocol if protocol in ("youcook2", "msrvtt-1ka", "msrvtt-full") else _short(name)


def _number(metrics: dict[str, Any], key: str) -> str:
    chance = metrics.get("chance", {}).get(key)
    return f"{metrics[key]:g}" + ("" if chance is None else f" ({chance:g})")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _short(path: str) -> str:
    """Return the last two parts of a path, so that the model card does not reveal directories of the user."""
    return "/".join(Path(path).parts[-2:])
