"""The commands on models alone: official checkpoints in, and how much computing a model is."""

from __future__ import annotations

import logging
from pathlib import Path


def convert(
    official: str,
    output: str,
    head_width: int | None = None,
    num_words: int | None = None,
    num_frames: int | None = None,
    size: int | None = None,
    fps: float | None = None,
    sample_rate: int | None = None,
    vocabulary: str | None = None,
    classes: str | None = None,
) -> int:
    """Turn a checkpoint of the official TensorFlow 2 VATT into a model folder.

    Modality-specific, modality-agnostic and fine-tuned checkpoints are told apart by their variables, and their sizes
    are read from the shapes. Every variable must find its place: what is missing or unknown is an error.

    Args:
        official: ckpt-N.index, a folder with it, or an .npz with keys weight/PATH.
        output: folder that gets model.safetensors and config.json.
        head_width: of the attention's heads, which no shape says; 64, as in all released sizes, unless the text tower
            tells it.
        num_words: most words of a text; 16 unless the model's positions say it.
        num_frames: of the clips the model is given; what fills the position tables unless given.
        size: of their pictures, in pixels; likewise.
        fps: of their frames; 10, and 12.5 for a fine-tuned video model, unless given.
        sample_rate: of the sound, in Hz; what fills the position table unless given.
        vocabulary: file with one word a line, whose number is the word's id, as the official code has it.
        classes: file with the names of a fine-tuned model's classes, one a line, in order.
    """
    from dataclasses import replace

    from vatt.datasets.text import WordVocabulary
    from vatt.errors import InputError
    from vatt.models.backbone import grid_of
    from vatt.models.official_files import read_variables
    from vatt.models.official_sizes import convert as run
    from vatt.models.official_sizes import heads_are_said
    from vatt.models.vatt import VATT

    variables = read_variables(official)
    model, report = run(variables, head_width, num_words)
    given = {"num_frames": num_frames, "size": size, "fps": fps, "sample_rate": sample_rate}
    model.format = replace(model.format, **{name: value for name, value in given.items() if value is not None})
    for modality in model.backbone.modalities:
        try:
            grid_of(model.backbone.tokenizers[modality], modality, model.format)
        except ValueError as error:
            raise InputError(f"clips of this format do not fit the {modality} tokenizer: {error}") from error
    words = None
    if vocabulary is not None:
        if not isinstance(model, VATT) or "text" not in model.backbone.modalities:
            raise InputError("this model has no text: leave --vocabulary out")
        words = WordVocabulary.read(vocabulary)
        most = model.backbone.tokenizers["text"].vocabulary_size
        if len(words) > most:
            raise InputError(f"{vocabulary} has {len(words)} lines, the model has embeddings for {most} words")
    if classes is not None:
        if isinstance(model, VATT):
            raise InputError("this model has no classes: leave --classes out")
        names = Path(classes).read_text(encoding="utf-8").splitlines()
        if len(names) != model.head.classes:
            raise InputError(f"{classes} has {len(names)} lines, the model {model.head.classes} classes")
        model.classes = names
    model.save_pretrained(output)
    if words is not None:
        words.save(Path(output) / "vocabulary")

    backbone = model.backbone
    shared = "modality-agnostic" if backbone.shared else "modality-specific"
    kind = f"{shared}: " + ", ".join(backbone.modalities)
    if not isinstance(model, VATT):
        kind = f"fine-tuned: {model.modality}, {model.head.classes} classes"
    print(f"{official}: {kind}")
    for modality in backbone.modalities:
        encoder = backbone.encoder(modality)
        blocks = getattr(encoder, "blocks", [])
        heads = f", {blocks[0].attention.heads} heads of {blocks[0].attention.head_width}" if len(blocks) else ""
        grid = backbone.tokenizers[modality].grid
        print(f"  {modality:6} {len(blocks)} blocks of {encoder.width}{heads}, places {grid}")
    if head_width is None and not heads_are_said(variables):
        print("  heads of 64 are the released sizes'; no variable says it: set --head_width if this model has others")
    print(f"loaded {len(report.loaded)}, ignored {len(report.ignored)}, missing 0, unknown 0 variables")
    for path in sorted(report.ignored)[:10]:
        print(f"  ignored: {path}")
    if len(report.ignored) > 10:
        print(f"  … and {len(report.ignored) - 10} more of the kind (optimizer, counters)")
    print(f"clips: {model.format}")
    print(f"model: {output}    vatt.{type(model).__name__}.from_pretrained({output!r})")
    return 0


def flops(
    config: str,
    num_frames: int | None = None,
    size: int | None = None,
    drop: float | None = None,
) -> int:
    """Count the operations of one clip's way through the towers of a pretraining configuration.

    Args:
        config: pretraining configuration.
        num_frames: of the clip; what the configuration says unless given.
        size: of its pictures in pixels; likewise.
        drop: share of the video and audio tokens that DropToken leaves out; what the configuration says unless given.
    """
    from dataclasses import replace

    import torch

    from vatt.cli.commands import print_table
    from vatt.cli.training import build_pretraining
    from vatt.models.flops import count_flops

    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    with torch.device("meta"):
        cli = build_pretraining(["--config", config, "--data.manifest=none", "--data.vocabulary=null"])
    given = {"num_frames": num_frames, "size": size}
    format = replace(cli.datamodule.format, **{name: value for name, value in given.items() if value is not None})
    shares = dict(getattr(cli.model.objective, "drop", {}))
    if drop is not None:
        shares |= {"video": drop, "audio": drop}
    backbone = cli.model.backbone
    rows, total = [], 0.0
    for found in count_flops(backbone, format, shares):
        times = format.num_texts if found.modality == "text" else 1
        total += times * found.all
        name = found.modality if times == 1 else f"{found.modality} (each of {times})"
        rows.append((name, found.tokens, found.kept, f"{found.all / 1e9:.2f}", f"{found.scores / 1e9:.2f}"))
    rows.append(("clip", "", "", f"{total / 1e9:.2f}", ""))
    title = f"{config}, forward, {format.num_frames} frames of {format.size} x {format.size}"
    print_table(title, ("", "tokens", "kept", "GFLOPs", "of them q·k"), rows)
    counted = sum(p.numel() for p in backbone.parameters())
    print(f"parameters of the backbone: {counted / 1e6:.2f} million")
    return 0
