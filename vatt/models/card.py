"""The model card, README.md, generated from the files in the model directory and the run directory.

These files are ``training.json`` (`vatt.training.export.ExportModel`) or ``conversion.json`` (``vatt convert``), and
the reports of ``vatt finetune test`` and ``vatt retrieve --output`` in or next to the model directory if they belong to
this model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from vatt.models.card_records import (
    conversion_section,
    eval_results,
    find_reports,
    read_record,
    results_section,
    training_section,
)
from vatt.structures import ClipFormat

if TYPE_CHECKING:
    from vatt.models.saving import HubModel

PAGE, TRAINING, CONVERSION = "README.md", "training.json", "conversion.json"
VOCABULARY = "vocabulary"  # a folder; see vatt.datasets.text.vocabularies
MARK = "<!-- vatt"  # begins the last line of a page that nobody has changed


def make_card(model: HubModel, name: str, source: Path | None) -> ModelCard:
    """The page of a model.

    Args:
        model: that it is of.
        name: folder or name on the Hub by which the example loads it.
        source: folder in which, and beside which, is what is known of its training; None if there is none.
    """
    trained = read_record(source / TRAINING) if source is not None else None
    reports = find_reports(model, source, trained) if source is not None and trained else []
    data = ModelCardData(
        library_name="vatt",
        tags=["vatt", *model.backbone.modalities],
        pipeline_tag=f"{model.modality}-classification" if _classifies(model) else "feature-extraction",
        model_name=_title(name),
        eval_results=[result for report in reports for result in eval_results(report)] or None,
    )
    words = source is not None and (source / VOCABULARY).is_dir()
    converted = read_record(source / CONVERSION) if source is not None and not trained else None
    origin = conversion_section(converted) if converted else training_section(trained)
    parts = [_about(model), _use(model, name, words), _sizes(model), origin, results_section(reports), _limits()]
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
            f"audio = torch.zeros(1, {f.num_samples})  # {f.audio_window_s:g} s at {f.sample_rate} Hz, mono in [-1, 1]"
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
    said = {
        "video": _video(f),
        "audio": f"{f.audio_window_s:g} s at {f.sample_rate} Hz",
        "text": f"{f.num_words} words",
    }
    clips = "; ".join(f"{m} {said[m]}" for m in backbone.modalities)
    head = ["## Model", "", "| | tokens | encoder | parameters |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, "", f"Clips: {clips}."])


def _video(f: ClipFormat) -> str:
    cut = "" if f.crop_box == (0.0, 0.0, 1.0, 1.0) else f", cut to {', '.join(f'{x:g}' for x in f.crop_box)}"
    return f"{f.num_frames} frames at {f.fps:g} fps, {f.size} x {f.size} pixels{cut}"


def _limits() -> str:
    return (
        "## Limits\n\nIt knows only what it was trained on: clips of another kind, other words and other lengths may "
        "come to vectors or scores that mean nothing, and what its data had too much or too little of, it has too.\n\n"
        "## Licence\n\nNot stated. Whoever shares this model says here, and as `license:` above, under which terms, "
        "which its data may restrict."
    )


def _title(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _classifies(model: HubModel) -> bool:
    return "head" in model.parts


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
