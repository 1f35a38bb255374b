"""Checks and updates on resume, where the configuration may differ from the settings of the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from vatt.io import short_hash
from vatt.training.checkpoint_io import LAST, PREVIOUS
from vatt.training.history import ConfigMismatch
from vatt.training.optim import Optimization, Schedule, parameter_groups


def check_seed(saved: Mapping[str, Any], seed: int) -> None:
    """Check that a training is resumed with the seed it was started with.

    Args:
        saved: Settings in the checkpoint.
        seed: Seed of the configuration.

    Raises:
        ConfigMismatch: The seed differs, so the order of the clips would match neither training.
    """
    if saved.get("seed", seed) != seed:
        raise ConfigMismatch(
            f"the checkpoint was trained with seed_everything {saved['seed']}, and the configuration has {seed}: the "
            f"order of clips would match neither run. Resume with --seed_everything {saved['seed']}, or start a "
            "new training"
        )


def check_length(checkpoint: Mapping[str, Any], max_steps: int, path: str | Path | None) -> None:
    """Check that a checkpoint precedes the last step of the configuration.

    The last checkpoint of a finished training, or the previous one in its place, may be resumed, which exports the
    model.

    Args:
        checkpoint: Contents of the checkpoint.
        max_steps: Number of steps of the configuration, or -1 for no limit.
        path: Path of the checkpoint; None if it was not read from a file.

    Raises:
        ConfigMismatch: The checkpoint is beyond the last step, so its learning rates do not match the configuration, or
            no step would be trained.
    """
    step, name = checkpoint["global_step"], Path(path or LAST).name
    is_last = name in (LAST, PREVIOUS) or name.startswith("hpc_ckpt_")
    if 0 <= max_steps < step + (not is_last):
        raise ConfigMismatch(
            f"the checkpoint is of step {step}, and trainer.max_steps is {max_steps}, so no step would be trained: "
            "raise trainer.max_steps, or start a new training"
        )


def check_complete(checkpoint: Mapping[str, Any]) -> None:
    """Check that a training can be resumed from a checkpoint, and not only evaluated.

    Raises:
        ConfigMismatch: Entries are missing.
    """
    if not (checkpoint.get("optimizer_states") and checkpoint.get("lr_schedulers")):
        raise ConfigMismatch(
            "the checkpoint has weights only, and no state of optimizer and schedule: start a new training from the "
            "saved model (model.pretrained)"
        )
    if missing := [name for name in ("loops", "callbacks", "settings", "ids") if name not in checkpoint]:
        raise ConfigMismatch(
            f"the checkpoint has no {', '.join(missing)}, which resuming needs: choose another checkpoint with "
            "--ckpt_path, or start a new training"
        )


def check_optimizer_state(checkpoint: Mapping[str, Any], module: nn.Module, optimization: Optimization) -> None:
    """Check the tensors of the optimizer: with wrong shapes, a fused optimizer would access invalid memory.

    Args:
        checkpoint: Contents of the checkpoint, with the parameter groups of the configuration.
        module: Module that is trained.
        optimization: Settings of the configuration.

    Raises:
        ConfigMismatch: A tensor is missing or has a wrong shape.
    """
    (state,) = checkpoint["optimizer_states"]
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = [parameter for group in parameter_groups(module, optimization) for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    expected = {"momentum_buffer"} if optimization.name == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    for number, parameter in zip(numbers, parameters, strict=True):
        values = state["state"].get(number)
        if values is None:  # a parameter without gradients
            continue
        shapes = {name: tuple(x.shape) if isinstance(x, Tensor) else None for name, x in sorted(values.items())}
        right = {name: () if name == "step" else tuple(parameter.shape) for name in sorted(expected)}
        if shapes != right and (optimization.name != "sgd" or any(shapes.values())):
            raise ConfigMismatch(
                f"the optimizer state of {names[id(parameter)]} in the checkpoint has shapes {shapes}, not {right}: "
                "choose another checkpoint with --ckpt_path, or start a new training"
            )
    trained = checkpoint["global_step"] - checkpoint.get("skipped_steps", 0) - checkpoint.get("overflowed_steps", 0)
    if optimization.name != "sgd" and trained > 0 and not state["state"]:
        raise ConfigMismatch(
            f"the optimizer state in the checkpoint is empty after {trained} steps: choose another checkpoint with "
            "--ckpt_path, or start a new training"
        )


def check_parameter_groups(
    saved: Mapping[str, Any], checkpoint: Mapping[str, Any], module: nn.Module, optimization: Optimization
) -> None:
    """Check that the saved state of the optimizer belongs to the optimizer of the configuration.

    Args:
        saved: Settings in the checkpoint.
        checkpoint: Contents of the checkpoint.
        module: Module that is trained.
        optimization: Settings of the configuration.

    Raises:
        ConfigMismatch: The state is that of another optimizer or of other parameter groups.
    """
    name = saved.get("optimization", {}).get("name", optimization.name)
    if name != optimization.name:
        raise ConfigMismatch(
            f"the checkpoint has the state of the optimizer {name}, and model.optimization.name is "
            f"{optimization.name}: resume with the same optimizer, or start a new training from the saved model "
            "(model.pretrained)"
        )
    sizes = [len(group["params"]) for state in checkpoint["optimizer_states"] for group in state["param_groups"]]
    own = [len(group["params"]) for group in parameter_groups(module, optimization)]
    if sizes != own:
        changed = ", ".join(changed_values(saved.get("optimization", {}), optimization)) or "frozen parameters"
        raise ConfigMismatch(
            f"the optimizer of the checkpoint has {len(sizes)} groups of parameters, and that of the configuration "
            f"{len(own)} ({changed}): resume with the same layer_decay, width_ratio and frozen layers, or start a new "
            "training from the saved model (model.pretrained)"
        )


def changed_values(saved: Mapping[str, Any], optimization: Optimization) -> list[str]:
    """List the settings that differ from those in a checkpoint, as ``lr 0.0001 -> 1e-05``.

    Args:
        saved: Settings in the checkpoint.
        optimization: Settings of the configuration.
    """
    current = asdict(optimization)
    return [
        f"{field.name} {_plain(saved[field.name])} -> {_plain(current[field.name])}"
        for field in fields(optimization)
        if field.name in saved and _plain(saved[field.name]) != _plain(current[field.name])
    ]


def apply_optimization(optimizer: Optimizer, schedule: Schedule, module: nn.Module, optimization: Optimization) -> None:
    """Set learning rates, weight decay, betas, eps and momentum of a restored optimizer to those of the configuration.

    Args:
        optimizer: Optimizer with the hyperparameters of the checkpoint.
        schedule: Its schedule, at the step of the checkpoint.
        module: Module that is trained.
        optimization: Settings of the configuration.
    """
    step = schedule.last_epoch
    groups = parameter_groups(module, optimization)
    schedule.base_lrs = [group["lr"] for group in groups]
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group["initial_lr"], group["lr"] = own["lr"], own["lr"] * schedule.factor(step)
        is_matrix = all(parameter.ndim > 1 for parameter in own["params"])
        group["weight_decay"] = schedule.weight_decay(step) if is_matrix else own["weight_decay"]
        for name in ("betas", "eps", "momentum"):
            if name in group:
                group[name] = getattr(optimization, name)
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def has_average(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint has averaged weights. It then has the raw weights, too."""
    return "current_model_state" in checkpoint


def take_raw_weights(checkpoint: dict[str, Any]) -> bool:
    """Replace the averaged weights of a checkpoint by the raw ones.

    Returns:
        Whether the checkpoint has averaged weights.
    """
    if not has_average(checkpoint):
        return False
    checkpoint["state_dict"] = checkpoint.pop("current_model_state")
    checkpoint.pop("averaging_state", None)
    return True


def clip_hashes(data: Any) -> dict[str, str]:
    """Return hashes of the ids, texts and labels of the training and the validation clips.

    Args:
        data: Data module. Without the splits of `vatt.datasets.datamodule.ClipDataModule` there are no hashes.
    """
    parts = getattr(data, "parts", {}).values()
    splits = {"train": [train for train, _ in parts], "val": [val for _, val in parts]} if parts else {}
    return {name: short_hash(*_contents(tables)) for name, tables in splits.items()}


def _contents(tables: Iterable[Iterable[Any]]) -> Iterator[str]:
    for clip in chain.from_iterable(tables):
        yield json.dumps([clip.id, [text.text for text in clip.texts], list(clip.labels)])


def warn_of_changed_clips(saved: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Warn if a training is resumed with other training clips.

    Args:
        saved: `clip_hashes` in the checkpoint.
        own: `clip_hashes` of the configuration.
    """
    changed = [name for name in ("train", "val") if saved.get(name) != own.get(name)]
    if not saved or not own or "train" not in changed:
        return
    message = "the training clips, or their texts or labels, differ from those that the checkpoint was trained on"
    if "val" in changed:
        message += ", and so do the validation clips, of which some may have been trained on"
    rank_zero_warn(message)


def check_same_ids(saved: Mapping[str, str | None], own: Mapping[str, str | None]) -> None:
    """Check that a resumed training has a vocabulary, classes and a codebook if it had them before.

    Args:
        saved: Hashes in the checkpoint.
        own: Hashes of the configuration.

    Raises:
        ConfigMismatch: The checkpoint has one that the configuration does not have, or the reverse.
    """
    for name in saved.keys() & own.keys():
        if (saved[name] is None) != (own[name] is None):
            before, now = ("no", "one") if saved[name] is None else ("a", "none")
            raise ConfigMismatch(
                f"the checkpoint was trained with {before} {name}, and the configuration has {now}: resume with the "
                "configuration of that training, or start a new one"
            )


def check_ids(saved: Mapping[str, Any], own: Mapping[str, str | None], source: str, remedy: str) -> None:
    """Check that ids mean the same words, classes or codes as when the weights were trained.

    Args:
        saved: Hashes of the vocabulary, the classes and the codebook, where they are known.
        own: Hashes of the configuration.
        source: Name of the weights in the message.
        remedy: Advice at the end of the message.

    Raises:
        ConfigMismatch: A hash differs.
    """
    for name, value in own.items():
        known = saved.get(name)
        if known is not None and value is not None and known != value:
            raise ConfigMismatch(
                f"{source} was trained with another {name} (hash {known}, and the configuration has {value}): ids "
                f"would refer to other words, classes or codes. {remedy}"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
