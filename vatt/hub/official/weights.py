"""Official variables into a model, strictly, and a model's weights out under the official paths."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import torch

from vatt.errors import InputError
from vatt.hub.official.rules import Array, rules
from vatt.models.vatt import VATT, Classifier

# Optimizer, counters, and the token that replaces masked patches in an option that was never on.
IGNORED = re.compile(
    r"/\.OPTIMIZER_SLOT/|^optimizer/|^save_counter$|^_CHECKPOINTABLE_OBJECT_GRAPH$|(^|/)mask_embedding$"
)


@dataclass
class Loaded:
    """What became of the variables of a checkpoint."""

    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # tensors of ours; never filled in a model that is returned
    unknown: list[str] = field(default_factory=list)  # variables; likewise
    notes: list[str] = field(default_factory=list)  # sentences on the preprocessing


def load(model: VATT | Classifier, variables: dict[str, Array]) -> Loaded:
    """Fill every weight of a model from official variables.

    Raises:
        InputError: a weight that no variable gives, a variable that no weight takes, a shape that does not fit, or a
            number that is not finite. The message names them.
    """
    report, state = Loaded(), model.state_dict()
    filled: dict[str, torch.Tensor] = {}
    for rule in rules(model):
        absent = [path for path in rule.official if path not in variables]
        if absent:
            report.missing.append(f"{rule.ours} ({', '.join(absent)})")
            continue
        value = torch.from_numpy(np.ascontiguousarray(rule.to_ours([variables[path] for path in rule.official])))
        if value.shape != state[rule.ours].shape:
            raise InputError(
                f"{rule.official[0]} gives {rule.ours} the shape {tuple(value.shape)}, not "
                f"{tuple(state[rule.ours].shape)}"
            )
        if not torch.isfinite(value).all():
            raise InputError(f"{', '.join(rule.official)}: a number is NaN or infinite")
        filled[rule.ours] = value
        report.loaded += rule.official
    ruled = {rule.ours for rule in rules(model)}
    report.missing += [name for name in state if name not in ruled and not name.endswith("num_batches_tracked")]
    for path in variables.keys() - set(report.loaded):
        (report.ignored if IGNORED.search(path) else report.unknown).append(path)
    if report.missing or report.unknown:
        raise InputError(
            "the checkpoint is not one of the official architectures"
            + "".join(f"\n  missing: {name}" for name in sorted(report.missing))
            + "".join(f"\n  unknown: {path} {variables[path].shape}" for path in sorted(report.unknown))
        )
    counters = {name: value for name, value in state.items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(counters | filled)
    return report


def export(model: VATT | Classifier) -> dict[str, Array]:
    """The weights of a model under the official paths and in their layout: the inverse of `load`."""
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    return {
        path: value
        for rule in rules(model)
        for path, value in zip(rule.official, rule.to_official(state[rule.ours]), strict=True)
    }
