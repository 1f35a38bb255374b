from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vatt.models.attention import Attention
from vatt.models.backbone import Backbone
from vatt.models.tokenizers import AudioTokenizer
from vatt.models.transformer import Encoder, Transformer


def slow_attention(layer: Attention, x: torch.Tensor, valid: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """One query, one head and one clip at a time."""
    b, n, d = x.shape
    size = d // layer.heads
    q, k, v = (x @ w.T + c for w, c in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    out = torch.zeros_like(x)
    for i in range(b):
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            for t in range(n):
                seen = [s for s in range(n) if (valid is None or valid[i, s]) and (not causal or s <= t)]
                scores = torch.stack([q[i, t, part] @ k[i, s, part] / math.sqrt(size) for s in seen])
                out[i, t, part] = sum(p * v[i, s, part] for p, s in zip(scores.softmax(0), seen, strict=True))
    return layer.out(out)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_against_loops(causal: bool, padded: bool) -> None:
    layer, x = Attention(8, heads=2), torch.randn(2, 5, 8)
    torch.nn.init.normal_(layer.qkv.bias)
    valid = torch.tensor([[True] * 5, [True, True, False, True, False]]) if padded else None
    assert torch.allclose(layer(x, valid, causal), slow_attention(layer, x, valid, causal), atol=1e-5)


def test_blocks_are_pre_norm_residuals() -> None:
    model, x = Transformer(8, depth=2, heads=2, mlp_width=12), torch.randn(2, 5, 8)
    y = x
    for block in model.blocks:
        y = y + block.attention(F.layer_norm(y, (8,), eps=1e-6))
        hidden = F.linear(F.layer_norm(y, (8,), eps=1e-6), block.up.weight, block.up.bias)
        y = y + F.linear(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), block.down.weight, block.down.bias)
    out, layers = model(x, layers=True)
    assert torch.allclose(out, F.layer_norm(y, (8,), eps=1e-6), atol=1e-5)
    assert len(layers) == 2
    assert torch.allclose(layers[-1], y, atol=1e-5)
    assert model(x)[1] == ()


def test_a_causal_token_does_not_see_the_future() -> None:
    model, x = Transformer(8, depth=3, heads=2), torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] = torch.randn(1, 2, 8)
    a, b = model(x, causal=True)[0], model(changed, causal=True)[0]
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-5)
    assert not torch.allclose(a[:, 4:], b[:, 4:])


def test_dropout_is_off_in_evaluation() -> None:
    model, x = Transformer(8, depth=2, heads=2, dropout=0.5).eval(), torch.randn(2, 5, 8)
    assert torch.equal(model(x)[0], model(x)[0])
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 10 does not divide into 4 heads"):
        Transformer(10, depth=1, heads=4)


def test_the_released_text_encoder_step_by_step() -> None:
    """No biases, unscaled scores, a relative bias, RMS norm before attention and in the end, layer norm before MLPs."""
    model = Transformer(8, 2, 2, 12, head_width=5, bias=False, scaled=False, norm="mixed", relative=(8, 16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, valid = torch.randn(2, 6, 8), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])

    def rms(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    y, added = x, model.relative(6)
    for block in model.blocks:
        q, k, v = (
            part.view(2, 6, 2, 5)
            for part in (rms(y, block.attention_norm.weight) @ block.attention.qkv.weight.T).chunk(3, -1)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) + added + torch.where(valid, 0.0, -1e9)[:, None, None]
        seen = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(2, 6, 10)
        y = y + seen @ block.attention.out.weight.T
        normed = F.layer_norm(y, (8,), block.mlp_norm.weight, block.mlp_norm.bias, 1e-6)
        y = y + F.gelu(normed @ block.up.weight.T) @ block.down.weight.T
    assert torch.allclose(model(x, valid)[0], rms(y, model.norm.weight), atol=1e-5)
    assert not [name for name, _ in model.named_parameters() if "bias" in name and "norm" not in name]


def test_a_relative_bias_can_be_causal() -> None:
    model, x = Transformer(8, 2, 2, relative=(8, 16)), torch.randn(1, 6, 8)
    changed = torch.cat([x[:, :4], torch.randn(1, 2, 8)], dim=1)
    valid = torch.ones(1, 6, dtype=torch.bool)
    for a, b in (
        (model(x, causal=True), model(changed, causal=True)),
        (model(x, valid, True), model(changed, valid, True)),
    ):
        assert torch.allclose(a[0][:, :4], b[0][:, :4], atol=1e-5)
        assert not torch.allclose(a[0][:, 4:], b[0][:, 4:])


def test_unknown_norms_are_refused_and_a_transformer_pools_with_its_agg_token() -> None:
    with pytest.raises(ValueError, match="layer, rms, mixed, not 'batch'"):
        Transformer(8, 1, 2, norm="batch")  # type: ignore[arg-type]
    model: Encoder = Transformer(8, 1, 2, norm="rms")
    assert isinstance(model.blocks[0].mlp_norm, torch.nn.RMSNorm)
    with pytest.raises(TypeError, match="AGG"):
        model.pool(torch.zeros(1, 2, 8))


def test_without_an_agg_token_the_valid_tokens_are_averaged() -> None:
    model = Transformer(4, 1, 2, agg=False)
    x, valid = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(model.pool(x), x.mean(dim=1))
    torch.testing.assert_close(model.pool(x, valid)[0], x[0, :2].mean(dim=0))
    backbone = Backbone({"audio": AudioTokenizer(4, length=3, segment=2)}, model)
    assert not backbone.agg
    assert backbone("audio", torch.randn(2, 6)).tokens.shape == (2, 3, 4)


def test_the_deeper_the_less_a_block_adds_at_first() -> None:
    """V-JEPA 2: of the i-th block both branches begin divided by the root of 2 i."""
    found = []
    for by_depth in (False, True):
        torch.manual_seed(0)
        found.append(Transformer(16, 3, 2, init_std=0.02, init_by_depth=by_depth).state_dict())
    for name, value in found[0].items():
        number = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0
        ends = name.endswith(("attention.out.weight", "down.weight"))
        torch.testing.assert_close(found[1][name], value / math.sqrt(2 * number) if ends else value)
