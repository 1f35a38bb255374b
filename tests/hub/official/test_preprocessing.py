"""Preprocessing files of Hugging Face models: every key is used, without effect, or an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.hub.official.huggingface_models import FILE, PLAIN, PROCESSOR, write_processor
from vatt.errors import InputError
from vatt.hub.official.preprocessing import (
    COMMON_DEFAULTS,
    DEFAULTS,
    FIXED,
    IGNORED,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TYPES,
    WHOLE,
    Preprocessing,
    read_preprocessing,
)

transformers = pytest.importorskip("transformers")
RELEASED = {  # keys of facebook/vjepa2-vitl-fpc64-256 and MCG-NJU/videomae-base
    "vjepa2": {
        "crop_size": {"height": 256, "width": 256}, "data_format": "channels_first", "default_to_square": True,
        "device": None, "do_center_crop": True, "do_convert_rgb": None, "do_normalize": True, "do_pad": None,
        "do_rescale": True, "do_resize": True, "do_sample_frames": False, "fps": None, "num_frames": None,
        "image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD), "input_data_format": None, "resample": 2,
        "rescale_factor": 1 / 255, "size": {"shortest_edge": 292}, "size_divisor": None, "video_metadata": None,
        "video_processor_type": "VJEPA2VideoProcessor",
    },
    "videomae": {
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "image_mean": list(IMAGENET_MEAN), "image_processor_type": "VideoMAEImageProcessor",
        "image_std": list(IMAGENET_STD), "resample": 2, "rescale_factor": 1 / 255, "size": {"shortest_edge": 224},
    },
}  # fmt: skip


def write(folder: Path, model_type: str, **values: Any) -> None:
    (folder / FILE[model_type]).write_text(json.dumps(values))


def test_released_files_are_read(tmp_path: Path) -> None:
    write(tmp_path, "vjepa2", **RELEASED["vjepa2"])
    read = read_preprocessing(tmp_path, "vjepa2", 256)
    margin = (1 - 256 / 292) / 2
    assert read == Preprocessing(1 / 255, IMAGENET_MEAN, IMAGENET_STD, (margin, margin, 1 - margin, 1 - margin))
    assert "resizes the shorter side to 292 pixels (bilinear) and crops the central 256 x 256" in read.describe()
    assert "as in video_preprocessor_config.json" in read.describe()
    write(tmp_path, "videomae", **RELEASED["videomae"])
    (tmp_path / FILE["vjepa2"]).unlink()
    assert read_preprocessing(tmp_path, "videomae", 224) == Preprocessing(1 / 255, IMAGENET_MEAN, IMAGENET_STD, WHOLE)


def test_missing_keys_have_the_defaults_of_the_processor(tmp_path: Path) -> None:
    processor = transformers.VideoMAEImageProcessorPil()
    for key, value in (COMMON_DEFAULTS | DEFAULTS["videomae"]).items():
        theirs = getattr(processor, key)
        assert value in (theirs.height, theirs.shortest_edge) if key in ("size", "crop_size") else value == theirs, key
    write(tmp_path, "videomae", **PROCESSOR["videomae"])
    assert read_preprocessing(tmp_path, "videomae", 224).mean == (0.5, 0.5, 0.5)
    write(
        tmp_path, "videomae", **RELEASED["videomae"] | {"image_processor_type": "VideoMAEFeatureExtractor", "size": 224}
    )
    assert read_preprocessing(tmp_path, "videomae", 224).mean == IMAGENET_MEAN


def test_every_key_of_the_processors_is_known() -> None:
    from transformers.processing_utils import ImagesKwargs, VideosKwargs

    keys = {*ImagesKwargs.__annotations__, *VideosKwargs.__annotations__}
    assert keys <= {*COMMON_DEFAULTS, *DEFAULTS["vjepa2"], *FIXED, *IGNORED, *TYPES}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("do_pad", True, "only false is"),
        ("do_sample_frames", True, "only false is"),
        ("do_flip_channel_order", True, "only false is"),
        ("offset", True, "only false is"),
        ("data_format", "channels_last", "only .channels_first. is"),
        ("auto_map", {"AutoImageProcessor": "code.Processor"}, "only null is"),
        ("image_processor_type", "VivitImageProcessor", "only VideoMAEImageProcessor is"),
        ("do_grayscale", False, "the key is unknown"),
        ("image_mean", [0.5, 0.5], "one for each of three channels"),
        ("image_mean", "0.5", "one for each of three channels"),
        ("image_mean", None, "one for each of three channels"),
        ("image_std", [0.5, 0.0, 0.5], "positive numbers are expected"),
        ("image_std", float("nan"), "one for each of three channels"),
        ("rescale_factor", 0, "a positive number is expected"),
        ("rescale_factor", None, "a positive number is expected"),
        ("do_normalize", None, "true or false is expected"),
        ("do_rescale", "yes", "true or false is expected"),
        ("resample", 7, "an integer from 0 to 5 is expected"),
        ("size", {"shortest_edge": 256}, "takes frames of 224 x 224"),
        ("size", {"height": 224, "width": 256}, "only squares are supported"),
        ("size", {"longest_edge": 224}, "only squares are supported"),
        ("crop_size", 256, "takes frames of 224 x 224"),
        ("crop_size", {"height": 224}, "only squares are supported"),
    ],
)
def test_unsupported_values_are_named(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    content = RELEASED["videomae"] | ({"do_center_crop": False} if key == "size" else {})
    write(tmp_path, "videomae", **content)
    read_preprocessing(tmp_path, "videomae", 224)
    write(tmp_path, "videomae", **content | {key: value})
    with pytest.raises(
        InputError, match=re.escape(str(tmp_path)) + rf"/preprocessor_config\.json: '{key}' is .*{reason}"
    ):
        read_preprocessing(tmp_path, "videomae", 224)


@pytest.mark.parametrize(
    ("values", "box", "text"),
    [
        ({"size": {"shortest_edge": 256}}, 0.0625, "resizes the shorter side to 256 pixels (bicubic) and crops"),
        ({"size": {"height": 256, "width": 256}}, 0.0625, "resizes both sides to 256 pixels (bicubic) and crops"),
        ({"size": 224, "do_center_crop": False}, 0.0, "resizes the shorter side to 224 pixels (bicubic); vatt"),
        ({"do_resize": False}, 0.0, "does not resize frames, but crops them to 224 x 224"),
        ({"do_resize": False, "do_center_crop": False, "crop_size": None}, 0.0, "does not resize frames; vatt"),
    ],
)
def test_the_part_of_the_frame_is_that_of_the_processor(
    tmp_path: Path, values: dict[str, Any], box: float, text: str
) -> None:
    write(tmp_path, "videomae", **RELEASED["videomae"] | {"resample": 3} | values)
    read = read_preprocessing(tmp_path, "videomae", 224)
    assert read.crop_box == (box, box, 1 - box, 1 - box)
    assert text in read.describe()
    assert ("Tensors of 224 x 224 pixels are treated as already cropped" in read.describe()) == (box > 0)


def test_the_missing_crop_of_v_jepa_2_is_named(tmp_path: Path) -> None:
    write(tmp_path, "vjepa2", **RELEASED["vjepa2"] | {"do_center_crop": False})
    with pytest.raises(InputError, match=r"'do_center_crop' is false, .* takes frames of 256 x 256"):
        read_preprocessing(tmp_path, "vjepa2", 256)


def test_a_crop_larger_than_the_frame_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "videomae", **RELEASED["videomae"] | {"size": {"shortest_edge": 200}})
    with pytest.raises(InputError, match=r"'crop_size' is .* it exceeds the resized frame \(200\)"):
        read_preprocessing(tmp_path, "videomae", 224)


@pytest.mark.parametrize("section", ["image_processor", "video_processor"])
def test_sections_of_one_file_are_read(tmp_path: Path, section: str) -> None:
    values = {"image_mean": 0.3, **PLAIN}
    (tmp_path / "processor_config.json").write_text(json.dumps({section: values, "processor_class": "Processor"}))
    read = read_preprocessing(tmp_path, "videomae", 16)
    assert (read.mean, read.source) == ((0.3,) * 3, f"processor_config.json, {section!r}")
    write_processor(tmp_path, "videomae", image_mean=0.3)
    read_preprocessing(tmp_path, "videomae", 16)
    write_processor(tmp_path, "videomae", image_mean=0.4)
    with pytest.raises(InputError, match=rf"processor_config.json, '{section}' and preprocessor_config.json differ"):
        read_preprocessing(tmp_path, "videomae", 16)
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"processor_config\.json: 'image_mean' is 0.3, .* only the sections"):
        read_preprocessing(tmp_path, "videomae", 16)


def test_without_a_file_the_default_is_used_only_if_it_is_that_of_released_models(tmp_path: Path) -> None:
    read = read_preprocessing(tmp_path, "vjepa2", 256)
    assert (read.scale, read.mean, read.std) == (1 / 255, IMAGENET_MEAN, IMAGENET_STD)
    assert "VJEPA2VideoProcessor by default (there is no preprocessing file)" in read.describe()
    with pytest.raises(InputError, match=r"has no preprocessor_config\.json, so the mean and std of the pixels are"):
        read_preprocessing(tmp_path, "videomae", 224)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json is damaged"):
        read_preprocessing(tmp_path, "videomae", 224)
