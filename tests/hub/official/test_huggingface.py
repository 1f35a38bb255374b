"""Hugging Face's V-JEPA 2 and VideoMAE: equal features, or an error that names the key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.processing_utils import ImagesKwargs

from tests.hub.official.huggingface_models import (
    CONFIGS,
    SIZES,
    change,
    features,
    frames,
    make,
    processed,
    write_processor,
)
from vatt.errors import InputError
from vatt.hub.official.huggingface_config import FIXED, IGNORED, KEYS
from vatt.hub.official.video import convert
from vatt.models.vatt import VATT

transformers = pytest.importorskip("transformers")
TYPES = list(SIZES)


def read(file: Path) -> dict[str, torch.Tensor]:
    """Return tensors that do not change with the file."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def fields(model_type: str) -> list[str]:
    return [field.name for field in dataclasses.fields(getattr(transformers, CONFIGS[model_type])())]


def other_values(value: Any) -> list[Any]:
    """Return values that differ from a value, of its own and of other types."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value * 2, value / 2 if isinstance(value, float) else max(1, value // 2), value + 0.5, 0, -1]
    return [True, "relu", "gelu_new", "float16", 8, [8, 8], [8, 4], {"0": "a", "1": "b"}, {"a": 0, "b": 1}]


def assert_same_features(folder: Path, model_type: str, theirs: torch.nn.Module, clip: torch.Tensor) -> None:
    """Compare tokens of uint8 frames, relative to the largest one."""
    model, _ = convert(folder)
    expected = features(theirs, model_type, processed(folder, model_type, clip))
    with torch.no_grad():
        tokens = model.backbone("video", clip.float() * 2 / 255 - 1).tokens
    assert tokens.shape == expected.shape
    assert (tokens - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def conversion_error(folder: Path) -> str | None:
    try:
        convert(folder)
    except InputError as error:
        return str(error)
    return None


def build(folder: Path, model_type: str, **values: Any) -> torch.nn.Module | None:
    """Return the original model, or None if transformers itself refuses the values."""
    try:
        model = make(folder, model_type, **values)
        names = ("crop_size", "frames_per_clip", "in_chans")
        names = names if model_type == "vjepa2" else ("image_size", "num_frames", "num_channels")
        size, count, channels = (getattr(model.config, name) for name in names)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        features(model, model_type, torch.zeros(1, count, channels, height, width))
    except Exception:  # of validation, of torch and of transformers
        return None
    return model


@pytest.mark.parametrize(("model_type", "key"), [(t, key) for t in TYPES for key in fields(t)])
def test_every_key_is_converted_or_named(model_type: str, key: str, tmp_path: Path) -> None:
    default = SIZES[model_type].get(key, getattr(getattr(transformers, CONFIGS[model_type])(), key))
    for number, value in enumerate(other_values(default)):
        folder = tmp_path / str(number)
        theirs = build(folder, model_type, **{key: value})
        if theirs is None:
            continue
        refusal = conversion_error(folder)
        if refusal is None:
            config = convert(folder)[0].format
            assert_same_features(folder, model_type, theirs, frames(config.size, config.num_frames))
        else:
            assert re.search(rf"config\.json: .*'{key}'", refusal), value


@pytest.mark.parametrize("model_type", TYPES)
def test_other_names_of_gelu(model_type: str, tmp_path: Path) -> None:
    theirs = build(tmp_path, model_type, hidden_act="gelu_python")
    assert theirs is not None
    config = convert(tmp_path)[0].format
    assert_same_features(tmp_path, model_type, theirs, frames(config.size, config.num_frames))


@pytest.mark.parametrize("model_type", TYPES)
def test_the_lists_of_keys_are_those_of_transformers(model_type: str) -> None:
    keys, config = KEYS[model_type], getattr(transformers, CONFIGS[model_type])()
    known = {*keys.used, *keys.fixed, *keys.ignored, *FIXED, *IGNORED, "architectures", "dtype"}
    assert set(fields(model_type)) <= known
    assert all(getattr(config, key) == value for key, value in keys.used.items() if hasattr(config, key))
    assert all(getattr(config, key) == value for key, value in (keys.fixed | FIXED).items() if hasattr(config, key))


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("vjepa2", "use_rope_interleave", True),
        ("vjepa2", "interpolate_rope", True),
        ("vjepa2", "use_modality_embeddings", True),
        ("vjepa2", "hierarchical_layers", [0, 1]),
        ("vjepa2", "num_distillation_outputs", 4),
        ("vjepa2", "image_size", 32),
        ("vjepa2", "hidden_size", "24"),
        ("vjepa2", "architectures", ["VJEPA21Model"]),
        ("vjepa2", "rope_theta", 500.0),
        ("videomae", "qkv_bias", None),
        ("videomae", "quantization_config", {"quant_method": "fp8"}),
        ("videomae", "auto_map", {"AutoModel": "modeling.Model"}),
        ("videomae", "pruned_heads", {"0": [1]}),
        ("videomae", "use_cls_token", False),
        ("videomae", "torch_dtype", "int8"),
        ("videomae", "num_hidden_layers", 10**9),
        ("videomae", "layer_norm_eps", float("inf")),
    ],
)
def test_keys_of_other_versions_are_refused(model_type: str, key: str, value: Any, tmp_path: Path) -> None:
    make(tmp_path, model_type)
    convert(tmp_path)
    change(tmp_path / "config.json", **{key: value})
    with pytest.raises(InputError, match=rf"config\.json: '{key}' is "):
        convert(tmp_path)


def test_keys_of_other_versions_without_effect_are_accepted(tmp_path: Path) -> None:
    theirs = make(tmp_path, "vjepa2")
    change(
        tmp_path / "config.json",
        use_rope_interleave=False,
        interpolate_rope=False,
        image_size=16,
        torch_dtype="float32",
    )
    assert_same_features(tmp_path, "vjepa2", theirs, frames())


@pytest.mark.parametrize("old", [False, True])
def test_the_earlier_name_of_the_bias_of_videomae_is_used(old: bool, tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae", qv_bias=old)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["qv_bias"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"qkv_bias": old}))
    assert_same_features(tmp_path, "videomae", theirs, frames())


def test_missing_keys_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae", use_mean_pooling=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "use_mean_pooling"}))
    assert_same_features(tmp_path, "videomae", theirs, frames())


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize(
    "values",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"image_mean": [0.1, -0.7, 2.0], "image_std": [0.9, 0.05, 3.0]},
        {"image_mean": 0.3, "image_std": 0.7},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 1.0, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0]},
        {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [60.0, 61.0, 62.0]},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_resize": True, "do_center_crop": True, "size": {"shortest_edge": 16}, "crop_size": 16},
        {},
    ],
)
def test_uint8_frames_have_the_features_of_the_own_processor(
    model_type: str, values: dict[str, Any], tmp_path: Path
) -> None:
    theirs = make(tmp_path, model_type)
    write_processor(tmp_path, model_type, **values)
    assert_same_features(tmp_path, model_type, theirs, frames())


@pytest.mark.parametrize("key", sorted(ImagesKwargs.__annotations__))
def test_every_key_of_the_processor_is_used_or_named(key: str, tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae")
    sizes = [8, 16, 18, {"height": 16, "width": 16}, {"shortest_edge": 16}, {"shortest_edge": 18}]
    numbers = [0, 0.5, 2.0, [0.1, 0.2, 0.3], [0.5], "channels_first", "channels_last", 3]
    for value in [None, True, False, *sizes, *numbers]:
        write_processor(tmp_path, "videomae", crop_size=16, size=16, **{key: value} if "size" not in key else {})
        if "size" in key:
            change(tmp_path / "preprocessor_config.json", **{key: value})
        refusal = conversion_error(tmp_path)
        if refusal is not None:
            assert re.search(rf"preprocessor_config\.json: '{key}'", refusal), value
        elif is_accepted(tmp_path):
            assert_same_features(tmp_path, "videomae", theirs, frames())


def is_accepted(folder: Path) -> bool:
    """Whether the processor of transformers accepts its own file."""
    try:
        return processed(folder, "videomae", frames()).shape[-2:] == (16, 16)
    except Exception:  # of validation, of NumPy and of PIL
        return False


def test_normalization_is_saved_with_the_model(tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae")
    convert(tmp_path)[0].save_pretrained(tmp_path / "model")
    clip = frames()
    expected = features(theirs, "videomae", processed(tmp_path, "videomae", clip))
    with torch.no_grad():
        tokens = VATT.from_pretrained(tmp_path / "model").backbone("video", clip.float() * 2 / 255 - 1).tokens
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


def split(tensors: dict[str, torch.Tensor], folder: Path, suffix: str, name: str) -> None:
    """Write weights to two files and an index, as transformers does for large models."""
    names = sorted(tensors)
    parts = {f"{name}-0000{i + 1}-of-00002{suffix}": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save = save_file if suffix == ".safetensors" else torch.save
        save({n: tensors[n] for n in part}, folder / file)
    index = {"metadata": {}, "weight_map": {n: file for file, part in parts.items() for n in part}}
    (folder / f"{name}{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("form", ["pytorch_model.bin", "sharded safetensors", "sharded pytorch_model.bin", "float16"])
@pytest.mark.parametrize("model_type", TYPES)
def test_weights_in_other_files_are_read(model_type: str, form: str, tmp_path: Path) -> None:
    theirs = make(tmp_path, model_type, "ForVideoClassification")
    tensors = read(tmp_path / "model.safetensors")
    if form == "float16":
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        theirs.half().float()
        save_file(tensors, tmp_path / "model.safetensors")
    else:
        (tmp_path / "model.safetensors").unlink()
    if form == "pytorch_model.bin":
        torch.save(tensors, tmp_path / form)
    elif form != "float16":
        suffix, name = (".safetensors", "model") if "safetensors" in form else (".bin", "pytorch_model")
        split(tensors, tmp_path, suffix, name)
    assert_same_features(tmp_path, model_type, theirs, frames())


def test_other_weights_beside_the_model_are_not_read(tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae")
    tensors = read(tmp_path / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "optimizer.safetensors")
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert_same_features(tmp_path, "videomae", theirs, frames())


def test_damaged_or_incomplete_weights_are_named(tmp_path: Path) -> None:
    make(tmp_path, "videomae")
    tensors = read(tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        convert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*model\.safetensors"):
        convert(tmp_path)
    split(tensors, tmp_path, ".safetensors", "model")
    shard = tmp_path / "model-00002-of-00002.safetensors"
    save_file(dict(list(read(shard).items())[1:]), shard)
    with pytest.raises(InputError, match=r"00002-of-00002\.safetensors does not hold the tensors that model\.safe"):
        convert(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"00002-of-00002\.safetensors is missing, which"):
        convert(tmp_path)
    change(tmp_path / "model.safetensors.index.json", weight_map={"a": "../other.safetensors"})
    with pytest.raises(InputError, match="not a plain file name"):
        convert(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    torch.save({"a": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="contains Python objects"):
        convert(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"model\.safetensors is a Git LFS pointer"):
        convert(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter \(PEFT\): merge"):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "values", "tensors", "message"),
    [
        ("vjepa2", {"qkv_bias": False}, ["encoder.layer.0.attention.query.bias"], "unknown: layer.0.attention.query"),
        ("videomae", {"qv_bias": False}, ["encoder.layer.0.attention.attention.value.bias"], "unknown: encoder"),
        ("videomae", {}, ["encoder.layer.0.attention.attention.key.bias"], "unknown: encoder.*key.bias"),
        ("videomae", {"use_mean_pooling": True}, ["layernorm.weight", "layernorm.bias"], "unknown: layernorm.bias"),
        ("videomae", {}, ["videomae.embeddings.patch_embeddings.projection.bias"], "with and without 'videomae.'"),
        (
            "videomae",
            {},
            ["encoder.layer.0.attention.attention.query.bias"],
            "biases of queries or values by two names",
        ),
        ("videomae", {}, ["embeddings.position_embeddings"], "unknown: embeddings.position_embeddings"),
    ],
)
def test_tensors_that_the_configuration_excludes_are_refused(
    model_type: str, values: dict[str, Any], tensors: list[str], message: str, tmp_path: Path
) -> None:
    make(tmp_path, model_type, **values)
    file = tmp_path / "model.safetensors"
    save_file(read(file) | {name: torch.ones(24) for name in tensors}, file)
    with pytest.raises(InputError, match=message):
        convert(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("vjepa2", "hidden_size", 10**30),
        ("vjepa2", "mlp_ratio", 1e12),
        ("videomae", "intermediate_size", 10**10),
        ("videomae", "tubelet_size", 4),
        ("videomae", "patch_size", 4),
    ],
)
def test_sizes_that_differ_from_the_weights_are_named(model_type: str, key: str, value: float, tmp_path: Path) -> None:
    make(tmp_path, model_type)
    change(tmp_path / "config.json", **{key: value})
    with pytest.raises(InputError, match=r"weight has the shape .* but config\.json describes"):
        convert(tmp_path)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "videomae")
    file = tmp_path / "model.safetensors"
    name = "encoder.layer.0.intermediate.dense.weight"
    save_file(read(file) | {name: torch.zeros(40, 24, dtype=torch.int8)}, file)
    with pytest.raises(InputError, match=rf"{name} is of type torch\.int8: quantized"):
        convert(tmp_path)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_width_of_heads_is_that_of_the_configuration(model_type: str, tmp_path: Path) -> None:
    make(tmp_path, model_type)
    with pytest.raises(InputError, match="--head_width is for V-JEPA"):
        convert(tmp_path, head_width=8)


def test_positions_of_vjepa_2_follow_the_tokens(tmp_path: Path) -> None:
    theirs = make(tmp_path, "vjepa2")
    model, report = convert(tmp_path)
    assert any(name.startswith("predictor.") for name in report.ignored)
    expected = features(theirs, "vjepa2", processed(tmp_path, "vjepa2", frames()))
    tokens = model.backbone.tokenize("video", frames().float() * 2 / 255 - 1)
    order = torch.randperm(tokens.x.shape[1]).unsqueeze(0)
    with torch.no_grad():
        shuffled = model.backbone.encode("video", tokens.take(order)).tokens
    torch.testing.assert_close(shuffled, expected[:, order[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("earlier", [False, True])
def test_biases_of_videomae_have_two_names(earlier: bool, tmp_path: Path) -> None:
    theirs = make(tmp_path, "videomae", "ForPreTraining", use_mean_pooling=False)
    tensors = read(tmp_path / "model.safetensors")
    for names in (("q_bias", "query.bias"), ("v_bias", "value.bias")):
        new, old = names if earlier else reversed(names)
        tensors = {re.sub(rf"(^videomae.*\.){old}$", rf"\g<1>{new}", name): x for name, x in tensors.items()}
    assert any(name.startswith("videomae") and name.endswith(".q_bias") for name in tensors) is earlier
    save_file(tensors, tmp_path / "model.safetensors")
    assert "mask_token" in convert(tmp_path)[1].ignored
    assert_same_features(tmp_path, "videomae", theirs, frames())


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("model_type", TYPES)
def test_the_encoder_of_a_fine_tuned_model_is_converted(model_type: str, pooled: bool, tmp_path: Path) -> None:
    values = {"use_mean_pooling": pooled} if model_type == "videomae" else {}
    theirs = make(tmp_path, model_type, "ForVideoClassification", num_labels=3, **values)
    assert {"classifier.weight", "classifier.bias"} <= set(convert(tmp_path)[1].ignored)
    assert_same_features(tmp_path, model_type, theirs, frames())
