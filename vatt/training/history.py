"""How weights came about, kept beside them as plain values, and whether they may be used for what is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vatt.directories import current_directory, lock_directory
from vatt.errors import VattError
from vatt.untrusted import read_json

HISTORY = "training.json"  # beside a model
MAX_HISTORY = 2**24  # bytes
OBJECTIVE = "objective.safetensors"  # what else was trained
SHAPE = {
    "video": ("num_frames", "fps", "size", "crop_box"),
    "audio": ("sample_rate", "audio_s", "audio_downmix", "audio_overflow"),
}


class ConfigMismatch(VattError, ValueError):
    """Two parts of a configuration do not fit together, or saved weights do not fit to it."""


def history_of(folder: str | Path | None) -> dict[str, Any] | None:
    """Return the provenance that was saved with a model, or None if there is none.

    Raises:
        InputError: The file is damaged.
    """
    if not folder:
        return None
    with lock_directory(folder, shared=True):
        file = current_directory(folder) / HISTORY
        return read_json(file, MAX_HISTORY) if file.is_file() else None


def in_words(data: Mapping[str, Any] | None) -> str:
    """What a classifier was trained on (`vatt.datasets.labelled.LabelledDataModule.origin`), None where not told."""
    if data is None:
        return "clips of no manifest"
    return f"{data['clips']} clips of {data['manifest']}, {data['part']}"


def check_classifier(found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """See that a classifier is for the same classes, in the same order, of the same modality.

    Args:
        found: ``classes``, ``modality`` and ``multi_label`` of the classifier, if they are known.
        wanted: the same of what is asked.
        what: the classifier, for the error.

    Raises:
        ConfigMismatch: it is not.
    """
    for name in ("modality", "multi_label"):
        if found.get(name) != wanted[name]:
            raise ConfigMismatch(f"{what} is another classifier: {name} {found.get(name)}, not {wanted[name]}")
    if difference := describe_difference(found.get("classes"), wanted["classes"]):
        raise ConfigMismatch(f"{what} is another classifier: it has {difference}")


def describe_difference(own: Sequence[str] | None, labels: Sequence[str]) -> str | None:
    """Describe how the classes of a classifier differ from those of the data, or return None if they are equal.

    Args:
        own: Classes of the classifier; None if they have no names.
        labels: Classes of the data.
    """

    def integers(names: Sequence[str]) -> list[str]:
        return [re.sub(r"^([+-]?\d+)\.0*$", r"\1", name) for name in names]

    if own is None:
        return "no class names"
    if list(own) == list(labels):
        return None
    pairs = zip_longest(own, labels)
    first = next(f"class {i} is {a!r} instead of {b!r}" for i, (a, b) in enumerate(pairs) if a != b)
    if sorted(own) == sorted(labels):
        return f"the same {len(own)} classes in another order: {first}"
    if sorted(integers(own)) == sorted(integers(labels)):
        return f"the same classes, written once as integers and once as floats: {first}"
    common = len({*own} & {*labels})
    return f"other classes: {common} of its {len(own)} are among the {len(labels)} of the data; {first}"


def check_clips(trained: Mapping[str, Any] | None, now: Mapping[str, Any] | None, what: str) -> None:
    """See that weights were trained on the very clips that are set apart for training here: no test clip is among them.

    A manifest that has nothing to train on cannot say, and is taken; so are batches that came without one.

    Args:
        trained: `LabelledDataModule.origin` of the training, None of batches that came without a manifest.
        now: that of what is asked, or None.
        what: the weights, for the error.

    Raises:
        ConfigMismatch: they were trained on other clips.
    """
    if trained is not None and now is not None and now["clips"] and trained["ids"] != now["ids"]:
        raise ConfigMismatch(
            f"{what} was trained on {in_words(trained)}, and not on {in_words(now)}: clips of the test may have been "
            "learned. Choose the same data.fold and splits, a run.folder for each fold, or a manifest of the test alone"
        )


def check_shapes(weights: Mapping[str, Tensor], module: nn.Module, what: str) -> None:
    """See that weights are those of a module of this size.

    Args:
        weights: by name.
        module: what they are for.
        what: the weights, for the error.

    Raises:
        ConfigMismatch: tensors are missing, too many, or of other shapes; the first one is named.
    """
    own = module.state_dict()
    for name in sorted(set(own) | set(weights)):
        found, wanted = (tuple(x[name].shape) if name in x else None for x in (weights, own))
        if found != wanted:
            said = [f"has {shape}" if shape is not None else "has none" for shape in (found, wanted)]
            raise ConfigMismatch(
                f"{what} is of another model: of {name} it {said[0]}, and this configuration {said[1]}"
            )


def changes(before: Mapping[str, Any], now: Mapping[str, Any], modality: str) -> list[str]:
    """Where two formats of clips (`ClipFormat.to_dict`) differ for a modality, in words."""
    return [
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in SHAPE[modality]
        if _plain(before.get(name)) != _plain(now.get(name))
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
