from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vatt.models.transformer import Attention, Transformer


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
