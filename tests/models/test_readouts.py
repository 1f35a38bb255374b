"""Attention readouts against what they are made of."""

from __future__ import annotations

import pytest
import torch

from vatt.models.readouts import AttentionReadout, fourier


def slow(readout: AttentionReadout, tokens: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Of one clip, a query and a head at a time."""
    x = readout.norm(tokens).view(len(readout.time), -1, tokens.shape[-1]) + readout.time
    k, v = readout.kv(x.flatten(0, 1)).chunk(2, dim=-1)
    width = q.shape[-1] // readout.heads
    said = []
    for query in q:
        parts = []
        for h in range(readout.heads):
            s = slice(h * width, (h + 1) * width)
            weight = (k[:, s] @ query[s] / width**0.5).softmax(dim=0)
            parts.append(weight @ v[:, s])
        y = query + readout.out(torch.cat(parts))
        hidden = torch.nn.functional.gelu(readout.up(readout.mlp_norm(y)), approximate="tanh")
        said.append(readout.say(y + readout.down(hidden)))
    return torch.stack(said)


@pytest.mark.parametrize("learned", [True, False])
def test_it_is_attention_an_mlp_and_a_linear_layer(learned: bool) -> None:
    torch.manual_seed(0)
    given = {"queries": 5} if learned else {"query_width": 3}
    readout = AttentionReadout(12, 2, 4, inner=16, heads=4, **given)  # type: ignore[arg-type]
    tokens = torch.randn(3, 8, 12)
    asked = None if learned else torch.randn(3, 5, 3)
    found = readout(tokens, asked)
    assert found.shape == (3, 5, 4)
    for b in range(3):
        q = readout.queries if learned else readout.ask(asked[b])
        torch.testing.assert_close(found[b], slow(readout, tokens[b], q), rtol=1e-4, atol=1e-5)


def test_queries_are_learned_or_given() -> None:
    with pytest.raises(ValueError, match="one of both"):
        AttentionReadout(8, 2, 1)
    with pytest.raises(ValueError, match="3 heads"):
        AttentionReadout(8, 2, 1, queries=2, heads=3)
    assert fourier(torch.rand(2, 4, 2), bands=3).shape == (2, 4, 14)
