"""Tiny modules of every kind of training, and batches in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from tests.conftest import SMALL_HEAD, TINY, tiny_backbone, tiny_batch
from vatt.models.backbone import Backbone
from vatt.models.blocks import BlockMask
from vatt.models.codebooks import CodeTokenizer, PatchCodes
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.autoregressive import Autoregressive
from vatt.objectives.base import Objective
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.jepa import JEPA
from vatt.objectives.videomae import VideoMAE
from vatt.training.finetune import FinetuneModule, Tuning
from vatt.training.module import TrainingModule
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule

PRETRAINING = ("contrastive", "jepa", "masked", "autoregressive_codes", "autoregressive_patches")
KINDS = (*PRETRAINING, "finetune")
CLASSES = ("a", "b", "c")


def make_module(
    kind: str, optimization: Optimization | None = None, tuning: Tuning | None = None, **objective: Any
) -> TrainingModule:
    """Return a module with fixed weights. ``tuning`` is used for fine-tuning, ``objective`` for pretraining."""
    torch.manual_seed(0)
    optimization = optimization or Optimization(lr=1e-3, warmup_steps=1)
    if kind == "finetune":
        tuning = tuning or Tuning(dropout=0.0)
        backbone = tiny_backbone().tower("video")
        return FinetuneModule(CLASSES, TINY, backbone=backbone, tuning=tuning, optimization=optimization)
    backbone, pretraining = _pretraining(kind, objective)
    return PretrainModule(backbone, pretraining, optimization)


def make_batch(kind: str, clips: int = 4, complete: bool = True) -> dict[str, Any]:
    """Return a fixed batch of random clips. If not ``complete``, some clips lack a modality."""
    torch.manual_seed(1)
    batch = tiny_batch(clips)
    if not complete:
        batch["video_valid"][0] = batch["audio_valid"][1] = batch["text_valid"][2, 1] = False
        batch["text_valid"][3] = False
        for modality in ("video", "audio", "text"):
            batch[modality][~batch[f"{modality}_valid"]] = 0
    if kind == "finetune":
        batch["target"] = torch.eye(len(CLASSES))[torch.arange(clips) % len(CLASSES)]
    return batch


def _pretraining(kind: str, arguments: dict[str, Any]) -> tuple[Backbone, Objective]:
    if kind == "contrastive":
        return tiny_backbone(), Contrastive(SMALL_HEAD, **arguments)
    if kind in ("jepa", "masked"):
        backbone = _video(VideoTokenizer(12, (2, 2, 2)), agg=False)
        decoder = {"inner": 12, "depth": 1, "heads": 2}
        if kind == "masked":
            return backbone, VideoMAE(hidden=0.5, **decoder, **arguments)
        masks = (BlockMask(2, 0.25, time=0.5), BlockMask(1, 0.5))
        return backbone, JEPA(masks, **decoder, **arguments)
    causal = {"causal": True, "rotary": "sequence"}
    if kind == "autoregressive_codes":
        codebook = PatchCodes(16, 16)
        codebook.centres.normal_()
        tokenizer = CodeTokenizer(12, codebook, (TINY.num_frames, 2, 2))
        return _video(tokenizer, **causal), Autoregressive(**arguments)
    tokenizer = VideoTokenizer(12, (TINY.num_frames, 2, 2), (1, 16, 16), positions="none")
    return _video(tokenizer, **causal), Autoregressive("patches", **arguments)


def _video(tokenizer: Any, **transformer: Any) -> Backbone:
    return Backbone({"video": tokenizer}, {"video": Transformer(12, 2, 2, **transformer)})


def fit(
    module: TrainingModule,
    batch: dict[str, Any],
    steps: int = 3,
    callbacks: Sequence[L.Callback] = (),
    checkpoint: Path | None = None,
    **trainer: Any,
) -> L.Trainer:
    """Train a module on copies of one batch, and log every step. Training resumes from ``checkpoint``."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    kwargs = {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "enable_model_summary": False, **quiet}
    with tempfile.TemporaryDirectory() as folder:
        kwargs |= {"default_root_dir": folder, **trainer}
        trained = L.Trainer(max_steps=steps, callbacks=list(callbacks), **kwargs)
        batches = [
            {name: x.clone() if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
            for _ in range(steps * trained.accumulate_grad_batches)
        ]
        loader = DataLoader(batches, batch_size=None)
        trained.fit(module, train_dataloaders=loader, ckpt_path=checkpoint, weights_only=True)
    return trained
