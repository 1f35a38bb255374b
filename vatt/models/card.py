"""The model card, README.md, generated from the files in the model directory and the run directory.

These files are ``training.json`` (`vatt.training.export.ExportModel`) or ``conversion.json`` (``vatt convert``), and
the reports of ``vatt finetune test`` and ``vatt retrieve --output`` in or next to the model directory if they belong to
this model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vatt.structures import ClipFormat

if TYPE_CHECKING:
    from vatt.models.hub import HubModel

PAGE, TRAINING, CONVERSION = "README.md", "training.json", "conversion.json"
VOCABULARY = "vocabulary"  # a folder; see vatt.datasets.text
MARK = "<!-- vatt"  # begins the last line of a page that nobody has changed
LARGEST = 2**20  # bytes of a report
CLASSIFICATION = {  # label in a report: metric of the Hub
    "top-1 (%)": "accuracy",
    "top-5 (%)": "top_5_accuracy",
    "mAP (%)": "mean_average_precision",
    "AUC (%)": "roc_auc",
    "d′": "dprime",
}
RETRIEVAL = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10", "MedR": "median_rank"}
TRAINED = {  # in training.json: on the page
    "weights": "weights",
    "steps": "steps",
    "batch": "clips of a step",
    "minutes": "minutes",
    "seed": "seed",
    "gpu": "GPU",
    "machine": "machine",
    "torch": "PyTorch",
}


def make_card(model: HubModel, name: str, source: Path | None) -> ModelCard:
    """The page of a model.

    Args:
        model: that it is of.
        name: folder or name on the Hub by which the example loads it.
        source: folder in which, and beside which, is what is known of its training; None if there is none.
    """
    trained = _read(source / TRAINING) if source is not None else None
    reports = _reports(model, source, trained) if source is not None and trained else []
    data = ModelCardData(
        library_name="vatt",
        tags=["vatt", *model.backbone.modalities],
        pipeline_tag=f"{model.modality}-classification" if _classifies(model) else "feature-extraction",
        model_name=_title(name),
        eval_results=[result for report in reports for result in _results(report)] or None,
    )
    words = source is not None and (source / VOCABULARY).is_dir()
    converted = _read(source / CONVERSION) if source is not None and not trained else None
    origin = _conversion(converted) if converted else _training(trained)
    parts = [_about(model), _use(model, name, words), _sizes(model), origin, _tested(reports), _limits()]
    text = _stable("\n\n".join(["---\n" + data.to_yaml().strip() + "\n---", *filter(None, parts)]))
    return ModelCard(f"{text}\n\n{MARK} {_digest(text)}: once this page is changed, vatt leaves it alone -->\n")


def is_edited(text: str) -> bool:
    """Whether a page is another one than `make_card` has written."""
    page, mark, last = text.rpartition(MARK)
    told, _, after = last.partition("-->")
    return not mark or told.split(":")[0].strip() != _digest(page + after)


def _digest(page: str) -> str:
    return sha256("\n".join(page.split()).encode()).hexdigest()[:12]


def _stable(text: str) -> str:
    """As it is after it was read and written again."""
    return str(ModelCard(str(ModelCard(text)))).strip()


def _about(model: HubModel) -> str:
    backbone, modalities = model.backbone, _listed(model.backbone.modalities)
    if _classifies(model):
        head = f"# A classifier of {modalities}\n\n{model.head.classes} classes"
        head += ", which do not exclude each other" if model.head.multi_label else ""
        head += f", such as {', '.join(model.classes[:3])}" if model.classes else ""
    else:
        kind = "modality-agnostic: one transformer" if backbone.shared else "modality-specific: a transformer each"
        comparable = "Vectors that can be compared with each other come out."
        spaces = comparable if model.projection.branches else "It returns pooled features."
        head = f"# A VATT model of {modalities}\n\n{kind} for {modalities}. {spaces}".replace("\n\nm", "\n\nM")
    return f"{head.rstrip('.')}. Made with vatt, [VATT](https://arxiv.org/abs/2104.11178) in PyTorch Lightning."


def _use(model: HubModel, name: str, words: bool) -> str:
    f, backbone = model.format, model.backbone
    lines = [
        "import torch",
        "import vatt",
        "",
        f"model = vatt.{type(model).__name__}.from_pretrained({json.dumps(name)})",
    ]
    if "video" in backbone.modalities:
        shape = f"1, {f.num_frames}, 3, {f.size}, {f.size}"
        lines.append(f"video = torch.zeros({shape})  # {f.num_frames} frames at {f.fps:g} fps, RGB in [-1, 1]")
    if "audio" in backbone.modalities:
        lines.append(
            f"audio = torch.zeros(1, {f.num_samples})  # {f.sound_s:g} s at {f.sample_rate} Hz, mono in [-1, 1]"
        )
    if "text" in backbone.modalities and words:
        lines += [
            'vocabulary = vatt.load_vocabulary(model.folder / "vocabulary")',
            f'ids = vocabulary.encode("a dog runs along the beach")[:{f.num_words}]',
            f"text = torch.tensor([ids + [vocabulary.pad_id] * ({f.num_words} - len(ids))])",
        ]
    elif "text" in backbone.modalities:
        pad = backbone.tokenizers["text"].pad_id
        lines.append(f"text = torch.tensor([[5, 6] + [{pad}] * {f.num_words - 2}])  # ids of the vocabulary, padded")
    if _classifies(model):
        lines += [
            "",
            "with torch.inference_mode():",
            f'    probabilities = model({model.modality}={model.modality})["probabilities"][0]',
            "for place in probabilities.argsort(descending=True)[:5].tolist():",
            f"    print({'model.classes[place]' if model.classes else 'place'}, float(probabilities[place]))",
        ]
        return "\n".join(["## Use", "", "```python", *lines, "```"])
    has = {f"{m}_{space}" for m, steps in model.projection.branches.items() for space in (n[-2:] for n, _ in steps)}
    lines += ["", "with torch.inference_mode():  # unit vectors (1, E), whose products are cosine similarities"]
    for other, suffix, space in (("audio", "va", "video_audio"), ("text", "vt", "video_text")):
        there = [m for m in ("video", other) if m in backbone.modalities and f"{m}_{suffix}" in has]
        calls = [f'model.encode_{m}({m}, "{space}")' for m in there]
        if calls:
            lines.append(f"    print({calls[0]} @ {calls[-1]}.T)")
    if not has:
        modality = backbone.modalities[0]
        features = f'model({modality}={modality})["{modality}"]'
        lines[-1:] = ["with torch.inference_mode():", f"    print({features}.shape)  # pooled features"]
    shell = ["vatt embed path/to/videos --model " + name, "vatt index embeddings --output index"]
    shell[0] += " --output embeddings"
    search = ["", "```bash", *shell, 'vatt search index "what to look for"', "```"] if words else []
    return "\n".join(["## Use", "", "```python", *lines, "```", *search])


def _sizes(model: HubModel) -> str:
    backbone, f = model.backbone, model.format
    rows = []
    for modality in backbone.modalities:
        tokenizer, encoder = backbone.tokenizers[modality], backbone.encoder(modality)
        count = _count(tokenizer) + _count(encoder)
        shared = " (the encoder is shared)" if backbone.shared else ""
        rows.append(
            f"| {modality} | {type(tokenizer).__name__}, {' x '.join(map(str, tokenizer.grid))} places | "
            f"{type(encoder).__name__}, {encoder.width} wide | {count / 1e6:.2f} million{shared} |"
        )
    rows.append(f"| all, with heads | | | {_count(model) / 1e6:.2f} million |")
    said = {"video": _video(f), "audio": f"{f.sound_s:g} s at {f.sample_rate} Hz", "text": f"{f.num_words} words"}
    clips = "; ".join(f"{m} {said[m]}" for m in backbone.modalities)
    head = ["## Model", "", "| | tokens | encoder | parameters |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, "", f"Clips: {clips}."])


def _video(f: ClipFormat) -> str:
    cut = "" if f.crop_box == (0.0, 0.0, 1.0, 1.0) else f", cut to {', '.join(f'{x:g}' for x in f.crop_box)}"
    return f"{f.num_frames} frames at {f.fps:g} fps, {f.size} x {f.size} pixels{cut}"


def _conversion(converted: dict[str, Any]) -> str:
    """Return the section on the checkpoint that a model was converted from; see `vatt.cli.models.convert`."""
    sentences = [f"Converted from {_short(str(converted.get('source')))}.", *map(str, converted.get("notes", []))]
    return "## Conversion\n\n" + " ".join(sentences)


def _training(trained: dict[str, Any] | None) -> str:
    if not trained:
        return "## Training\n\nHow it was trained is not noted beside the model."
    tuned = trained.get("finetuning") or {}
    origin = tuned.get("data") or {}
    manifests = trained.get("data") or [origin[key] for key in ("manifest",) if key in origin]
    part = origin.get("part") or ", ".join(f"split {name}" for name in trained.get("splits", []))
    clips = f"{trained.get('train_clips', 'unknown')} to train on, {trained.get('val_clips', 'unknown')} to validate on"
    rows = [("objective", trained.get("objective")), ("data", ", ".join(map(_short, manifests))), ("part", part)]
    rows.append(("clips", clips))
    if tuned:
        task = "binary cross-entropy of each class" if tuned.get("multi_label") else "cross-entropy of the classes"
        before, steps = tuned.get("pretrained"), (tuned.get("pretraining") or {}).get("steps")
        begun = "random weights" if before is None else _short(before) + (f", of {steps} steps" if steps else "")
        rows = [("objective", task), ("begun from", begun), *rows[1:]]
    rows += [(said, trained.get(key)) for key, said in TRAINED.items()]
    return "\n".join(["## Training", "", *_table(("", ""), [row for row in rows if row[1] not in (None, "")])])


def _tested(reports: Sequence[dict[str, Any]]) -> str:
    parts = ["## Results"] if reports else []
    for report in reports:
        of = report.get("clips present") or f"{report.get('clips_present')} of {report.get('clips_wanted')}"
        part = report.get("part") or (f"split {report['split']}" if report.get("split") else "all")
        parts.append(f"{report['title']}: {_dataset(report)}, {part}, {of} clips; vatt {report.get('code', 'unknown')}")
        if "text_to_video" in report or "audio_to_video" in report:
            rows = [(_spoken(way), *(_number(found, key) for key in RETRIEVAL)) for way, found in _ways(report)]
            parts.append("\n".join(_table(("(in brackets: chance)", *RETRIEVAL), rows)))
        else:
            rows = [(label, f"{report[label]:.2f}") for label in CLASSIFICATION if label in report]
            parts.append("\n".join(_table(("", ""), rows)))
    return "\n\n".join(parts)


def _limits() -> str:
    return (
        "## Limits\n\nIt knows only what it was trained on: clips of another kind, other words and other lengths may "
        "come to vectors or scores that mean nothing, and what its data had too much or too little of, it has too.\n\n"
        "## Licence\n\nNot stated. Whoever shares this model says here, and as `license:` above, under which terms, "
        "which its data may restrict."
    )


def _reports(model: HubModel, source: Path, trained: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the evaluations of this model, in order of the files' names."""
    own = {key: value for key, value in trained.items() if key != "finetuning"}
    found = []
    for file in sorted({*source.glob("*.json"), *source.absolute().parent.glob("*.json")}, key=lambda file: file.name):
        report = _read(file)
        if not report or "title" not in report:
            continue
        if "protocol" in report and list(_ways(report)):
            belongs = report.get("model") == model.fingerprint()
        else:  # `vatt finetune test` keeps the history of what it has tested
            belongs = report.get("fine-tuning") == own and any(label in report for label in CLASSIFICATION)
        if belongs:
            found.append(report)
    return found


def _results(report: dict[str, Any]) -> Iterable[EvalResult]:
    """What a report says, as the Hub's metadata."""
    name = _dataset(report)
    about = {"dataset_type": name.replace("/", "-"), "dataset_name": name, "dataset_split": report.get("split")}
    for way, found in _ways(report):
        task = {"task_type": "feature-extraction", "task_name": _spoken(way) + " retrieval"}
        for key, metric in RETRIEVAL.items():
            yield EvalResult(
                metric_type=metric, metric_name=f"{_spoken(way)} {key}", metric_value=found[key], **task, **about
            )
    for label, metric in CLASSIFICATION.items():
        if isinstance(report.get(label), (int, float)):
            task = {"task_type": f"{report['title'].rpartition(' ')[2]}-classification"}
            yield EvalResult(metric_type=metric, metric_name=label, metric_value=report[label], **task, **about)


def _ways(report: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((way, found) for way, found in report.items() if isinstance(found, dict) and "R@1" in found)


def _spoken(way: str) -> str:
    return way.replace("_", " ")


def _dataset(report: dict[str, Any]) -> str:
    protocol = report.get("protocol")
    named = report.get("source") or report.get("data") or "unnamed"
    return protocol if protocol in ("youcook2", "msrvtt-1ka", "msrvtt-full") else _short(named)


def _number(found: dict[str, Any], key: str) -> str:
    chance = found.get("chance", {}).get(key)
    return f"{found[key]:g}" + ("" if chance is None else f" ({chance:g})")


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _short(path: str) -> str:
    """The end of a path: where somebody's folders lie is nobody's business."""
    return "/".join(Path(path).parts[-2:])


def _title(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _classifies(model: HubModel) -> bool:
    return "head" in model.parts


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON file's object; None where it is not there, or is something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= LARGEST else None
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
