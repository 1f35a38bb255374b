"""Retrieval metrics in per cent, ties counted against the model.

A clip is a file and a segment, and may have several captions. As on MSVD and the full test set of MSR-VTT (Dong et
al. 2019, arXiv:1809.06181; Liu et al. 2019, arXiv:1907.13487), every caption is a query for its clip, in a gallery of
clips. In the other direction the gallery has all captions, and the rank of a clip is that of the best of its own
captions. With one caption per clip this is the protocol of MSR-VTT 1k-A (Yu et al. 2018, arXiv:1808.02559).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from vatt.errors import InputError

RECALLS = (1, 5, 10)
CHUNK = 1024  # queries at a time
LOWER_IS_BETTER = ("MedR", "MeanR", "missing", "loss")  # ends of metric names
EQUAL = 1e-6  # cosines this close are equal: the same caption in two batches differs by less


def lower_is_better(name: str) -> bool:
    """Return whether lower values of a logged metric, such as ``val/text_to_video_MedR``, are better."""
    return name.endswith(LOWER_IS_BETTER)


def ranks(similarity: Tensor, right: Tensor, equal: float = 0.0) -> Tensor:
    """The rank of the best right answer for each query, from 1; of equal similarities the right one comes last.

    Args:
        similarity: (Q, G) of queries to gallery.
        right: (Q, G) bool, True for the right gallery items of each query, of which there is at least one.
        equal: difference up to which similarities are equal.

    Returns:
        (Q,) int64.

    Raises:
        InputError: a similarity is not finite.
    """
    if not similarity.isfinite().all():
        raise InputError("similarities hold NaN or infinity; the embeddings are broken")
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((similarity >= best - equal) & ~right).sum(dim=1) + 1


def summarize(rank: Tensor, gallery: int, right: Tensor | None = None) -> dict[str, float]:
    """R@1, R@5, R@10, median and mean rank, with the size of the gallery.

    Args:
        rank: (Q,) from 1.
        gallery: items that were ranked.
        right: (Q,) int64, how many of them are right for each query; 1 unless given.

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
    return {**found, "queries": len(rank), "gallery": gallery, "chance": _chance(gallery, right)}


def _chance(gallery: int, right: Tensor | None) -> dict[str, float]:
    """What guessing finds: the best of m right items is among the first k unless all k are of the G - m others."""
    counts = torch.ones(1) if right is None else right
    missed, by_k = torch.ones(len(counts), dtype=torch.float64), [0.0]
    for k in range(gallery):
        missed = missed * (1 - counts / (gallery - k)).clamp(min=0)
        by_k.append(1 - missed.mean().item())
        if k >= max(RECALLS) and by_k[-1] >= 0.5:
            break
    recalls = {f"R@{k}": round(by_k[min(k, gallery)] * 100, 2) for k in RECALLS}
    middle = next(k for k, share in enumerate(by_k) if share >= 0.5)
    return {**recalls, "MedR": (gallery + 1) / 2 if int(counts.max()) == 1 else float(middle)}


def retrieval(
    queries: Tensor, gallery: Tensor, query_of: Tensor | None = None, gallery_of: Tensor | None = None
) -> dict[str, float]:
    """Rank a gallery by cosine similarity; what differs by a millionth or less counts as equal.

    Args:
        queries: (Q, E), normalised here.
        gallery: (G, E), normalised here.
        query_of: (Q,) int64, the clip of each query; its place unless given.
        gallery_of: (G,) int64, the clip of each gallery item; its place unless given.

    Returns:
        See `summarize`.
    """
    query_of = torch.arange(len(queries)) if query_of is None else query_of
    gallery_of = torch.arange(len(gallery)) if gallery_of is None else gallery_of
    queries, gallery = F.normalize(queries.double(), dim=-1), F.normalize(gallery.double(), dim=-1)
    query_of, gallery_of = query_of.to(gallery.device), gallery_of.to(gallery.device)
    found, counts = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    for part, of in zip(queries.split(CHUNK), query_of.split(CHUNK), strict=True):
        right = of[:, None] == gallery_of
        found.append(ranks(part @ gallery.T, right, EQUAL).cpu())
        counts.append(right.sum(dim=1).cpu())
    return summarize(torch.cat(found), len(gallery), torch.cat(counts))


class PairedRetrieval(Metric):
    """Retrieval in both directions between two embeddings of the same clips, gathered over batches.

    The first side may have several vectors per clip, such as those of its captions. Each of them is a query; in the
    other direction, the rank of a clip is that of its best vector. The clips of all processes are gathered, so that all
    processes have the same result, whatever their number.

    Args:
        names: of the two sides, for example ("text", "video").
    """

    full_state_update = False

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(sync_on_compute=False)
        self.names = tuple(names)
        self.add_state("first", default=[], dist_reduce_fx="cat")
        self.add_state("second", default=[], dist_reduce_fx="cat")
        self.add_state("valid", default=[], dist_reduce_fx="cat")

    def update(self, first: Tensor, second: Tensor, valid: Tensor | None = None) -> None:
        """Add the vectors of clips. The device is not synchronized before `compute`.

        Args:
            first: (B, E), or (B, K, E) for K vectors of each clip.
            second: (B, E).
            valid: (B,) or (B, K) bool; the other pairs are ignored. None: all pairs are valid.
        """
        first = first if first.ndim == 3 else first.unsqueeze(1)
        if valid is None:
            valid = first.new_ones(first.shape[:2], dtype=torch.bool)
        self.first.append(first.detach().float())
        self.second.append(second.detach().float())
        self.valid.append(valid if valid.ndim == 2 else valid.unsqueeze(1))

    def compute(self) -> dict[str, dict[str, float]]:
        """``first_to_second`` and ``second_to_first``, see `summarize`; empty when no pair came."""
        states = (self.first, self.second, self.valid)
        first, second, valid = (torch.cat(x) if isinstance(x, list) and x else x for x in states)
        if len(valid) == 0 or not valid.any():
            return {}
        clips = valid.any(dim=1)
        first, second, valid = first[clips], second[clips], valid[clips]
        clip = torch.arange(len(valid), device=valid.device)
        owner, (a, b) = clip[:, None].expand_as(valid)[valid], self.names
        return {
            f"{a}_to_{b}": retrieval(first[valid], second, owner, clip),
            f"{b}_to_{a}": retrieval(second, first[valid], clip, owner),
        }
