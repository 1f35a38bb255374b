"""Configurations of Hugging Face's V-JEPA 2 and VideoMAE: every key is used, has no effect, or is an error."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.untrusted import inner_file, read_json

CONFIG = "config.json"
MAX_SHOWN = 60  # characters of a value in an error
# Metadata, heads, outputs of the model, initialization, dropout and implementation.
IGNORED = frozenset(
    "_name_or_path _commit_hash transformers_version id2label label2id num_labels problem_type finetuning_task "
    "output_hidden_states output_attentions return_dict torchscript use_cache initializer_range "
    "chunk_size_feed_forward attention_probs_dropout_prob gradient_checkpointing _attn_implementation "
    "_attn_implementation_autoset attn_implementation tie_word_embeddings".split()
)
FIXED: dict[str, Any] = {  # the only value of a key that is supported
    "hidden_act": "gelu",
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
    "auto_map": None,
}
EQUAL = {"gelu_python": "gelu"}  # names of the same function
DTYPES = (None, "float16", "bfloat16", "float32", "float64")  # weights are converted to float32


@dataclass(frozen=True)
class Keys:
    """Keys of the configuration of one model type, besides those of every model.

    Args:
        architectures: Supported classes of transformers.
        used: Keys that the conversion uses, and their defaults in transformers.
        fixed: Keys of which one value is supported.
        ignored: Keys without effect on the features.
        sides: Keys in ``used`` that may also be pairs of equal numbers.
    """

    architectures: tuple[str, ...]
    used: dict[str, Any]
    fixed: dict[str, Any]
    ignored: frozenset[str]
    sides: tuple[str, ...] = ("patch_size",)


VJEPA2_USED = {
    "patch_size": 16, "crop_size": 256, "frames_per_clip": 64, "tubelet_size": 2, "hidden_size": 1024,
    "num_attention_heads": 16, "num_hidden_layers": 24, "mlp_ratio": 4.0, "layer_norm_eps": 1e-6, "qkv_bias": True,
}  # fmt: skip
VJEPA2_1 = {  # flags of V-JEPA 2.1 at the values of V-JEPA 2; they change what the encoder computes or returns
    "use_rope_interleave": False, "interpolate_rope": False, "use_modality_embeddings": False,
    "use_image_patch_embedder": False, "use_context_projection": False, "hierarchical_layers": None,
    "num_distillation_outputs": 1, "teacher_embed_dim": None,
}  # fmt: skip
VIDEOMAE_USED = {
    "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    "qv_bias": True, "qkv_bias": True, "use_mean_pooling": True,
}  # fmt: skip
KEYS = {
    "vjepa2": Keys(
        architectures=("VJEPA2Model", "VJEPA2ForVideoClassification"),
        used=VJEPA2_USED,
        fixed={"in_chans": 3, "use_SiLU": False, "use_rope": True, "is_causal": False, **VJEPA2_1},
        ignored=frozenset(
            "drop_path_rate attention_dropout hidden_dropout_prob wide_SiLU use_sdpa num_pooler_layers "
            "pred_hidden_size pred_num_attention_heads pred_num_hidden_layers pred_num_mask_tokens "
            "pred_zero_init_mask_tokens pred_mlp_ratio".split()
        ),
    ),
    "videomae": Keys(
        architectures=("VideoMAEModel", "VideoMAEForPreTraining", "VideoMAEForVideoClassification"),
        used=VIDEOMAE_USED,
        fixed={"num_channels": 3},
        ignored=frozenset(
            "hidden_dropout_prob decoder_num_attention_heads decoder_hidden_size decoder_num_hidden_layers "
            "decoder_intermediate_size norm_pix_loss".split()
        ),
        sides=("patch_size", "image_size"),
    ),
}


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """Read config.json of a Hugging Face model.

    Args:
        folder: Directory of the model.

    Returns:
        Type of the model, and the values of the keys that the conversion uses.

    Raises:
        InputError: The model is of another type, or a key is unknown or has an unsupported value; the message names
            the file, the key and the value.
    """
    path = inner_file(folder, CONFIG)
    values = read_json(path)
    model_type = values.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in KEYS:
        raise InputError(f"{path}: 'model_type' is {short_json(model_type)}; {' and '.join(KEYS)} can be converted")
    keys = KEYS[model_type]
    config = dict(keys.used)
    for key, value in values.items():
        if reason := _problem(key, value, keys, values):
            raise InputError(f"{path}: {key!r} is {short_json(value)}, which is not supported: {reason}")
        if key in config:
            config[key] = value[0] if isinstance(value, list) else value
    if model_type == "videomae" and "qkv_bias" in values:  # an earlier name, which transformers prefers
        config["qv_bias"] = config["qkv_bias"]
    return model_type, config


def short_json(value: Any) -> str:
    """Return a value as it is written in a JSON file, cut for an error message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _problem(key: str, value: Any, keys: Keys, values: dict[str, Any]) -> str | None:
    """Return why a value of a key is not supported, or None."""
    fixed = FIXED | keys.fixed
    if key in keys.used:
        return _type_problem(value, keys.used[key], key in keys.sides)
    if key in fixed:
        value = EQUAL.get(value, value) if isinstance(value, str) else value
        return None if value == fixed[key] else f"only {short_json(fixed[key])} is"
    if key == "architectures":
        names = value if isinstance(value, list) else [value]
        is_known = all(name in (None, *keys.architectures) for name in names)
        return None if is_known else f"only {', '.join(keys.architectures)} are"
    if key in ("dtype", "torch_dtype"):
        return None if value in DTYPES else f"only {', '.join(filter(None, DTYPES))} are"
    if key == "image_size":  # of V-JEPA 2, where it is another name of the same size
        size = values.get("crop_size", keys.used["crop_size"])
        return None if value == size else f"'crop_size' is {size}"
    return None if key in IGNORED | keys.ignored else "the key is unknown"


def _type_problem(value: Any, default: Any, is_side: bool) -> str | None:
    if is_side and isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(default, bool):
        return None if type(value) is bool else "true or false is expected"
    if isinstance(default, float):
        valid = type(value) in (int, float) and math.isfinite(value) and value > 0
        return None if valid else "a positive number is expected"
    return None if type(value) is int and value > 0 else "a positive integer is expected"
