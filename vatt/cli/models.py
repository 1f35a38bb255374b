"""The commands on models alone: official checkpoints in, ONNX out, and how much computing a model is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from vatt.cli.ranges import Count, DropRate, Positive
from vatt.errors import InputError
from vatt.resources import find_config

if TYPE_CHECKING:
    from vatt.hub.official.weights import Loaded
    from vatt.models.vatt import VATT, Classifier


def convert(
    official: str,
    output: str,
    head_width: Count | None = None,
    num_words: Count | None = None,
    num_frames: Count | None = None,
    size: Count | None = None,
    fps: Positive | None = None,
    sample_rate: Count | None = None,
    vocabulary: str | None = None,
    classes: str | None = None,
) -> int:
    """Convert weights of VATT (TensorFlow 2), VideoMAE, V-JEPA or V-JEPA 2 to a model directory.

    Modality-specific, modality-agnostic and fine-tuned checkpoints of VATT are told apart by their variables, and their
    sizes are read from the shapes. The released V-JEPA, and Hugging Face's V-JEPA 2 and VideoMAE, become a model of
    video alone. Every variable must find its place: what is missing or unknown is an error.

    Args:
        official: of VATT, ckpt-N.index, a directory with it, or an .npz with keys weight/PATH; of V-JEPA its .pth.tar;
            of V-JEPA 2 and VideoMAE a directory with config.json, the weights and the preprocessing files.
        output: folder that gets model.safetensors and config.json.
        head_width: width of the attention's heads, which no variable says; needed for sizes that were not released.
        num_words: most words of a text, where the model has no positions that say it; 16 unless given.
        num_frames: frames of a clip; unless given, as many as fill the position tables.
        size: height and width of a clip's pictures in pixels; unless given, what fills the position tables.
        fps: frames per second of a clip; unless given, 10, and 12.5 for a fine-tuned video model.
        sample_rate: of the sound, in Hz; unless given, what fills the position table in the model's own clips.
        vocabulary: file with one word a line, whose number is the word's id, as the official code has it.
        classes: file with the names of a fine-tuned model's classes, one a line, in order.
    """
    from dataclasses import replace

    from vatt.datasets.text.vocabularies import WordVocabulary
    from vatt.hub.official import sizes, video
    from vatt.hub.official.files import read_variables
    from vatt.hub.official.identify import check_output, identify
    from vatt.models.card import CONVERSION
    from vatt.models.vatt import VATT

    check_output(output)
    if others := (identify(official) == "video"):
        if num_words is not None:
            raise InputError("this model has no text: leave --num_words out")
        model, report = video.convert(official, head_width)
    else:
        model, report = sizes.convert(read_variables(official), head_width, num_words)
    given = {"num_frames": num_frames, "size": size, "fps": fps, "sample_rate": sample_rate}
    try:
        model.format = replace(model.format, **{name: value for name, value in given.items() if value is not None})
        for modality in model.backbone.modalities:
            model.backbone.tokenizers[modality].grid_of(model.format)
    except ValueError as error:
        raise InputError(f"clips of this format do not fit the model: {error}") from error
    texts = isinstance(model, VATT) and not others
    words = None
    if vocabulary is not None:
        if not texts:
            raise InputError("this model has no text: leave --vocabulary out")
        words = WordVocabulary.read(vocabulary)
        most = model.backbone.tokenizers["text"].vocabulary_size
        if len(words) > most:
            raise InputError(f"{vocabulary} has {len(words)} lines, the model has embeddings for {most} words")
    elif (Path(output) / "vocabulary").exists():
        way = "give --vocabulary, or another folder" if texts else "give another folder"
        raise InputError(f"{output} holds the vocabulary of another model: {way}")
    if classes is not None:
        if isinstance(model, VATT):
            raise InputError("this model has no classes: leave --classes out")
        model.classes = _read_classes(classes, model.head.classes)
    origin = json.dumps({"source": str(official), "notes": report.notes}, indent=1)
    model.save_pretrained(
        output, vocabulary=words, extra_files={CONVERSION: lambda path: path.write_text(origin, encoding="utf-8")}
    )
    model.write_card(output)
    _say(official, model, report, assumed=head_width is None and not others)
    if texts and words is None:
        print("no --vocabulary was given: the model takes ids, not words, and texts cannot be embedded or searched for")
    if not isinstance(model, VATT) and model.modality == "video" and size is None:
        print(f"clips are {model.format.size} x {model.format.size}; the paper's fine-tuned numbers are at --size 320")
    print(f"model: {output}    vatt.{type(model).__name__}.from_pretrained({output!r})")
    return 0


def _read_classes(path: str, count: int) -> list[str]:
    """Read the names of classes. Names may occur twice, as in some published lists.

    Raises:
        InputError: The number of lines differs from ``count``.
    """
    from vatt.datasets.names import clean
    from vatt.io import read_lines

    names = [clean(line) for line in read_lines(path)]
    if len(names) != count:
        raise InputError(f"{path} has {len(names)} lines, but the model has {count} classes")
    return names


def _say(official: str, model: VATT | Classifier, report: Loaded, assumed: bool) -> None:
    """What was found, and what became of every variable."""
    backbone, classes = model.backbone, getattr(model, "head", None)
    kind = f"modality-{'agnostic' if backbone.shared else 'specific'}: " + ", ".join(backbone.modalities)
    if classes is not None:
        kind = f"fine-tuned: {model.modality}, {classes.classes} classes"
    print(f"{official}: {kind}")
    for modality in backbone.modalities:
        encoder = backbone.encoder(modality)
        line = f"  {modality:6} {encoder.width} wide, places {backbone.tokenizers[modality].grid}"
        blocks = getattr(encoder, "blocks", None)
        if blocks is not None:
            line += f", {len(blocks)} blocks of {blocks[0].attention.heads} heads of {blocks[0].attention.head_width}"
            if assumed and encoder.relative is None:
                line += " (no variable says how wide heads are: --head_width)"
        print(line)
    print(
        f"variables: loaded {len(report.loaded)}, ignored {len(report.ignored)}, missing {len(report.missing)}, "
        f"unknown {len(report.unknown)}"
    )
    many = {
        "the optimizer": lambda path: path.startswith("optimizer/") or "/.OPTIMIZER_SLOT/" in path,
        "the predictor": lambda path: path.startswith("predictor."),
        "the decoder": lambda path: path.startswith("decoder."),
    }
    left = sorted(report.ignored)
    for what, is_of in many.items():
        if found := sum(map(is_of, left)):
            print(f"  ignored: {found} of {what}")
            left = [path for path in left if not is_of(path)]
    for path in left:
        print(f"  ignored: {path}")
    print("\n".join([f"clips: {model.format}", *report.notes]))


def onnx(model: str, output: str) -> int:
    """Write each encoder of a model as an ONNX file, for use without PyTorch.

    A VATT gives video.onnx, audio.onnx and text.onnx, whose outputs are unit vectors named by their space; a classifier
    gives one file with logits and probabilities. Batches may be of any size. Each file is compared with the model by
    onnxruntime, where that is installed, and is not written if it is not equal. onnx.json says what goes in and out.

    Args:
        model: folder of a model, or its name on the Hugging Face Hub.
        output: folder that gets the files.
    """
    from vatt.hub.onnx_export import export_onnx
    from vatt.models.vatt import load_model

    made = export_onnx(load_model(model), output)
    for one in made:
        wide = ", ".join(f"{name} ({width})" for name, width in one.outputs.items())
        told = "not compared" if one.difference is None else f"equal to {one.difference:.0e}"
        print(f"{one.file}: {wide}; {told}")
    if any(one.difference is None for one in made):
        print('compared with nothing, because onnxruntime is not installed: pip install "vatt[onnx]"')
    print(f"inputs and outputs: {Path(output) / 'onnx.json'}")
    return 0


def flops(
    config: str,
    num_frames: Count | None = None,
    size: Count | None = None,
    drop: DropRate | None = None,
) -> int:
    """Count the operations of one clip's way through the towers of a pretraining configuration.

    Args:
        config: Pretraining configuration: a file or the name of a packaged one.
        num_frames: frames of the clip; what the configuration says unless given.
        size: height and width of its pictures in pixels; what the configuration says unless given.
        drop: share of the video and audio tokens that DropToken leaves out; what the configuration says unless given.
    """
    from dataclasses import replace

    import torch

    from vatt.cli.commands import print_table
    from vatt.cli.training import build_pretraining
    from vatt.models.flops import count_flops

    find_config(config)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    with torch.device("meta"):
        cli = build_pretraining(["--config", config, "--data.manifest=none", "--data.vocabulary=null"])
    backbone, format = cli.model.backbone, cli.datamodule.format
    shares = dict(getattr(cli.model.objective, "drop", {}))
    if drop is not None:
        shares |= {"video": drop, "audio": drop}
    try:
        given = {"num_frames": num_frames, "size": size}
        format = replace(format, **{name: value for name, value in given.items() if value is not None})
        counted = count_flops(backbone, format, shares)
    except ValueError as error:
        raise InputError(str(error)) from error
    rows, total = [], 0.0
    for found in counted:
        times = format.num_texts if found.modality == "text" else 1
        total += times * found.all
        name = found.modality if times == 1 else f"{found.modality} (each of {times})"
        rows.append((name, found.tokens, found.kept, f"{found.all / 1e9:.2f}", f"{found.scores / 1e9:.2f}"))
    rows.append(("clip", "", "", f"{total / 1e9:.2f}", ""))
    title = f"{config}, forward, {format.num_frames} frames of {format.size} x {format.size}"
    print_table(title, ("", "tokens", "kept", "GFLOPs", "of them q·k"), rows)
    print(f"parameters of the backbone: {sum(p.numel() for p in backbone.parameters()) / 1e6:.2f} million")
    return 0
