"""Preprocessing files of Hugging Face models: how uint8 frames become the input of the model.

Every key is used, has no effect on the features, or is accepted only with a value that has no effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.hub.official.huggingface_config import short_json
from vatt.untrusted import inner_file, read_json

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
NESTED = "processor_config.json"  # with one section for each processor
SECTIONS = ("image_processor", "video_processor")
FLAT = ("video_preprocessor_config.json", "preprocessor_config.json")
TYPES = ("image_processor_type", "video_processor_type", "feature_extractor_type")
KNOWN_TYPES = {
    "videomae": (
        *(f"VideoMAEImageProcessor{suffix}" for suffix in ("", "Fast", "Pil")),
        "VideoMAEVideoProcessor",
        "VideoMAEFeatureExtractor",
    ),
    "vjepa2": ("VJEPA2VideoProcessor",),
}
DEFAULTS: dict[str, dict[str, Any]] = {  # of the classes in transformers, for keys that are missing
    "videomae": {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3, "crop_size": 224, "size": 224},
    "vjepa2": {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "crop_size": 256, "size": 292},
}
COMMON_DEFAULTS = {
    "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255,
    "resample": 2,
}  # fmt: skip
FIXED: dict[str, tuple[Any, ...]] = {  # values with which a key has no effect
    "do_pad": (None, False),
    "do_sample_frames": (None, False),
    "do_flip_channel_order": (None, False),
    "offset": (None, False),
    "data_format": (None, "channels_first"),
    "input_data_format": (None,),
    "auto_map": (None,),
}
# Sampling and padding, which FIXED disables, conversion to RGB, and options for running the processor.
IGNORED = frozenset(
    "processor_class _processor_class _valid_processor_keys device return_tensors disable_grouping return_metadata "
    "video_metadata fps num_frames size_divisor pad_size image_seq_length do_convert_rgb default_to_square".split()
)
RESAMPLING = ("nearest", "Lanczos", "bilinear", "bicubic", "box", "Hamming")


@dataclass(frozen=True)
class Preprocessing:
    """How frames in [0, 255] become the input of a model: ``(frames * scale - mean) / std``.

    Args:
        scale: Factor of the pixels.
        mean: Mean of each color channel after scaling.
        std: Standard deviation of each color channel after scaling.
        crop_box: Part of the frame that is resized and cropped (see `ClipFormat`).
        source: Name of the file, or another origin.
        resizing: Sentence on how the original processor resizes and crops frames.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_box: Box = WHOLE
    source: str = field(default="", compare=False)
    resizing: str = field(default="", compare=False)

    def describe(self) -> str:
        """Return a description for the output of the conversion and for the model card."""
        mean, std = (", ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        text = f"Pixels in [0, 255] are scaled by {self.scale:.6g} and normalized with mean ({mean}) and std ({std}), "
        return f"{text}as in {self.source}; this is part of the first layer.{self.resizing and ' '}{self.resizing}"


def read_preprocessing(folder: Path, model_type: str, size: int) -> Preprocessing:
    """Read the preprocessing files in the directory of a Hugging Face model.

    Args:
        folder: Directory of the model.
        model_type: "videomae" or "vjepa2".
        size: Height and width of the model's input.

    Raises:
        InputError: There is no such file, a key is unknown or has an unsupported value, or files differ.
    """
    sections = _sections(folder)
    if not sections and model_type == "videomae":
        raise InputError(
            f"{folder} has no {FLAT[-1]}, so the mean and std of the pixels are unknown: copy the file from "
            "the model's repository, or save the processor that the model was trained with"
        )
    if not sections:  # the default of the processor equals that of all released models
        sections = {"VJEPA2VideoProcessor by default (there is no preprocessing file)": {"crop_size": size}}
    first, *others = (_Section(folder, name, values, model_type, size).read() for name, values in sections.items())
    for other in others:
        if other != first:
            raise InputError(
                f"{folder}: {first.source} and {other.source} differ; delete the one that the model does not use"
            )
    return first


def _sections(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the configuration of each processor, by file and section of the file."""
    sections = {}
    if (folder / NESTED).exists():
        nested = read_json(inner_file(folder, NESTED))
        for key, values in nested.items():
            if key in SECTIONS and isinstance(values, dict):
                sections[f"{NESTED}, {key!r}"] = values
            elif key not in IGNORED:
                raise InputError(
                    f"{folder / NESTED}: {key!r} is {short_json(values)}, which is not supported: only the sections "
                    f"{' and '.join(SECTIONS)} are"
                )
    for name in FLAT:
        if (folder / name).exists():
            sections[name] = read_json(inner_file(folder, name))
    return sections


class _Section:
    """The configuration of one processor.

    Args:
        folder: Directory of the model.
        source: Name of the file.
        values: Its keys and values.
        model_type: "videomae" or "vjepa2".
        size: Height and width of the model's input.
    """

    def __init__(self, folder: Path, source: str, values: dict[str, Any], model_type: str, size: int) -> None:
        self.folder, self.source, self.model_type, self.target = folder, source, model_type, size
        self.values: dict[str, Any] = {**COMMON_DEFAULTS, **DEFAULTS[model_type]}
        for key, value in values.items():
            if key in TYPES:
                if value not in (None, *KNOWN_TYPES[model_type]):
                    raise self._error(key, value, f"only {KNOWN_TYPES[model_type][0]} is")
            elif key in FIXED:
                if value not in FIXED[key]:
                    raise self._error(key, value, f"only {short_json(FIXED[key][-1])} is")
            elif key in self.values:
                self.values[key] = value
            elif key not in IGNORED:
                raise self._error(key, value, "the key is unknown")
        for key in COMMON_DEFAULTS:
            if key.startswith("do_") and type(self.values[key]) is not bool:
                raise self._error(key, self.values[key], "true or false is expected")

    def read(self) -> Preprocessing:
        """Return the preprocessing of the configuration.

        Raises:
            InputError: A value is not supported; the message names the file, the key and the value.
        """
        mean, std, scale = (0.0,) * 3, (1.0,) * 3, 1.0
        if self.values["do_rescale"]:
            scale = self.values["rescale_factor"]
            if not _is_number(scale) or scale <= 0:
                raise self._error("rescale_factor", scale, "a positive number is expected")
        if self.values["do_normalize"]:
            mean, std = self._channels("image_mean"), self._channels("image_std")
            if not all(x > 0 for x in std):
                raise self._error("image_std", self.values["image_std"], "positive numbers are expected")
        crop_box, resizing = self._geometry()
        return Preprocessing(float(scale), mean, std, crop_box, self.source, resizing)

    def _geometry(self) -> tuple[Box, str]:
        """Return the crop box, and a sentence on how the processor resizes and crops frames."""
        resample = self.values["resample"]
        if type(resample) is not int or not 0 <= resample < len(RESAMPLING):
            raise self._error("resample", resample, "an integer from 0 to 5 is expected")
        resized = self._resized() if self.values["do_resize"] else None
        cropped = self._side("crop_size", "height", "width") if self.values["do_center_crop"] else None
        last_key, last = ("size", resized) if cropped is None else ("crop_size", cropped)
        if last_key == "size" and self.model_type == "vjepa2":  # 'size' has no effect for V-JEPA 2
            last_key = "do_center_crop"
        if last not in (None, self.target):
            raise self._error(
                last_key,
                self.values[last_key],
                f"the model in config.json takes frames of {self.target} x {self.target}",
            )
        if resized is None:
            cut = f", but crops them to {cropped} x {cropped}" if cropped else ""
            return WHOLE, f"The original processor does not resize frames{cut}; vatt resizes and crops them."
        if cropped is not None and cropped > resized:
            raise self._error("crop_size", self.values["crop_size"], f"it exceeds the resized frame ({resized})")
        margin = 0.0 if cropped is None else (1 - cropped / resized) / 2
        sides = "both sides" if self._is_stretched() else "the shorter side"
        text = f"The original processor resizes {sides} to {resized} pixels ({RESAMPLING[resample]})"
        text += f" and crops the central {cropped} x {cropped}" if cropped else ""
        text += "; vatt crops the same part of the shorter side."
        if margin > 0:
            text += f" Tensors of {cropped} x {cropped} pixels are treated as already cropped."
        return (margin, margin, 1 - margin, 1 - margin), text

    def _resized(self) -> int:
        """Return the size that the processor resizes the shorter side, or both sides, to."""
        if self.model_type == "vjepa2":  # VJEPA2VideoProcessor overrides 'size'
            return int(self._side("crop_size", "height", "width") * 256 / 224)
        return self._side("size", *(("height", "width") if self._is_stretched() else ("shortest_edge",)))

    def _is_stretched(self) -> bool:
        """Whether frames are resized without keeping their aspect ratio."""
        size = self.values["size"]
        return self.model_type != "vjepa2" and isinstance(size, dict) and "height" in size

    def _side(self, key: str, *names: str) -> int:
        """Return the side of a square: an integer, or a mapping of ``names`` to equal integers."""
        value = self.values[key]
        given = dict.fromkeys(names, value)
        if isinstance(value, dict):
            given = {name: side for name, side in value.items() if side is not None}
        sides = list(given.values())
        if set(given) != set(names) or not all(type(side) is int and side == sides[0] > 0 for side in sides):
            raise self._error(key, value, "only squares are supported")
        return sides[0]

    def _channels(self, key: str) -> tuple[float, ...]:
        value = self.values[key]
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
        if len(values) != 3 or not all(map(_is_number, values)):
            raise self._error(key, value, "a number, or one for each of three channels, is expected")
        return tuple(map(float, values))

    def _error(self, key: str, value: Any, reason: str) -> InputError:
        shown = short_json(value)
        return InputError(f"{self.folder / self.source}: {key!r} is {shown}, which is not supported: {reason}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
