"""The official variable names, written out by hand: a wrong one is wrong in the rules or here, but not in both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vatt.hub.official.sizes import convert

Shapes = dict[str, tuple[int, ...]]
WIDTH, HIDDEN, MLP, DEPTH, WORDS, TABLE = 16, 16, 24, 2, 12, 10
VIDEO = {"temporal": 2, "vertical": 3, "horizontal": 3}
AUDIO, SPECTRUM = {"temporal": 8}, {"temporal": 2, "spectoral": 4}
HEAD = "_head_layer/_bridge_heads/0"
UNIFIED = "_base_layer/unified_backbone/unified_transformer"


def dense(at: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    return {f"{at}/kernel": (inputs, outputs)} | ({f"{at}/bias": (outputs,)} if bias else {})


def norm(at: str, width: int, batch: bool = False) -> Shapes:
    names = ("gamma", "beta", "moving_mean", "moving_variance") if batch else ("gamma", "beta")
    return {f"{at}/{name}": (width,) for name in names}


def positions(at: str, sizes: dict[str, int], width: int = WIDTH) -> Shapes:
    tables = {f"{at}/{axis}_position_embeddings/embeddings": (size, width) for axis, size in sizes.items()}
    return tables | norm(f"{at}/layernorm", width)


def transformer(at: str, bias: bool = True) -> Shapes:
    found: Shapes = norm(f"{at}/final_layer_norm", WIDTH)
    for i in range(DEPTH):
        block = f"{at}/layers/{i}"
        found |= norm(f"{block}/layer_norm", WIDTH) | norm(f"{block}/feed_forward/layer_norm", WIDTH)
        for part in "qkv":
            found |= dense(f"{block}/mha/{part}", WIDTH, HIDDEN, bias)
        found |= dense(f"{block}/mha/o", HIDDEN, WIDTH, bias)
        found |= dense(f"{block}/feed_forward/mlp/wi", WIDTH, MLP, bias)
        found |= dense(f"{block}/feed_forward/mlp/wo", MLP, WIDTH, bias)
    return found


def tower(
    at: str, layer: str, kernel: tuple[int, ...], sizes: dict[str, int], post: int = 0, bias: bool = True
) -> Shapes:
    found = {f"{at}/{layer}/kernel": (*kernel, WIDTH), f"{at}/{layer}/bias": (WIDTH,), f"{at}/agg_embedding": (WIDTH,)}
    found |= positions(f"{at}/pos_embedding_lookup", sizes) | transformer(f"{at}/tx", bias)
    return found | (dense(f"{at}/pre_proj", WIDTH, WIDTH) | dense(f"{at}/post_proj", WIDTH, post) if post else {})


def vit(at: str, post: int = 0) -> Shapes:
    return tower(at, "voxel_to_patch", (4, 16, 16, 3), VIDEO, post)


def wat(at: str, post: int = 0) -> Shapes:
    return tower(at, "wave_to_patch", (128, 1), AUDIO, post)


def spt(at: str) -> Shapes:
    return tower(at, "spectrum_to_patch", (16, 5, 1), SPECTRUM, bias=False)


def t5(at: str) -> Shapes:
    found = {f"{at}/embedding/embeddings": (WORDS, TABLE), f"{at}/agg_embedding": (TABLE,)}
    found |= dense(f"{at}/pre_proj", TABLE, WIDTH, bias=False)
    for i in range(DEPTH):
        block = f"{at}/base_lm/layers/{i}"
        found[f"{block}/self_attention/layer_norm/weight"] = (WIDTH,)
        for part in "qkvo":
            found |= dense(f"{block}/self_attention/attention/{part}", WIDTH, WIDTH, bias=False)
        found |= norm(f"{block}/feed_forward/layer_norm", WIDTH)
        found |= dense(f"{block}/feed_forward/mlp/wi", WIDTH, MLP, bias=False)
        found |= dense(f"{block}/feed_forward/mlp/wo", MLP, WIDTH, bias=False)
    first = f"{at}/base_lm/layers/0/self_attention/attention"
    found[f"{first}/relative_attention_bias/embeddings"] = (32, 2)
    return found | {f"{at}/base_lm/final_layer_norm/weight": (WIDTH,)}


def bert(at: str) -> Shapes:
    found = {f"{at}/embedding/embeddings": (WORDS, TABLE), f"{at}/base_lm/agg_embedding": (WIDTH,)}
    found |= dense(f"{at}/pre_proj", TABLE, WIDTH, bias=False)
    return found | positions(f"{at}/base_lm/pos_embedding_lookup", {"temporal": 6}) | transformer(f"{at}/base_lm/tx")


def linear(at: str) -> Shapes:
    layer = {f"{at}/base_lm/conv1d/kernel": (1, TABLE, 20), f"{at}/base_lm/conv1d/bias": (20,)}
    return {f"{at}/embedding/embeddings": (WORDS, TABLE)} | layer


def hierarchical(video: int, audio: int, text: int) -> Shapes:
    found = dense(f"{HEAD}/vid_to_hid", video, 14, bias=False) | norm(f"{HEAD}/hid_to_va/pre_bn", 14, batch=True)
    found |= dense(f"{HEAD}/hid_to_va/dense", 14, 14, bias=False) | norm(f"{HEAD}/hid_to_va/bn", 14, batch=True)
    found |= dense(f"{HEAD}/va_to_vat/dense", 14, 9, bias=False) | norm(f"{HEAD}/va_to_vat/bn", 9, batch=True)
    return found | dense(f"{HEAD}/aud_to_va", audio, 14) | dense(f"{HEAD}/txt_to_vat", text, 9)


def joint(video: int, audio: int, text: int) -> Shapes:
    found: Shapes = {}
    for name, width in (("vid", video), ("aud", audio), ("txt", text)):
        found |= dense(f"{HEAD}/{name}_to_vat/dense", width, 14, bias=False)
        found |= norm(f"{HEAD}/{name}_to_vat/bn", 14, batch=True)
    return found


def specific(audio: Callable[[str], Shapes], text: Callable[[str], Shapes], head: Callable[..., Shapes]) -> Shapes:
    found = vit("_base_layer/vid_backbone/_base") | audio("_base_layer/aud_backbone/_base")
    return found | text("_base_layer/txt_backbone") | head(WIDTH, WIDTH, 20 if text is linear else WIDTH)


def agnostic() -> Shapes:
    found: Shapes = {
        f"{UNIFIED}/raw_to_embeddings/video/kernel": (4, 16, 16, 3, WIDTH),
        f"{UNIFIED}/raw_to_embeddings/video/bias": (WIDTH,),
        f"{UNIFIED}/raw_to_embeddings/audio/kernel": (128, 1, WIDTH),
        f"{UNIFIED}/raw_to_embeddings/audio/bias": (WIDTH,),
        f"{UNIFIED}/raw_to_embeddings/text/embeddings": (WORDS, TABLE),
    }
    for modality, width in (("video", WIDTH), ("audio", WIDTH), ("text", TABLE)):
        found |= dense(f"{UNIFIED}/pre_proj/{modality}", width, WIDTH)
        found |= dense(f"{UNIFIED}/post_proj/{modality}", WIDTH, 20)
        found[f"{UNIFIED}/{modality[:3] if modality != 'text' else 'txt'}_agg_embedding"] = (WIDTH,)
    for modality, sizes in (("video", VIDEO), ("audio", AUDIO), ("text", {"temporal": 6})):
        found |= positions(f"{UNIFIED}/pos_embedding_lookup/{modality}", sizes)
    return found | transformer(f"{UNIFIED}/tx") | hierarchical(20, 20, 20)


CHECKPOINTS = {
    "tx_fac": specific(wat, t5, hierarchical),
    "with spectrograms": specific(spt, t5, hierarchical),
    "with bert": specific(wat, bert, hierarchical),
    "linear text and a joint head": specific(wat, linear, joint),
    "ut_fac": agnostic(),
    "vit fine-tuned": vit("_base") | dense("_ops/cls", WIDTH, 5),
    "vit fine-tuned from ut_fac": vit("_base", post=20) | dense("_ops/cls", 20, 5),
    "wat fine-tuned": wat("_base") | dense("_ops/cls", WIDTH, 5),
    "wat fine-tuned from ut_fac": wat("_base", post=20) | dense("_ops/cls", 20, 5),
    "spt fine-tuned": spt("_base") | dense("_ops/cls", WIDTH, 5),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_variable_has_its_place(name: str) -> None:
    variables = {path: np.zeros(shape, np.float32) for path, shape in CHECKPOINTS[name].items()}
    model, report = convert(variables, head_width=8)
    assert sorted(report.loaded) == sorted(variables)
    assert report.ignored == []
    assert not any(value.any() for key, value in model.state_dict().items() if "num_batches" not in key)
