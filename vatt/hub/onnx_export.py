"""The encoders of a model as ONNX files, for use without PyTorch.

This file alone imports onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.saving import INPUTS
from vatt.models.vatt import SPACES, VATT, Classifier
from vatt.structures import ClipFormat

ABOUT = "onnx.json"  # beside the files
TOLERANCE = 1e-4  # of an output's largest value; other kernels round otherwise, by about 1e-6
TRACED, CHECKED = 2, (1, 3)  # clips of the batch that a graph is made with, and of those that it is tried on
FEATURES = "features"  # output of an encoder without common spaces
SCORES = ("logits", "probabilities")


@dataclass(frozen=True)
class Exported:
    """One encoder.

    Args:
        modality: its input's name.
        file: of the graph.
        outputs: width by name: common spaces of a VATT, ``logits`` and ``probabilities`` of a classifier.
        difference: largest one between onnxruntime's outputs and PyTorch's, as a share of the output's largest value;
            None without onnxruntime.
    """

    modality: str
    file: Path
    outputs: dict[str, int]
    difference: float | None


class _Encoder(nn.Module):
    """One modality of a model: raw signal to a tuple of what is asked for."""

    def __init__(self, model: VATT | Classifier, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.classifier = model if isinstance(model, Classifier) else None
        if self.classifier is None:
            self.tower, self.projection = model.backbone.tower(modality), model.projection
        self.eval()

    def named(self, raw: Tensor) -> dict[str, Tensor]:
        """Return unit vectors by space, as ``VATT.encode_*`` does; pooled features without spaces; or scores."""
        if self.classifier is not None:
            out = self.classifier(**{self.modality: raw})
            return {name: out[name] for name in SCORES}
        pooled = self.tower(self.modality, raw).pooled
        out = self.projection({self.modality: pooled})
        found = {space: out.get(f"{self.modality}_{suffix}") for space, suffix in SPACES.items()}
        spaces = {space: F.normalize(x, dim=-1) for space, x in found.items() if x is not None}
        return spaces or {FEATURES: pooled}

    def forward(self, raw: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(raw).values())


def export_onnx(model: VATT | Classifier, folder: str | Path) -> list[Exported]:
    """Write ``video.onnx``, ``audio.onnx`` and ``text.onnx``, as far as the model has them, and ``onnx.json``.

    Inputs are named by modality and have the shapes of ``model.format``, for any number of clips. Outputs of a `VATT`
    are unit vectors named by their space, or pooled ``features`` if it has no spaces, like converted video encoders;
    those of a `Classifier` are ``logits`` and ``probabilities``. Each file is compared with the model by onnxruntime,
    if that is installed. Weights of more than about 2 GB are stored in a separate file (``video.onnx.data``). The
    vocabulary of a saved model is copied.

    Args:
        model: in evaluation mode, on the CPU, in single precision, as ``from_pretrained`` gives it.
        folder: where the files go; an earlier export of the same model is replaced.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        InputError: the model is not as above, the folder holds another model's export, an encoder cannot be said in
            ONNX, or onnxruntime comes to other outputs. Nothing is left in the folder then.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'ONNX files are written with {package}: pip install "vatt[onnx]"')
    odd = next((p for p in model.parameters() if p.device.type != "cpu" or p.dtype != torch.float32), None)
    if model.training or odd is not None:
        raise InputError("export a model in use, on the CPU, in single precision: model.eval().cpu().float()")
    folder, model_hash = Path(folder), model.model_hash()
    about = folder / ABOUT
    if about.is_file() and json.loads(about.read_text(encoding="utf-8")).get("model_hash") != model_hash:
        raise InputError(f"{folder} holds the export of another model: choose another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx.") as unfinished:
        made = [_export(model, modality, Path(unfinished)) for modality in model.backbone.modalities]
        (Path(unfinished) / ABOUT).write_text(json.dumps(_about(model, model_hash, made), indent=1), encoding="utf-8")
        for file in sorted(Path(unfinished).iterdir()):
            os.replace(file, folder / file.name)
    model.save_vocabulary(folder)
    return [Exported(one.modality, folder / one.file.name, one.outputs, one.difference) for one in made]


def _export(model: VATT | Classifier, modality: str, folder: Path) -> Exported:
    encoder, file = _Encoder(model, modality), folder / f"{modality}.onnx"
    with torch.inference_mode(False), torch.no_grad():
        raw = example(model, modality, TRACED)
        # Tables that depend on sizes alone are made here, and are constants of the graph.
        outputs = {name: x.shape[1] for name, x in encoder.named(raw).items()}
        try:
            with _quiet():
                program = torch.onnx.export(
                    encoder,
                    (raw,),
                    input_names=[modality],
                    output_names=list(outputs),
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    dynamo=True,
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as error:
            parts = model.backbone.tokenizers[modality], model.backbone.encoder(modality)
            kinds = " and ".join(type(part).__name__ for part in parts)
            raise InputError(
                f"the {modality} encoder ({kinds}) cannot be said in ONNX: {_reason(error)}. VATT_TRACE=1 shows all"
            ) from error
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in whose folders the code lies
        program.save(file)  # by itself in two files where it is too large for one
        return Exported(modality, file, outputs, _check(encoder, model, modality, file, list(outputs)))


def example(model: VATT | Classifier, modality: str, clips: int) -> Tensor:
    """Clips of noise, or texts of random ids, each shorter than the one before, always the same."""
    made, format = torch.Generator().manual_seed(clips), model.format
    if modality != "text":
        return 2 * torch.rand(clips, *_shape(format, modality), generator=made) - 1
    text = model.backbone.tokenizers["text"]
    ids = torch.randint(text.vocabulary_size, (clips, format.num_words), generator=made)
    lengths = format.num_words - torch.arange(clips).unsqueeze(1)
    return ids.masked_fill(torch.arange(format.num_words) >= lengths, text.pad_id)


def _check(encoder: _Encoder, model: VATT | Classifier, modality: str, file: Path, names: list[str]) -> float | None:
    """The difference of `Exported`.

    Raises:
        InputError: it is more than the tolerance, or onnxruntime cannot read or run the file.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    batches = [example(model, modality, clips) for clips in CHECKED]
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = [session.run(names, {modality: raw.numpy()}) for raw in batches]
    except Exception as error:  # its errors have no common class
        raise InputError(f"onnxruntime cannot run {file.name}: {_reason(error)}. Nothing was written") from error
    worst = 0.0
    for raw, outputs in zip(batches, found, strict=True):
        for name, got, wanted in zip(names, outputs, encoder(raw), strict=True):
            share = float((torch.from_numpy(got) - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
            if not share <= TOLERANCE:  # NaN is not
                raise InputError(
                    f"{file.name} is not equal to the model: {name} of {len(raw)} clips differs by {share:.2g} of its "
                    f"largest value, more than {TOLERANCE:g}. Nothing was written"
                )
            worst = max(worst, share)
    return worst


def _about(model: VATT | Classifier, model_hash: str, made: list[Exported]) -> dict[str, Any]:
    """What a program has to know to use the files."""
    encoders = {
        one.modality: {
            "file": one.file.name,
            "input": {
                "name": one.modality,
                "type": "int64" if one.modality == "text" else "float32",
                "shape": ["batch", *_shape(model.format, one.modality)],
                "meaning": INPUTS[one.modality],
            },
            "outputs": {name: ["batch", width] for name, width in one.outputs.items()},
            "difference_to_pytorch": one.difference,
        }
        for one in made
    }
    if "text" in encoders:
        encoders["text"]["input"]["pad_id"] = model.backbone.tokenizers["text"].pad_id
    said = {"model": type(model).__name__, "model_hash": model_hash, "format": model.format.to_dict()}
    classes = {"classes": model.classes} if isinstance(model, Classifier) else {}
    return {**said, **classes, "encoders": encoders, "torch": torch.__version__}


def _shape(format: ClipFormat, modality: str) -> tuple[int, ...]:
    """Of one clip."""
    return {
        "video": (format.num_frames, 3, format.size, format.size),
        "audio": (format.num_samples,),
        "text": (format.num_words,),
    }[modality]


def _reason(error: BaseException) -> str:
    """The innermost error's first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says of packages that are not there and constants that it does not fold."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
