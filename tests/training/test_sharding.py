"""Processes that were built without memory get the weights that one process alone would have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from tests.conftest import ROOT, SMALL_HEAD, TINY, tiny_backbone, tiny_batch
from tests.training.runs import logged
from vatt.errors import VattError
from vatt.models.backbone import Backbone
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.autoregressive import Autoregressive
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.jepa import JEPA
from vatt.objectives.videomae import VideoMAE
from vatt.training.export import gathered
from vatt.training.optim import clip_gradients
from vatt.training.pretrain import PretrainModule
from vatt.training.sharding import WHOLE, is_empty, shard, without_memory

WORLD = 2
Build = Callable[[bool], PretrainModule]


def transformer(empty: bool, **arguments: Any) -> Transformer:
    return without_memory(Transformer, **arguments) if empty else Transformer(**arguments)


def tower(empty: bool) -> Backbone:
    tokenizer = VideoTokenizer(24, (2, 2, 2), positions="none")
    encoder = transformer(empty, width=24, depth=2, heads=2, agg=False, rotary="space")
    return Backbone({"video": tokenizer}, {"video": encoder})


def contrastive(empty: bool) -> PretrainModule:
    backbone = tiny_backbone()
    tokenizers = {name: backbone.tokenizers[name] for name in ("video", "text")}
    hop = TINY.num_samples // 8
    sound = {"window": 2 * hop, "hop": hop, "num_mels": 16, "sample_rate": TINY.sample_rate}
    tokenizers["audio"] = SpectrogramTokenizer(16, grid=(2, 2), patch=(4, 8), **sound)
    return PretrainModule(Backbone(tokenizers, transformer(empty, width=16, depth=2, heads=2)), Contrastive(SMALL_HEAD))


def feature_prediction(empty: bool) -> PretrainModule:
    return PretrainModule(tower(empty), JEPA(inner=16, depth=2, heads=2, rotary=True))


def masked(empty: bool) -> PretrainModule:
    return PretrainModule(tower(empty), VideoMAE(inner=24, depth=2, heads=2, rotary=True))


def masked_in_the_trunk(empty: bool) -> PretrainModule:
    return PretrainModule(tower(empty), VideoMAE(trunk_blocks=1))


def autoregression(empty: bool) -> PretrainModule:
    tokenizer = VideoTokenizer(24, (4, 2, 2), (1, 16, 16), positions="none")
    encoder = transformer(empty, width=24, depth=2, heads=2, causal=True, rotary="sequence")
    return PretrainModule(Backbone({"video": tokenizer}, {"video": encoder}), Autoregressive("patches"))


def step(module: PretrainModule, rank: int, half: torch.dtype | None) -> torch.Tensor:
    """The loss of a process's own clips, once its gradients are there."""
    torch.manual_seed(5)
    batch = tiny_batch(2 * WORLD)
    batch = {name: x[2 * rank : 2 * rank + 2] for name, x in batch.items()}
    module.objective.draws = torch.Generator().manual_seed(7)
    with torch.autocast("cpu", half, enabled=half is not None):
        loss = module.training_step(batch, 0)["loss"]
    loss.backward()
    return loss.detach()


def compare_steps(module: PretrainModule, whole: PretrainModule, rank: int, half: torch.dtype | None) -> None:
    """A shared model has the loss and the gradients of whole ones, whose gradients are averaged."""
    bounds = {"rtol": 1e-4, "atol": 1e-6} if half is None else {"rtol": 0.05, "atol": 0.01}
    torch.testing.assert_close(step(module, rank, half), step(whole, rank, half), **bounds)
    wanted = dict(whole.named_parameters())
    found = {name: gathered(x.grad) for name, x in module.named_parameters() if x.grad is not None}
    assert found.keys() == {name for name, x in wanted.items() if x.grad is not None}
    for name, gradient in found.items():
        dist.all_reduce(wanted[name].grad)
        wanted[name].grad /= WORLD
        torch.testing.assert_close(gradient, wanted[name].grad, **bounds, msg=lambda m, n=name: f"{n}: {m}")
    for algorithm, largest in (("value", 1e-2), ("norm", 1e-2)):  # the norm is that of the complete gradient
        for model in (module, whole):
            clip_gradients(model.parameters(), largest, algorithm)
        for name in found:
            gradient = gathered(module.get_parameter(name).grad)
            torch.testing.assert_close(gradient, wanted[name].grad, **bounds, msg=lambda m, n=name: f"{n}: {m}")


CASES: dict[str, tuple[Build, torch.dtype | None]] = {
    "contrastive": (contrastive, None),
    "feature prediction": (feature_prediction, None),
    "autoregression": (autoregression, None),
    "masked": (masked, None),
    "masked, half": (masked, torch.bfloat16),
    "masked, in the trunk": (masked_in_the_trunk, None),
}


def compare(rank: int, port: int, folder: Path) -> None:
    """One of several processes: all but the first are built without memory, and of another seed."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    mesh = init_device_mesh("cpu", (WORLD,))
    for name, (build, half) in CASES.items():
        torch.manual_seed(rank)
        module = build(rank > 0)
        assert is_empty(module) == (rank > 0), name
        shard(module, mesh, half)
        assert not is_empty(module), name
        torch.manual_seed(0)
        whole = build(False)
        held = sum(parameter.to_local().numel() for parameter in module.parameters())
        assert held < 0.7 * sum(parameter.numel() for parameter in whole.parameters()), name
        for (key, found), (other, wanted) in zip(module.named_parameters(), whole.named_parameters(), strict=True):
            assert key == other
            assert found.requires_grad == wanted.requires_grad, (name, key)
        wanted = whole.state_dict()
        for key, value in get_model_state_dict(module, options=WHOLE).items():  # empty but in the first process
            assert torch.equal(value, wanted.pop(key)), (name, key)
        assert rank or not wanted, (name, wanted)
        compare_steps(module, whole, rank, half)
        (folder / f"{rank}.txt").open("a").write(f"{name}\n")
    with pytest.raises(VattError, match="the first process has no weights"):
        shard(masked(True), mesh, None)
    dist.barrier()
    os._exit(0)  # threads of gloo sometimes abort an interpreter that shuts down


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_weights_and_steps_are_those_of_whole_models(tmp_path: Path) -> None:
    """For all objectives, in one pair of processes, which take long to start; a first process without weights is an
    error."""
    mp.start_processes(compare, (port(), tmp_path), nprocs=WORLD, start_method="spawn")
    for rank in range(WORLD):
        assert (tmp_path / f"{rank}.txt").read_text().splitlines() == [*CASES]


@pytest.mark.slow
def test_the_command_shares_a_model(corpus: Path, tmp_path: Path) -> None:
    """Two processes, of which the second is built without memory, have the losses of two whole ones."""

    def fit(strategy: str) -> list[float]:
        command = [sys.executable, "-m", "vatt", "pretrain", "fit", "--config", "configs/demo_videomae.yaml"]
        command += [f"--run.folder={tmp_path / strategy}", f"--trainer.strategy={strategy}", "--trainer.devices=2"]
        command += ["--trainer.max_steps=3", "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
        command += [f"--data.manifest={corpus / 'manifest.jsonl'}", "--data.num_workers=0", "--data.cache=null"]
        command += ["--data.batch_size=2", "--model.optimization.warmup_steps=1", "--trainer.gradient_clip_val=0.01"]
        there = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, cwd=ROOT, env=there, check=True, capture_output=True, timeout=500)
        assert (tmp_path / strategy / "model" / "model.safetensors").is_file()
        return list(logged(tmp_path / strategy, "train/loss").values())

    losses = fit("ddp")
    assert len(losses) == 3
    assert fit("sharded") == pytest.approx(losses, rel=1e-5)
