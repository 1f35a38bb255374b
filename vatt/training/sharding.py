"""Weights, gradients and optimizer state shared among processes (FSDP2), for models that fill one device."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from vatt.models.attention import Block
from vatt.training.checkpoint import whole

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
STEPS = ("training_step", "validation_step", "test_step")


class Sharded(ModelParallelStrategy):
    """Every process holds a part of each block's weights, and gathers a block's when its turn has come.

    In a configuration ``trainer: {strategy: sharded}``, or the file configs/trainer/fsdp.yaml.
    Checkpoints are whole files, as those of one process, which any number of processes goes on from.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """See `vatt.training.checkpoint.AtomicCheckpointIO.load_checkpoint`."""
        path = whole(self.broadcast(checkpoint_path))
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=WHOLE)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            names = self._names(optimizer)
            state = {
                "state": {names[number]: values for number, values in state["state"].items()},
                "param_groups": [
                    group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]
                ],
            }
            set_optimizer_state_dict(self.model, optimizer, state, options=WHOLE)
        return checkpoint

    # Lightning numbers weights as the model has them, and not, as optimizers save them, as their groups do.
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of an optimizer as one process would save it, on the first process."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        state = get_optimizer_state_dict(self.model, optimizer, options=WHOLE)
        if self.global_rank:
            return {}
        numbers = {name: number for number, name in enumerate(self._names(optimizer))}
        return {
            "state": {numbers[name]: values for name, values in state["state"].items()},
            "param_groups": [
                group | {"params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]
            ],
        }

    def _names(self, optimizer: Optimizer) -> list[str]:
        """The weights of an optimizer, group by group."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


StrategyRegistry.register("sharded", Sharded, description="FSDP2")


def shard(module: nn.Module, mesh: DeviceMesh, half: torch.dtype | None) -> None:
    """Share a module among the processes of a mesh, block by block, and the rest as one.

    Args:
        module: with the methods `STEPS`, as far as it has them.
        mesh: of one dimension.
        half: what blocks compute in and send their weights as; gradients are summed in single precision. None: as the
            weights are.
    """
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)
    for step in STEPS:
        if hasattr(module, step):
            register_fsdp_forward_method(module, step)
