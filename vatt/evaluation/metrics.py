"""Retrieval metrics in per cent, ties counted against the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from vatt.errors import InputError

RECALLS = (1, 5, 10)


def ranks(similarity: Tensor, target: Tensor) -> Tensor:
    """The rank of the right answer for each query, from 1; of equal similarities the right one comes last.

    Args:
        similarity: (Q, G) of queries to gallery.
        target: (Q,) int64, the right gallery item of each query.

    Returns:
        (Q,) int64.

    Raises:
        InputError: a similarity is not finite.
    """
    if not similarity.isfinite().all():
        raise InputError("similarities hold NaN or infinity; the embeddings are broken")
    right = similarity.gather(1, target.unsqueeze(1))
    return (similarity >= right).sum(dim=1)


def summarize(rank: Tensor, gallery: int) -> dict[str, float]:
    """R@1, R@5, R@10, median and mean rank, with the size of the gallery.

    Args:
        rank: (Q,) from 1.
        gallery: items that were ranked.

    Returns:
        ``R@k`` in per cent, ``MedR`` and ``MeanR`` as ranks, ``queries``, ``gallery``, and ``chance``, which is R@1,
        R@5, R@10 in per cent and the median rank of guessing.
    """
    if len(rank) == 0:
        raise InputError("there is no query to evaluate")
    rank = rank.double()
    found: dict[str, float] = {f"R@{k}": round((rank <= k).double().mean().item() * 100, 2) for k in RECALLS}
    found["MedR"] = rank.quantile(0.5).item()
    found["MeanR"] = round(rank.mean().item(), 2)
    chance = {f"R@{k}": round(min(1.0, k / gallery) * 100, 2) for k in RECALLS}
    return {**found, "queries": len(rank), "gallery": gallery, "chance": {**chance, "MedR": (gallery + 1) / 2}}


def retrieval(queries: Tensor, gallery: Tensor, target: Tensor | None = None) -> dict[str, float]:
    """Rank a gallery by cosine similarity.

    Args:
        queries: (Q, E), normalised here.
        gallery: (G, E), normalised here.
        target: (Q,) right items; query i belongs to item i where it is not given.

    Returns:
        See `summarize`.
    """
    target = torch.arange(len(queries), device=queries.device) if target is None else target
    similarity = F.normalize(queries.float(), dim=-1) @ F.normalize(gallery.float(), dim=-1).T
    return summarize(ranks(similarity, target), len(gallery))


class PairedRetrieval(Metric):
    """Retrieval in both directions between two embeddings of the same clips, gathered over batches.

    Of several processes each sees all clips and has the whole result: it does not depend on their number.

    Args:
        names: of the two sides, for example ("text", "video").
    """

    full_state_update = False

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(sync_on_compute=False)
        self.names = tuple(names)
        self.add_state("first", default=[], dist_reduce_fx="cat")
        self.add_state("second", default=[], dist_reduce_fx="cat")

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add pairs (B, E) and (B, E)."""
        self.first.append(first.detach().float())
        self.second.append(second.detach().float())

    def compute(self) -> dict[str, dict[str, float]]:
        """``first_to_second`` and ``second_to_first``, see `summarize`; empty when no pair came."""
        first, second = (torch.cat(x) if isinstance(x, list) and x else x for x in (self.first, self.second))
        if len(first) == 0:
            return {}
        a, b = self.names
        return {f"{a}_to_{b}": retrieval(first, second), f"{b}_to_{a}": retrieval(second, first)}
