"""Options of trainings: their parser, and the configuration file that a training saves."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

from vatt.cli.parsing import OneLineErrors, changed_options, check_config_files
from vatt.io import atomic_path
from vatt.resources import find_config, packaged_configs

# Options whose value may be a configuration file of a part, such as --data data/shapes
PART_OPTIONS = ("--data", "--trainer", "--model.backbone", "--model.objective", "--data.augment")


class SaveConfig(SaveConfigCallback):
    """Saves the complete configuration in the run directory when training starts."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        config, file = self.config.clone(), Path(trainer.default_root_dir) / self.config_filename
        config["ckpt_path"] = None  # not saved: training or testing with this file must not resume
        before = None
        if trainer.ckpt_path and file.is_file():
            try:
                before = yaml.safe_load(file.read_text(encoding="utf-8"))
            except (UnicodeDecodeError, yaml.YAMLError):
                rank_zero_warn(f"{file} is damaged: changes of options since it was written are not reported")
        with atomic_path(file) as path:
            self.parser.save(config, path, skip_unset=False, overwrite=True, multifile=False)
        if isinstance(before, dict) and (changed := changed_options(before, yaml.safe_load(file.read_text("utf-8")))):
            print(f"changed since {file} was written: {', '.join(changed)}")


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """Parser for the options of ``vatt pretrain`` and ``vatt finetune``."""

    def add_method_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the options of a method of the trainer, with our own help for ``--ckpt_path``."""
        added = super().add_method_arguments(*args, **kwargs)
        for action in self._actions:
            if action.dest == "ckpt_path":
                action.help = (
                    "Checkpoint: last, best, hpc (of a requeued SLURM job), auto (the newest of last and hpc, or none "
                    "if there is neither), or a path."
                )
        return added

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Read options and configuration files.

        Raises:
            InputError: A configuration file is damaged or does not exist.
        """
        args = resolve_config_names(sys.argv[1:] if args is None else args)
        check_config_files(args)
        return super().parse_args(args, *more, **kwargs)


def resolve_config_names(args: Sequence[str]) -> list[str]:
    """Replace the names of packaged configurations among arguments by the paths of their files.

    Raises:
        InputError: ``--config`` is neither a file nor the name of a packaged configuration.
    """
    configs, result = packaged_configs(), []
    for before, word in zip(["", *args], args, strict=False):
        prefix, value = re.fullmatch(r"((?:--?[\w.]+=)?)(.*)", word, re.DOTALL).groups()
        option, packaged = prefix.rstrip("=") or before, configs.get(value.removesuffix(".yaml"))
        if option in ("-c", "--config") and ":" not in value:  # with a colon it is a URL or a mapping
            value = str(find_config(value))
        elif option in PART_OPTIONS and packaged and not Path(value).is_file():
            value = str(packaged)
        result.append(prefix + value)
    return result
