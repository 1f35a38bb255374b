"""Tiny training runs, on a corpus drawn once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L

from tests.conftest import SMALL_HEAD, TINY, tiny_backbone
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.manifest import read_manifest
from vatt.datasets.sources import Source
from vatt.datasets.transforms import Augment
from vatt.objectives.contrastive import Contrastive
from vatt.training.checkpoint_io import AtomicCheckpointIO
from vatt.training.compute import Compute
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule
from vatt.training.run import Run, run_callbacks, run_loggers


def train(
    corpus: Path,
    folder: Path,
    steps: int,
    stop_after: int | None = None,
    resume: bool | Path = False,
    lr: float = 1e-3,
    num_workers: int = 0,
    batch_size: int = 4,
    text: bool = True,
    val_fraction: float = 0.3,
    sources: dict[str, Source] | None = None,
    watch: L.Callback | None = None,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
    module: PretrainModule | None = None,
    ema: float | None = None,
    every: int = 2,
    optimization: Optimization | None = None,
    **trainer: Any,
) -> tuple[L.Trainer, PretrainModule]:
    """Train a tiny model; ``stop_after`` ends in the middle of a schedule of ``steps``, as a kill would.

    Without ``text`` it trains on the corpus' bare folder of media, with ``sources`` on these.
    """
    run = Run(folder=str(folder), checkpoint_steps=every, ema=ema)
    L.seed_everything(0, verbose=False)
    module = module or PretrainModule(
        tiny_backbone(),
        Contrastive(SMALL_HEAD, drop_video=0.5, drop_audio=0.5, per_sample=True),
        optimization or Optimization(lr=lr, final_lr=0.0, warmup_steps=2),
        compute=compute,
    )
    data = ClipDataModule(
        manifest=None if sources else str(corpus / "manifest.jsonl" if text else corpus / "clips"),
        sources=sources,
        format=TINY,
        vocabulary=str(corpus / "vocabulary") if text else None,
        batch_size=batch_size,
        augment=Augment(area=(0.5, 1.0), gain_db=6, noise=0.01),
        val_fraction=val_fraction,
        num_workers=num_workers,
    )
    callbacks = run_callbacks(run) + ([watch] if watch else [])
    if stop_after is not None:
        callbacks.append(StopAfter(stop_after))
    last = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        callbacks=callbacks,
        logger=run_loggers(run),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        **{"log_every_n_steps": 1, "val_check_interval": 4, **trainer},
    )
    try:
        last.fit(
            module,
            data,
            ckpt_path=None if resume is False else "last" if resume is True else str(resume),
            weights_only=True,
        )
    except Killed:
        pass
    return last, module


class Killed(BaseException):
    """Ends a run without any of the things that a run does in the end."""


class StopAfter(L.Callback):
    """Ends the run after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self.steps:
            raise Killed


def logged(folder: Path, name: str) -> dict[int, float]:
    """A logged value by step, over all parts of a run; a step logged twice must have had one value."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row.get(name):
                    found[int(row["step"])] = float(row[name])
    return found


def labelled_rows(corpus: Path) -> list[dict[str, Any]]:
    """Rows of the corpus with one of two labels each, for a manifest without its texts."""
    return [
        {"path": clip.path, "id": clip.id, "label": ("warm", "cold")[number % 2], "split": clip.split}
        for number, clip in enumerate(read_manifest(corpus / "manifest.jsonl"))
    ]
