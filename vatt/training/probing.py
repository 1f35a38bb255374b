"""Probes that are trained by gradient on stored features: the paper's low-rank one, and the attentive one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.probes import AttentiveClassifier, LowRankClassifier

# Probe by name: how it is made, learning rate, weight decay, L2 on its last matrix, which the paper has at 0.1.
PROBES: dict[str, tuple[Callable[[int, int], nn.Module], float, float, float]] = {
    "lowrank": (LowRankClassifier, 5e-4, 0.0, 0.1),
    "attentive": (AttentiveClassifier, 1e-3, 0.01, 0.0),
}


def train_and_score(
    kind: str, train: Tensor, target: Tensor, test: Tensor, classes: int, steps: int = 2_000, seed: int = 0
) -> Tensor:
    """Train a probe with batches of 64 (VATT, appendix A.3.2: Adam; V-JEPA: AdamW, cosine to 0).

    Args:
        kind: "lowrank", on (N, D) features, or "attentive", on (N, T, D) tokens.
        train: features of the training clips.
        target: (N,) int64.
        test: features to classify, with M in place of N.
        classes: C.
        steps: of the training; the paper has 50,000.
        seed: of weights, batches and dropout; the random state outside is left as it was.

    Returns:
        (M, C) probabilities.
    """
    make, lr, weight_decay, penalty = PROBES[kind]
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(seed)
        mean, spread = train.mean(dim=tuple(range(train.ndim - 1))), train.std(dim=tuple(range(train.ndim - 1)))
        train, test = ((x.clone() - mean) / (spread + 1e-6) for x in (train, test))
        probe = make(train.shape[-1], classes).train()
        optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randint(len(train), (min(64, len(train)),))
            loss = F.cross_entropy(probe(train[rows]), target[rows])
            if penalty:
                loss = loss + penalty * probe.up.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        probe.eval()
        with torch.no_grad():
            return torch.cat([probe(part).softmax(dim=1) for part in test.split(256)])
