"""Probes that are trained by gradient on stored features: the paper's low-rank one, and the attentive one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.probes import AttentiveClassifier, LowRankClassifier
from vatt.models.readouts import ReadoutClassifier

# Probe by name: how it is made, learning rate, weight decay, L2 on its last matrix, which the paper has at 0.1.
PROBES: dict[str, tuple[Callable[..., nn.Module], float, float, float]] = {
    "lowrank": (LowRankClassifier, 5e-4, 0.0, 0.1),
    "attentive": (AttentiveClassifier, 1e-3, 0.01, 0.0),
    "readout": (ReadoutClassifier, 1e-3, 0.01, 0.0),
}
OF_TOKENS = ("attentive", "readout")


def train_and_score(
    kind: str,
    train: Tensor,
    target: Tensor,
    test: Tensor,
    classes: int,
    steps: int = 2_000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    times: int = 1,
) -> Tensor:
    """Train a probe with batches of 64 (VATT, appendix A.3.2: Adam; V-JEPA: AdamW, cosine to 0).

    Features are standardised. V-JEPA's own probe has the heads of its encoder and a schedule of the weight
    decay; here there are four heads and a constant decay.

    Args:
        kind: "lowrank", on (N, D) features, or "attentive" (V-JEPA) and "readout" (4DS), on (N, T, D) tokens.
        train: features of the training clips.
        target: (N,) int64.
        test: features to classify, with M in place of N.
        classes: C.
        steps: of the training; the paper has 50,000.
        seed: of weights, batches and dropout; the random state outside is left as it was.
        device: where the probe is trained; the features may be larger than its memory.
        times: into which the tokens fall, one after the other, for "readout", which learns a vector for each.

    Returns:
        (M, C) probabilities.
    """
    make, lr, weight_decay, penalty = PROBES[kind]
    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(seed)
        mean, spread = _moments(train)

        def ready(x: Tensor) -> Tensor:
            return ((x.float() - mean) / (spread + 1e-6)).to(device)

        known = {"times": times} if kind == "readout" else {}
        probe = make(train.shape[-1], classes, **known).train().to(device)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randint(len(train), (min(64, len(train)),))
            loss = F.cross_entropy(probe(ready(train[rows])), target[rows].to(device))
            if penalty:
                loss = loss + penalty * probe.up.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        probe.eval()
        with torch.no_grad():
            return torch.cat([probe(ready(part)).softmax(dim=1).cpu() for part in test.split(256)])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, without a copy of everything in full precision."""
    parts = [part.double().flatten(0, -2) for part in x.split(256)]
    count = sum(len(part) for part in parts)
    mean = sum(part.sum(dim=0) for part in parts) / count
    spread = (sum((part - mean).square().sum(dim=0) for part in parts) / (count - 1)).sqrt()
    return mean.float(), spread.float()
