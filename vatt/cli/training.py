"""``vatt pretrain``: LightningCLI over the pretraining module and the clip data module."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from vatt.datasets.datamodule import ClipDataModule
from vatt.models.transformer import Transformer
from vatt.training.checkpoint import AtomicCheckpointIO
from vatt.training.pretrain import PretrainModule
from vatt.training.run import Run, run_callbacks, run_loggers
from vatt.training.sharding import Sharded, without_memory

AnyCLI = TypeVar("AnyCLI", bound=LightningCLI)
SHARDED = ("sharded", f"{Sharded.__module__}.{Sharded.__qualname__}")


class SaveConfig(SaveConfigCallback):
    """Keeps the whole configuration in the run's folder."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        path = Path(trainer.default_root_dir) / self.config_filename
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_unset=False, overwrite=True, multifile=False)


class VattCLI(LightningCLI):
    """LightningCLI with one run folder, and one seed for weights, order, augmentation and DropToken."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What there is to test and to predict is done on stored embeddings, by commands of their own."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(Run, "run")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

    def before_instantiate_classes(self) -> None:
        """Where processes share a model, only the first one has to hold all of it."""
        strategy = self._get(self.config, "trainer").strategy
        if getattr(strategy, "class_path", strategy) in SHARDED and rank_zero_only.rank:
            self.parser.add_instantiator(without_memory, Transformer)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run: Run = self._get(self.config_init, "run")
        given = self._get(self.config_init, "trainer")
        logger = given.logger if given.logger is not None else run_loggers(run)
        if given.precision is None:
            kwargs["precision"] = precision_for(given.accelerator)
        return super().instantiate_trainer(
            default_root_dir=run.folder,
            callbacks=[
                *_listed(given.callbacks),
                *run_callbacks(run, logs=logger is not False, bar=given.enable_progress_bar is not False),
            ],
            logger=logger,
            plugins=[*_listed(given.plugins), AtomicCheckpointIO()],
            use_distributed_sampler=False,  # ours knows the processes itself
            **kwargs,
        )


def precision_for(accelerator: Any) -> str:
    """What a training computes in unless it is told: bf16 where the device has it, else single precision.

    Weights, statistics of norms, heads and losses are in single precision either way.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def _listed(given: Any) -> list[Any]:
    """What the trainer takes alone, as a list, or not at all."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


def build_pretraining(argv: list[str]) -> VattCLI:
    """Everything a configuration describes, without running it."""
    quiet()
    return VattCLI(PretrainModule, ClipDataModule, args=argv, run=False, seed_everything_default=0)


def clips_of_step(cli: VattCLI) -> int:
    """Windows that all processes together learn from in a step."""
    data, trainer = cli.datamodule, cli.trainer
    return data.batch_size * data.windows * trainer.world_size * trainer.accumulate_grad_batches


def pretrain(argv: list[str]) -> int:
    """Run ``fit`` or ``validate`` as LightningCLI does."""
    run_cli(VattCLI, PretrainModule, ClipDataModule, argv, prog="vatt pretrain")
    return 0


def run_cli(
    kind: type[AnyCLI], module: type[L.LightningModule], data: type[L.LightningDataModule], argv: list[str], prog: str
) -> AnyCLI:
    """Read the configuration in `argv`, run its subcommand, and write what was read beside what came of it."""
    quiet()
    return kind(
        module,
        data,
        args=argv,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=SaveConfig,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={"prog": prog},
    )


def quiet() -> None:
    """Leave out what Lightning says of itself."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for said in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        ".*args parameter is intended to run from within Python.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Total length of `list` across ranks is zero.*",  # nothing is held out
    ):
        warnings.filterwarnings("ignore", said)
