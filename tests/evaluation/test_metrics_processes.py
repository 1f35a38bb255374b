"""Retrieval on the validation clips does not depend on the number of processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vatt.evaluation.metrics import PairedRetrieval

CLIPS = 20


def found() -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    video = torch.randn(CLIPS, 8)
    text = video + 0.8 * torch.randn(CLIPS, 8)
    metric = PairedRetrieval(["text", "video"])
    for begin in range(0, CLIPS, 6):
        metric.update(text[begin : begin + 6], video[begin : begin + 6])
    return metric.compute()


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(found(), Path(folder) / f"found{rank}.pt")
    dist.barrier()  # nobody leaves while another one still talks to it
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2])
def test_every_process_has_the_whole_result(world: int) -> None:
    alone = found()
    assert 0 < alone["text_to_video"]["R@1"] < 100
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        mp.start_processes(work, (world, folder), nprocs=world, start_method="spawn")
        for rank in range(world):
            assert torch.load(Path(folder) / f"found{rank}.pt", weights_only=True) == alone
