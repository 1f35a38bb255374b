"""Two and four processes on gloo: the same loss and gradients as one process on the whole batch."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.conftest import SMALL_HEAD, tiny_backbone, tiny_batch
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.distributed import gather

CLIPS = 8


def parts() -> tuple:
    torch.manual_seed(3)
    backbone, objective = tiny_backbone(), Contrastive(SMALL_HEAD, drop_video=0.0, drop_audio=0.0)
    objective.build(backbone)
    batch = tiny_batch(CLIPS)
    batch["text_valid"][CLIPS // 2 :] = False  # the last ranks have no text at all
    batch["audio_valid"][1] = False
    return backbone, objective, batch


def gradients(*modules: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for module in modules for p in module.parameters()])


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.set_num_threads(1)
    backbone, objective, batch = parts()
    share = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    mine = {name: value[share] for name, value in batch.items()}
    loss = objective(backbone, mine)["loss"]
    loss.backward()
    flat = gradients(backbone, objective)
    dist.all_reduce(flat)  # DDP's mean
    if rank == 0:
        torch.save({"loss": loss.detach(), "gradients": flat / world}, Path(folder) / "found.pt")
    dist.barrier()  # nobody leaves while another one still talks to it
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_several_processes_equal_one(world: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        mp.start_processes(work, (world, folder), nprocs=world, start_method="spawn")
        found = torch.load(Path(folder) / "found.pt", weights_only=True)
    backbone, objective, batch = parts()
    loss = objective(backbone, batch)["loss"]
    loss.backward()
    expected = gradients(backbone, objective)
    assert torch.allclose(found["loss"], loss, rtol=1e-5)
    assert (found["gradients"] - expected).norm() <= 1e-5 * expected.norm()


def test_alone_a_batch_is_left_as_it_is() -> None:
    x = torch.randn(3, 2)
    assert gather(x) is x
