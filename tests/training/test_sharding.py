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

from tests.conftest import ROOT, SMALL_HEAD, tiny_backbone
from tests.training.runs import logged
from vatt.errors import VattError
from vatt.models.backbone import Backbone
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.jepa import FeaturePrediction
from vatt.objectives.masked import MaskedAutoencoding
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
    tokenizers["audio"] = SpectrogramTokenizer(16, grid=(2, 2), patch=(4, 8), num_mels=16, sample_rate=1024)
    return PretrainModule(Backbone(tokenizers, transformer(empty, width=16, depth=2, heads=2)), Contrastive(SMALL_HEAD))


def feature_prediction(empty: bool) -> PretrainModule:
    return PretrainModule(tower(empty), FeaturePrediction(inner=16, depth=2, heads=2, rotary=True))


def masked(empty: bool) -> PretrainModule:
    return PretrainModule(tower(empty), MaskedAutoencoding(inner=24, depth=2, heads=2, rotary=True))


def process(rank: int, build: Build, port: int, folder: Path) -> None:
    """One of several: all but the first are built without memory, and of another seed."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    torch.manual_seed(rank)
    module = build(rank > 0)
    assert is_empty(module) == (rank > 0)
    shard(module, init_device_mesh("cpu", (WORLD,)), None)
    assert not is_empty(module)
    held = sum(parameter.to_local().numel() for parameter in module.parameters())
    assert held < 0.7 * sum(parameter.numel() for parameter in module.parameters())
    weights = get_model_state_dict(module, options=WHOLE)
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
    torch.save([parameter.requires_grad for parameter in module.parameters()], folder / f"trained{rank}.pt")
    dist.destroy_process_group()


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("build", [contrastive, feature_prediction, masked])
def test_weights_are_those_of_one_process(build: Build, tmp_path: Path) -> None:
    mp.start_processes(process, (build, port(), tmp_path), nprocs=WORLD, start_method="spawn")
    torch.manual_seed(0)
    module = build(False)
    wanted = module.state_dict()
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    trained = [parameter.requires_grad for parameter in module.parameters()]
    for rank in range(WORLD):
        assert torch.load(tmp_path / f"trained{rank}.pt") == trained


def without_weights(rank: int, port: int, folder: Path) -> None:
    """One of two processes that all are built without memory."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        shard(masked(True), init_device_mesh("cpu", (WORLD,)), None)
    except VattError as error:
        (folder / f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_the_first_process_has_to_have_weights(tmp_path: Path) -> None:
    mp.start_processes(without_weights, (port(), tmp_path), nprocs=WORLD, start_method="spawn")
    for rank in range(WORLD):
        assert "the first process has no weights" in (tmp_path / f"{rank}.txt").read_text()


@pytest.mark.slow
def test_the_command_shares_a_model(corpus: Path, tmp_path: Path) -> None:
    """Two processes, of which the second is built without memory, have the losses of two whole ones."""

    def fit(strategy: str) -> list[float]:
        command = [sys.executable, "-m", "vatt", "pretrain", "fit", "--config", "configs/demo_masked.yaml"]
        command += [f"--run.folder={tmp_path / strategy}", f"--trainer.strategy={strategy}", "--trainer.devices=2"]
        command += ["--trainer.max_steps=3", "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
        command += [f"--data.manifest={corpus / 'manifest.jsonl'}", "--data.num_workers=0", "--data.cache=null"]
        command += ["--data.batch_size=2", "--model.optimization.warmup_steps=1"]
        there = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, cwd=ROOT, env=there, check=True, capture_output=True, timeout=500)
        assert (tmp_path / strategy / "model" / "model.safetensors").is_file()
        return list(logged(tmp_path / strategy, "train/loss").values())

    losses = fit("ddp")
    assert len(losses) == 3
    assert fit("sharded") == pytest.approx(losses, rel=1e-5)
