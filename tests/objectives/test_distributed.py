"""One, two and four processes on gloo: the same loss and gradients as one process on the whole batch."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import SMALL_HEAD, tiny_backbone, tiny_batch
from vatt.models.backbone import Backbone
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.autoregressive import Autoregressive
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.distributed import distributed_pairwise_logsumexp, gather, gather_in_order

CLIPS = 8
TERMS = {"nce": (1.0, 0.0), "mil_nce": (0.0, 1.0), "both": (1.0, 2.0)}
CASES = list(itertools.product(TERMS, ("asymmetric", "symmetric"), ("none", "audio", "text"), (None, 1)))


def parts(terms: str, form: str, gone: str, micro_batch: int | None) -> tuple:
    """A backbone, an objective, and a batch whose last quarter, that of the last rank of four, lacks a modality."""
    torch.manual_seed(3)
    audio, text = TERMS[terms]
    backbone = tiny_backbone()
    objective = Contrastive(
        SMALL_HEAD, drop_video=0.0, drop_audio=0.0, video_audio_weight=audio, video_text_weight=text, form=form,
        learn_temperature=True, micro_batch=micro_batch,
    )  # fmt: skip
    objective.build(backbone)
    batch = tiny_batch(CLIPS)
    batch["audio_valid"][1] = False
    if gone != "none":
        batch[f"{gone}_valid"][-CLIPS // 4 :] = False
    return backbone, objective, batch


def step(backbone: torch.nn.Module, objective: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradients, those of parameters that have none as zeros."""
    loss = objective(backbone, batch)["loss"]
    loss.backward()
    every = [p for module in (backbone, objective) for p in module.parameters()]
    return loss.detach(), torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in every])


def images(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a process makes of its clips, of which one is a picture and one is not there."""
    backbone = Backbone(
        {"video": VideoTokenizer(8, (2, 1, 1), (1, 16, 16), positions="none")},
        {"video": Transformer(8, 1, 2, causal=True, rotary="sequence")},
    )
    objective = Autoregressive("patches", images=0.5)
    objective.build(backbone)
    objective.draws = torch.Generator().manual_seed(1)
    video = torch.rand(CLIPS, 2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    video[3] = video[3, :1]
    valid = torch.arange(CLIPS) != 5
    return objective.with_images(video[rank::world], valid[rank::world])


def work(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.set_num_threads(1)
    share = slice(rank * CLIPS // world, (rank + 1) * CLIPS // world)
    found = []
    for case in CASES:
        backbone, objective, batch = parts(*case)
        loss, gradients = step(backbone, objective, {name: value[share] for name, value in batch.items()})
        dist.all_reduce(gradients)  # DDP's mean
        found.append((loss, gradients / world))
    pictures = [gather_in_order(x) for x in images(rank, world)]
    with FlopCounterMode(display=False) as counted:
        distributed_pairwise_logsumexp(torch.ones(12, 4), torch.ones(24, 4), 1.0, None)
    said = []
    backbone, objective, batch = parts(*CASES[0])
    for rest in ("later", "at once"):
        mine = {name: value[share] for name, value in batch.items() if rank or not name.startswith("audio")}
        if rest == "at once":
            backbone, objective, _ = parts(*CASES[0])
        else:
            objective(backbone, {name: value[share] for name, value in batch.items()})
            dist.barrier()
        try:
            if rank == 0 or rest == "at once":
                objective(backbone, mine)
        except ValueError as error:
            said.append(str(error))
    if rank == 0:
        reached = {"found": found, "said": said, "flops": counted.get_total_flops(), "pictures": pictures}
        torch.save(reached, Path(folder) / "found.pt")
    dist.barrier()  # nobody leaves while another one still talks to it
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_several_processes_equal_one(world: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        mp.start_processes(work, (world, folder), nprocs=world, start_method="spawn")
        reached = torch.load(Path(folder) / "found.pt", weights_only=True)
    for case, (loss, gradients) in zip(CASES, reached["found"], strict=True):
        expected = step(*parts(*case[:-1], None))
        assert torch.allclose(loss, expected[0], rtol=1e-5), case
        assert (gradients - expected[1]).norm() <= 1e-5 * expected[1].norm(), case
        assert expected[1].norm() > 0
    assert reached["flops"] == 2 * 12 * 24 * 4 * (1 if world == 1 else 2 / world)
    for found, wanted in zip(reached["pictures"], images(0, 1), strict=True):
        assert torch.equal(found, wanted)
    # A modality that one process does not know of would make all of them wait.
    if world > 1:
        later, at_once = reached["said"]
        assert later.startswith("this batch has video and text, and those before had video and audio and text")
        assert at_once.startswith("processes have different modalities in the batches (process 0: ('video', 'text')")


def test_alone_a_batch_is_left_as_it_is() -> None:
    x = torch.randn(3, 2)
    assert gather(x) is x
