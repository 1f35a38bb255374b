"""Names and layouts of the official TensorFlow 2 checkpoints, and ours: one list of rules, read in both directions.

A variable's path begins below the Keras model: ``_base_layer/vid_backbone/_base/tx/layers/0/mha/q/kernel``. What a
checkpoint is made of is inferred from its paths and shapes in `vatt.hub.official.sizes`; `weights.load` fills the
model strictly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection, JointProjection, Projection
from vatt.models.language import LinearText
from vatt.models.tokenizers import AudioTokenizer, PatchTokenizer, TextTokenizer, Tokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT, Classifier

Array = NDArray[np.generic]
TOWER = {"video": "vid", "audio": "aud", "text": "txt"}
UNIFIED = "_base_layer/unified_backbone/unified_transformer"
HEAD = "_head_layer/_bridge_heads/0"
POSITIONS = {
    "video": ("temporal", "vertical", "horizontal"),
    "audio": ("temporal", "spectoral"),
    "text": ("temporal",),
}
PATCHES = {"video": "voxel_to_patch", "wave": "wave_to_patch", "spectrogram": "spectrum_to_patch"}


@dataclass(frozen=True)
class Rule:
    """How one of our tensors is made of official variables.

    Args:
        ours: name in the state dict.
        official: paths of the variables, one or (for queries, keys and values) three.
        shape: of the variable, where it is a convolution's kernel that we keep as a matrix.
        turned: the variable is a Dense kernel, (in, out).
    """

    ours: str
    official: tuple[str, ...]
    turned: bool = False
    shape: tuple[int, ...] | None = None

    def to_ours(self, values: list[Array]) -> Array:
        """Official arrays to ours."""
        if self.shape is not None:
            values = [value.reshape(-1, value.shape[-1]) for value in values]
        return np.concatenate([value.T if self.turned else value for value in values])

    def to_official(self, value: Array) -> list[Array]:
        """Our array to the official ones."""
        parts = [part.T if self.turned else part for part in np.split(value, len(self.official))]
        return parts if self.shape is None else [part.reshape(self.shape) for part in parts]


def rules(model: VATT | Classifier) -> list[Rule]:
    """Where each tensor of a model stands in an official checkpoint.

    Raises:
        InputError: a part that the official code does not have.
    """
    for modality in model.backbone.modalities:
        _check(model.backbone, modality)
    if isinstance(model, Classifier):
        found = list(_tower(model.backbone, model.modality, "_base", agnostic=False))
        return [*found, *_dense("head.linear", "_ops/cls")]
    backbone, found = model.backbone, []
    for modality in backbone.modalities:
        if backbone.shared:
            found += _tower(backbone, modality, UNIFIED, agnostic=True)
        elif modality == "text":
            found += _text(backbone, f"_base_layer/{TOWER[modality]}_backbone")
        else:
            found += _tower(backbone, modality, f"_base_layer/{TOWER[modality]}_backbone/_base", agnostic=False)
    if backbone.shared:
        found += _transformer(backbone.encoder("video"), "backbone.transformers.shared", f"{UNIFIED}/tx")
    return [*found, *_projection(model.projection)]


def _tower(backbone: Backbone, modality: str, there: str, agnostic: bool) -> Iterable[Rule]:
    """A video or audio tower, or a modality's own part of the modality-agnostic backbone."""
    ours, tokenizer = f"backbone.tokenizers.{modality}", backbone.tokenizers[modality]
    within = f"/{modality}" if agnostic else ""
    if modality == "text":
        yield Rule(f"{ours}.words.weight", (f"{there}/raw_to_embeddings/text/embeddings",))
        yield from _dense(f"{ours}.project", f"{there}/pre_proj/text")
    else:
        name = f"raw_to_embeddings/{modality}" if agnostic else _patch_name(tokenizer)
        yield Rule(f"{ours}.project.weight", (f"{there}/{name}/kernel",), True, _kernel_shape(tokenizer))
        yield Rule(f"{ours}.project.bias", (f"{there}/{name}/bias",))
        if tokenizer.pre_projection is not None:
            yield from _dense(f"{ours}.pre_projection", f"{there}/pre_proj{within}")
    yield from _positions(ours, f"{there}/pos_embedding_lookup{within}", modality, len(tokenizer.grid))
    agg = f"{TOWER[modality]}_agg_embedding" if agnostic else "agg_embedding"
    yield Rule(f"backbone.agg.{modality}", (f"{there}/{agg}",))
    if modality in backbone.post_projections:
        yield from _dense(f"backbone.post_projections.{modality}", f"{there}/post_proj{within}")
    if not agnostic:
        yield from _transformer(backbone.encoder(modality), f"backbone.transformers.{modality}", f"{there}/tx")


def _text(backbone: Backbone, there: str) -> Iterable[Rule]:
    """A text tower: T5-style, BERT-style or linear."""
    ours, tokenizer, encoder = "backbone.tokenizers.text", backbone.tokenizers["text"], backbone.encoder("text")
    yield Rule(f"{ours}.words.weight", (f"{there}/embedding/embeddings",))
    if tokenizer.project is not None:
        yield from _dense(f"{ours}.project", f"{there}/pre_proj", bias=tokenizer.project.bias is not None)
    tower = "backbone.transformers.text"
    if isinstance(encoder, LinearText):
        yield Rule(
            f"{tower}.linear.weight", (f"{there}/base_lm/conv1d/kernel",), True, (1, encoder.width, encoder.out_width)
        )
        yield Rule(f"{tower}.linear.bias", (f"{there}/base_lm/conv1d/bias",))
    elif tokenizer.agg_in_embedding:
        yield Rule("backbone.agg.text", (f"{there}/agg_embedding",))
        yield from _t5(encoder, tower, f"{there}/base_lm")
    else:
        yield Rule("backbone.agg.text", (f"{there}/base_lm/agg_embedding",))
        yield from _positions(ours, f"{there}/base_lm/pos_embedding_lookup", "text", 1)
        yield from _transformer(encoder, tower, f"{there}/base_lm/tx")


def _transformer(encoder: Transformer, ours: str, there: str) -> Iterable[Rule]:
    for i, block in enumerate(encoder.blocks):
        a, b, bias = f"{ours}.blocks.{i}", f"{there}/layers/{i}", block.up.bias is not None
        yield from _norm(f"{a}.attention_norm", f"{b}/layer_norm")
        yield from _attention(a, f"{b}/mha", bias)
        yield from _norm(f"{a}.mlp_norm", f"{b}/feed_forward/layer_norm")
        yield from _dense(f"{a}.up", f"{b}/feed_forward/mlp/wi", bias)
        yield from _dense(f"{a}.down", f"{b}/feed_forward/mlp/wo", bias)
    yield from _norm(f"{ours}.norm", f"{there}/final_layer_norm")


def _t5(encoder: Transformer, ours: str, there: str) -> Iterable[Rule]:
    first = f"{there}/layers/0/self_attention/attention"
    yield Rule(f"{ours}.relative.table.weight", (f"{first}/relative_attention_bias/embeddings",))
    for i in range(len(encoder.blocks)):
        a, b = f"{ours}.blocks.{i}", f"{there}/layers/{i}"
        yield Rule(f"{a}.attention_norm.weight", (f"{b}/self_attention/layer_norm/weight",))
        yield from _attention(a, f"{b}/self_attention/attention", bias=False)
        yield from _norm(f"{a}.mlp_norm", f"{b}/feed_forward/layer_norm")
        yield from _dense(f"{a}.up", f"{b}/feed_forward/mlp/wi", bias=False)
        yield from _dense(f"{a}.down", f"{b}/feed_forward/mlp/wo", bias=False)
    yield Rule(f"{ours}.norm.weight", (f"{there}/final_layer_norm/weight",))


def _projection(head: Projection) -> Iterable[Rule]:
    if isinstance(head, JointProjection):
        for modality in head.to_joint:
            there = f"{HEAD}/{TOWER[modality]}_to_vat"
            yield from _dense(f"projection.to_joint.{modality}.1", f"{there}/dense", bias=False)
            yield from _batch_norm(f"projection.to_joint.{modality}.2", f"{there}/bn")
        return
    if not isinstance(head, HierarchicalProjection) or head.init_args["paper"]:
        raise InputError(f"the official code has no {type(head).__name__} of this form")
    yield from _dense("projection.video_to_va.0", f"{HEAD}/vid_to_hid", bias=False)
    yield from _batch_norm("projection.video_to_va.1", f"{HEAD}/hid_to_va/pre_bn")
    yield from _dense("projection.video_to_va.3", f"{HEAD}/hid_to_va/dense", bias=False)
    yield from _batch_norm("projection.video_to_va.4", f"{HEAD}/hid_to_va/bn")
    yield from _dense("projection.va_to_vt.1", f"{HEAD}/va_to_vat/dense", bias=False)
    yield from _batch_norm("projection.va_to_vt.2", f"{HEAD}/va_to_vat/bn")
    if head.audio_to_va is not None:
        yield from _dense("projection.audio_to_va", f"{HEAD}/aud_to_va")
    if head.text_to_vt is not None:
        yield from _dense("projection.text_to_vt", f"{HEAD}/txt_to_vat")


def _attention(ours: str, there: str, bias: bool) -> Iterable[Rule]:
    for name, kind in (("weight", "kernel"), ("bias", "bias"))[: 1 + bias]:
        queries, keys, values = (f"{there}/{part}/{kind}" for part in "qkv")
        yield Rule(f"{ours}.attention.qkv.{name}", (queries, keys, values), turned=name == "weight")
    yield from _dense(f"{ours}.attention.out", f"{there}/o", bias)


def _dense(ours: str, there: str, bias: bool = True) -> Iterable[Rule]:
    yield Rule(f"{ours}.weight", (f"{there}/kernel",), turned=True)
    if bias:
        yield Rule(f"{ours}.bias", (f"{there}/bias",))


def _norm(ours: str, there: str) -> Iterable[Rule]:
    yield Rule(f"{ours}.weight", (f"{there}/gamma",))
    yield Rule(f"{ours}.bias", (f"{there}/beta",))


def _batch_norm(ours: str, there: str) -> Iterable[Rule]:
    yield from _norm(ours, there)
    yield Rule(f"{ours}.running_mean", (f"{there}/moving_mean",))
    yield Rule(f"{ours}.running_var", (f"{there}/moving_variance",))


def _positions(ours: str, there: str, modality: str, axes: int) -> Iterable[Rule]:
    for i, axis in enumerate(POSITIONS[modality][:axes]):
        yield Rule(f"{ours}.positions.tables.{i}", (f"{there}/{axis}_position_embeddings/embeddings",))
    yield from _norm(f"{ours}.positions.norm", f"{there}/layernorm")


def _patch_name(tokenizer: Tokenizer) -> str:
    """What the released towers call the layer that embeds patches."""
    if isinstance(tokenizer, VideoTokenizer):
        return PATCHES["video"]
    return PATCHES["wave"] if isinstance(tokenizer, AudioTokenizer) else PATCHES["spectrogram"]


def _kernel_shape(tokenizer: Tokenizer) -> tuple[int, ...]:
    if isinstance(tokenizer, VideoTokenizer):
        return (*tokenizer.patch, 3, tokenizer.width)
    if isinstance(tokenizer, AudioTokenizer):
        return (tokenizer.segment, 1, tokenizer.width)
    return (*tokenizer.patch, 1, tokenizer.width)


def _check(backbone: Backbone, modality: str) -> None:
    """See that a tower has nothing that the official code has no name for."""
    tokenizer, encoder = backbone.tokenizers[modality], backbone.encoder(modality)
    words = isinstance(tokenizer, TextTokenizer)
    t5 = words and tokenizer.agg_in_embedding
    # norm, relative bias, scaled scores, biases of linear layers
    known = [("mixed", True, False, False)] if t5 else [("layer", False, True, True), ("layer", False, True, False)]
    reasons = {
        "a tokenizer of this kind": not isinstance(tokenizer, (PatchTokenizer, TextTokenizer)),
        "an encoder of this kind": not isinstance(encoder, (Transformer, LinearText)),
        "a scale of raw values": isinstance(tokenizer, PatchTokenizer) and tokenizer.scale != 1,
        "positions without a norm": isinstance(tokenizer, (PatchTokenizer, TextTokenizer))
        and tokenizer.positions is not None
        and isinstance(tokenizer.positions.norm, nn.Identity),
        "a transformer of this form": isinstance(encoder, Transformer) and _form(encoder) not in known,
        "text without positions": words and isinstance(encoder, Transformer) and not t5 and tokenizer.positions is None,
        "words that are embedded at the width of the transformer": words
        and isinstance(encoder, Transformer)
        and tokenizer.project is None,
    }
    for what, found in reasons.items():
        if found:
            raise InputError(f"{modality}: the official code does not have {what}")


def _form(encoder: Transformer) -> tuple[str, bool, bool, bool]:
    how = encoder.init_args
    return how["norm"], encoder.relative is not None, how["scaled"], how["bias"]
