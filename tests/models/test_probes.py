from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vatt.models.probes import AttentiveClassifier, LowRankClassifier

OFFICIAL = {  # our name: theirs
    "query": "pooler.query_tokens",
    **{
        f"{ours}.{kind}": f"pooler.cross_attention_block.{theirs}.{kind}"
        for ours, theirs in {
            "norm": "norm1", "q": "xattn.q", "kv": "xattn.kv", "mlp_norm": "norm2", "up": "mlp.fc1", "down": "mlp.fc2",
        }.items()
        for kind in ("weight", "bias")
    },
    "linear.weight": "linear.weight",
    "linear.bias": "linear.bias",
}  # fmt: skip


def test_the_attentive_classifier_is_that_of_v_jepa(shared: Path) -> None:
    """Their code's logits of their code's features, with its weights."""
    reference = np.load(shared / "parity" / "vjepa.npz")
    heads = [h for h in (2, 3, 4, 6) if _logits(reference, h) < 1e-5]
    assert heads == [4]  # as many as the encoder has


def _logits(reference: dict[str, np.ndarray], heads: int) -> float:
    probe = AttentiveClassifier(96, 7, heads)
    weights = {ours: torch.from_numpy(reference[f"weight/probe/{theirs}"]) for ours, theirs in OFFICIAL.items()}
    probe.load_state_dict(weights)
    with torch.no_grad():
        found = probe(torch.from_numpy(reference["output/target_full"]))
    return float((found - torch.from_numpy(reference["output/probe_logits"])).abs().max())


def test_order_of_tokens_does_not_matter_and_clips_are_apart() -> None:
    probe = AttentiveClassifier(8, 3, 2).eval()
    tokens = torch.randn(4, 6, 8)
    logits = probe(tokens)
    torch.testing.assert_close(probe(tokens[:, torch.randperm(6)]), logits)
    torch.testing.assert_close(probe(tokens[2:3]), logits[2:3])
    with pytest.raises(ValueError, match="3 heads"):
        AttentiveClassifier(8, 3, 3)


def test_the_low_rank_classifier_is_a_product_of_two_matrices() -> None:
    probe = LowRankClassifier(16, 5, rank=3).eval()
    x = torch.randn(7, 16)
    whole = probe.up.weight @ probe.down.weight
    assert torch.linalg.matrix_rank(whole) == 3
    torch.testing.assert_close(probe(x), x @ whole.T + probe.up.weight @ probe.down.bias + probe.up.bias)
    probe.train()
    assert not torch.equal(probe(x), probe(x))  # components are sampled
