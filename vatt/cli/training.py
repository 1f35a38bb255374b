"""``vatt pretrain``: LightningCLI over the pretraining module and the clip data module."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from vatt.cli.commands import print_lines
from vatt.cli.parsing import expand_user, strings_of
from vatt.cli.training_options import SaveConfig, TrainingParser
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.folders import summarize
from vatt.errors import InputError, VattError
from vatt.models.device import resolve_device
from vatt.models.transformer import Transformer
from vatt.training.checkpoint_io import AtomicCheckpointIO, intact_checkpoint, naming_checkpoint
from vatt.training.directory import RunDirectory, find_checkpoint
from vatt.training.history import HISTORY
from vatt.training.pretrain import PretrainModule
from vatt.training.run import Run, check_average, evaluation_callbacks, run_callbacks, run_loggers
from vatt.training.sharding import Sharded, without_memory
from vatt.training.validation import check_best_by, check_trainer

AnyCLI = TypeVar("AnyCLI", bound=LightningCLI)
SHARDED = ("sharded", f"{Sharded.__module__}.{Sharded.__qualname__}")


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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the options.

        Raises:
            InputError: The seed is out of range.
        """
        super().parse_arguments(parser, args)
        seed = self.config.get(self.config.get("subcommand") or "", self.config).get("seed_everything")
        if seed is not True and seed is not False and not 0 <= seed < 2**32:
            raise InputError(f"seed_everything must lie between 0 and 2^32 - 1, not {seed}")

    def _parse_ckpt_path(self) -> None:
        """Do nothing. Lightning would read hyperparameters from the checkpoint, which has none."""

    def instantiate_classes(self) -> None:
        """Build data, model and trainer.

        Raises:
            InputError: A value is invalid.
        """
        try:
            super().instantiate_classes()
        except VattError:
            raise
        except (ValueError, ArithmeticError, RuntimeError) as error:  # such as a negative width
            raise InputError(" ".join(str(error).split())) from error

    def before_instantiate_classes(self) -> None:
        """Expand home directories. If the model is sharded, only the first process allocates all of it."""
        expand_user(self.config)
        strategy = self._get(self.config, "trainer").strategy
        if getattr(strategy, "class_path", strategy) in SHARDED and rank_zero_only.rank:
            self.parser.add_instantiator(without_memory, Transformer)

    @property
    def run_folder(self) -> Path:
        """Directory of the run."""
        return Path(self._get(self.config_init, "run").folder)

    def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Train, as ``vatt pretrain fit`` and ``vatt finetune fit`` do.

        Args:
            ckpt_path: See `vatt.training.directory.find_checkpoint`.
            kwargs: Passed to `Trainer.fit`.

        Raises:
            InputError: There is no such checkpoint.
            DamagedCheckpoint: It is damaged, and there is no previous one.
            DirectoryInUse: Another training writes to the directory of the run.
        """
        checkpoint = find_checkpoint(self.run_folder, ckpt_path)
        checkpoint = checkpoint and intact_checkpoint(checkpoint)
        check_average(self.trainer)
        check_trainer(self.trainer)
        if not self._get(self.config_init, "trainer").callbacks:  # callbacks of the user may log other metrics
            check_best_by(self._get(self.config_init, "run").best_by, self.model.validation_metrics())
        self.datamodule.setup("fit")  # before anything is moved or written
        try:
            if rank_zero_only.rank == 0:
                for source in self.datamodule.sources.values():
                    print_lines(summarize(source.manifest))
                self._open(checkpoint)
            with naming_checkpoint(checkpoint):
                self.trainer.fit(ckpt_path=None if checkpoint is None else str(checkpoint), **kwargs)
        except BaseException as error:
            if message := self.directory.restore():
                print(message)
            if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None  # Lightning would exit with status 1
            raise
        finally:
            self.directory.close()

    def _open(self, checkpoint: Path | None) -> None:
        """Lock the directory of the run, and move the files of an earlier training."""
        if checkpoint is None:
            self._check_inputs(self.directory.outputs())
        moved = self.directory.open(checkpoint)
        if moved is not None:
            print(f"files of an earlier training in {self.run_folder} are now in {moved}")
        if checkpoint is not None:
            print(f"resuming from {checkpoint}")

    def _check_inputs(self, outputs: Sequence[Path]) -> None:
        """Check that no option refers to outputs of an earlier training, which a new training moves.

        Args:
            outputs: Files and directories that are about to be moved.

        Raises:
            InputError: An option does; the message names it.
        """
        folders = [path.resolve() for path in outputs]
        for key, text in strings_of(self.config[self.subcommand]):
            inside = os.path.exists(text) and any(Path(text).resolve().is_relative_to(folder) for folder in folders)
            if inside:
                raise InputError(
                    f"{key} {text} is in {self.run_folder}, the directory of this training: choose another run.folder"
                )

    def validate(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Validate a checkpoint, or the current weights, without writing files.

        Raises:
            InputError: There is no such checkpoint, or there is nothing to validate.
        """
        self.datamodule.setup("validate")
        if not len(self.datamodule.val_clips):
            raise InputError('there are no validation clips: raise data.val_fraction, or give rows the split "val"')
        if not self.model.validation_metrics():
            raise InputError("the objective has no validation metrics")
        self._evaluate(self.trainer.validate, "limit_val_batches", ckpt_path, **kwargs)

    def test(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Test a checkpoint, or the current weights. See `validate`."""
        self._evaluate(self.trainer.test, "limit_test_batches", ckpt_path, **kwargs)

    def _evaluate(self, evaluate: Callable[..., Any], limit: str, ckpt_path: str | None, **kwargs: Any) -> None:
        if getattr(self.trainer, limit) == 0:
            raise InputError(f"trainer.{limit} is 0, so there is nothing to evaluate: raise it")
        checkpoint = self._evaluated(ckpt_path)
        if self.trainer.is_global_zero:
            print(f"weights: {self.evaluated_weights(checkpoint)}")
        try:
            with naming_checkpoint(checkpoint):
                evaluate(ckpt_path=checkpoint, **kwargs)
        except MisconfigurationException as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    def evaluated_weights(self, checkpoint: str | None) -> str:
        """Return a description of the weights that are evaluated."""
        if checkpoint is not None:
            return checkpoint
        pretrained = self.model.pretrained
        return f"{pretrained} (model.pretrained)" if pretrained else "randomly initialized (no --ckpt_path)"

    def _evaluated(self, ckpt_path: str | None) -> str | None:
        """Return the path of the checkpoint to evaluate, or None for the current weights.

        Raises:
            InputError: The checkpoint does not exist, or Lightning would load a SLURM checkpoint instead.
        """
        checkpoint = find_checkpoint(self.run_folder, ckpt_path, {})
        if checkpoint is None and SLURMEnvironment.detect() and list(self.run_folder.glob("hpc_ckpt_*.ckpt")):
            raise InputError(
                f"{self.run_folder} has a checkpoint of a requeued SLURM job, which Lightning would load: pass "
                "--ckpt_path hpc to use it, or move it to another directory"
            )
        return None if checkpoint is None else str(intact_checkpoint(checkpoint))

    def after_fit(self) -> None:
        """Print the path of the model and the next command."""
        model = self.run_folder / "model"
        if self.trainer.is_global_zero and (model / HISTORY).is_file():
            command = self.next_command(model)
            print(f"model: {model}{f'    next: {command}' if command else ''}")

    def next_command(self, model: Path) -> str | None:
        """Return the command that most users run after training, or None."""
        if self.model.objective.head().branches:
            return f"vatt embed path/to/videos --model {model} --output {self.run_folder / 'embeddings'}"
        return f"vatt probe MANIFEST --model {model} --output {self.run_folder / 'probe.json'}"

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run: Run = self._get(self.config_init, "run")
        given = self._get(self.config_init, "trainer")
        bar = given.enable_progress_bar is not False
        logger, callbacks = given.logger, _listed(given.callbacks)
        if self.subcommand in ("validate", "test"):
            logger = False if logger is None else logger
            own = evaluation_callbacks(run.folder if self.subcommand == "test" else None, bar)
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
            kwargs["enable_checkpointing"] = False
        else:
            logger = run_loggers(run) if logger is None else logger
            own = run_callbacks(run, logs=logger is not False, bar=bar)
        if given.precision is None:
            kwargs["precision"] = precision_for(given.accelerator)
        if given.accelerator in ("gpu", "cuda"):
            resolve_device("cuda")
        self.directory = RunDirectory(run.folder)
        try:
            trainer: L.Trainer = super().instantiate_trainer(
                default_root_dir=run.folder,
                callbacks=[
                    self.directory,
                    *callbacks,
                    *own,
                ],
                logger=logger,
                plugins=[*_listed(given.plugins), AtomicCheckpointIO()],
                use_distributed_sampler=False,  # the datasets split the clips among processes
                **kwargs,
            )
        except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        if str(given.precision) in ("16", "16-mixed") and trainer.precision == "bf16-mixed":
            raise InputError(f"trainer.precision {given.precision} needs a GPU: on a CPU, take bf16-mixed or 32-true")
        return trainer


def precision_for(accelerator: Any) -> str:
    """What a training computes in unless it is told: bf16 where the device has it, else single precision.

    Weights, statistics of norms, heads and losses are in single precision either way.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def _listed(given: Any) -> list[Any]:
    """What the trainer takes alone, as a list, or not at all."""
    return [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]


class BuildCLI(VattCLI):
    """CLI that builds data, model and trainer, also from the saved configuration of a run, without running them."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name in ("--ckpt_path", "--weights_only"):  # in every config.yaml that `fit` has written
            parser.add_argument(name, type=Any, default=None)


def build_pretraining(argv: list[str], prog: str = "vatt pretrain") -> VattCLI:
    """Build everything that a configuration describes, without running it.

    Args:
        argv: Options, such as ``--config FILE``.
        prog: Name of the command in messages.

    Returns:
        The CLI, with the attributes ``model``, ``datamodule`` and ``trainer``.
    """
    quiet()
    return BuildCLI(
        PretrainModule,
        ClipDataModule,
        args=argv,
        run=False,
        seed_everything_default=0,
        parser_class=TrainingParser,
        parser_kwargs={"prog": prog},
    )


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
        parser_class=TrainingParser,
    )


def quiet() -> None:
    """Leave out what Lightning says of itself."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    for said in (
        ".*does not have many workers.*",
        ".*AMP with fp16 is not supported on CPU.*",  # which is an error here
        ".*exists and is not empty.*",
        ".*args parameter is intended to run from within Python.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Total length of `list` across ranks is zero.*",  # no validation clips
        ".*WeightAveraging callback with a model that overrides.*",  # sharded weights are refused
        ".*The checkpoint was not created with WeightAveraging.*",
        ".*callbacks used to create the checkpoint need to be provided.*",  # run.ema or run.best_by was unset
    ):
        warnings.filterwarnings("ignore", said)
