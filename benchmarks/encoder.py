"""Our encoder beside the ViT encoder of Hugging Face, and DropToken's time beside its operations.

Usage:
    python benchmarks/encoder.py            # needs vatt[transformers]

Forward and backward passes in float32 (bf16 on a GPU) at equal width, depth, heads and tokens, both with PyTorch's
fused attention; medians of rounds in which they take turns. The second table is a step of the video tower at drop rates
of 0 to 75 %: how much faster it is than without, beside how many times fewer operations it has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel
from transformers import __version__ as transformers_version

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import medians
from vatt.models.backbone import Backbone
from vatt.models.flops import count_flops, without_weights
from vatt.models.selection import drop_token
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.structures import ClipFormat

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 9
SIZES = {"Small": (512, 6, 8), "Base": (768, 12, 12)}  # D, depth, heads
TOKENS, CLIPS = 785, 2  # half of 32 frames of 224 x 224, and AGG


def half() -> object:
    return torch.autocast(DEVICE, torch.bfloat16) if DEVICE == "cuda" else nullcontext()


def passes(encode: Callable[[torch.Tensor], torch.Tensor], width: int) -> Callable[[], None]:
    """A forward and a backward pass on random tokens."""
    x = torch.randn(CLIPS, TOKENS, width, device=DEVICE, requires_grad=True)

    def do() -> None:
        with half():
            loss = encode(x).square().mean()
        loss.backward()

    return do


def beside_hugging_face(name: str) -> None:
    width, depth, heads = SIZES[name]
    ours = Transformer(width, depth, heads).to(DEVICE)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        layer_norm_eps=1e-6, attn_implementation="sdpa",
    )  # fmt: skip
    theirs = ViTModel(config, add_pooling_layer=False).to(DEVICE).train()

    layers = theirs.layers if hasattr(theirs, "layers") else theirs.encoder.layer  # before version 5

    def encode(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        return theirs.layernorm(x)

    count = [sum(p.numel() for p in part.parameters()) for part in (ours.blocks, layers)]
    assert count[0] == count[1], count
    found = medians({"ours": passes(lambda x: ours(x)[0], width), "theirs": passes(encode, width)}, ROUNDS)
    ratio = found["theirs"] / found["ours"]
    print(f"| {name} ({width} wide, {depth} deep) | {found['ours']:.3f} | {found['theirs']:.3f} | {ratio:.2f} x |")


def drop_rates() -> None:
    width, depth, heads = SIZES["Base"]
    format = ClipFormat()
    backbone = Backbone({"video": VideoTokenizer(width)}, {"video": Transformer(width, depth, heads)}).to(DEVICE)
    video = torch.rand(1, format.num_frames, 3, format.size, format.size, device=DEVICE)

    def step(drop: float) -> Callable[[], None]:
        def do() -> None:
            with half():
                tokens = drop_token(backbone.tokenize("video", video), drop, backbone.tokenizers["video"].grid)
                loss = backbone.encode("video", tokens).pooled.square().mean()
            loss.backward()

        return do

    rates = (0.0, 0.25, 0.5, 0.75)
    taken = medians({str(rate): step(rate) for rate in rates}, ROUNDS)
    flops = {rate: count_flops(without_weights(backbone), format, {"video": rate})[0].all for rate in rates}
    print("\n| dropped | seconds | times faster | times fewer operations | of that |\n|---|---|---|---|---|")
    for rate in rates:
        faster, fewer = taken["0.0"] / taken[str(rate)], flops[0.0] / flops[rate]
        print(f"| {rate:.0%} | {taken[str(rate)]:.2f} | {faster:.2f} | {fewer:.2f} | {faster / fewer:.0%} |")


def main() -> None:
    where = f"{DEVICE}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, transformers {transformers_version}, {where}; {CLIPS} x {TOKENS} tokens\n")
    print("| forward and backward, seconds | ours | Hugging Face ViT | times as fast |\n|---|---|---|---|")
    for name in SIZES:
        beside_hugging_face(name)
    drop_rates()


if __name__ == "__main__":
    main()
