"""How steps are computed: compiled or not, with all activations kept or some made again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vatt.models.attention import Block
from vatt.models.transformer import Transformer


@dataclass(frozen=True)
class Compute:
    """What changes speed and memory of a training, and not what it learns. Checkpoints do not depend on it.

    Args:
        compile: blocks are compiled by ``torch.compile`` in the first step, which then takes a minute or more.
        activation_checkpointing: a block keeps its input only and is computed again for its gradient (Chen et al.
            2016, "Training Deep Nets with Sublinear Memory Cost"): about a third more time, a fraction of the memory.
    """

    compile: bool = False
    activation_checkpointing: bool = False


def prepare(module: nn.Module, compute: Compute) -> None:
    """Have the transformers of a module computed so."""
    for part in module.modules():
        if isinstance(part, Transformer):
            part.checkpointing = compute.activation_checkpointing
        if isinstance(part, Block) and compute.compile:
            part.compile()
