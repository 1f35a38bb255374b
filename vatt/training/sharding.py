"""Weights, gradients and optimizer state shared among processes (FSDP2), for models that fill one device."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
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

from vatt.errors import VattError
from vatt.models.attention import Block
from vatt.training.checkpoint_io import intact_checkpoint, read_checkpoint
from vatt.training.resume import take_raw_weights

AnyModule = TypeVar("AnyModule", bound=nn.Module)

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
OF_THE_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
STEPS = ("training_step", "validation_step", "test_step")


class Sharded(ModelParallelStrategy):
    """Every process holds a part of each block's weights, and gathers a block's when its turn has come.

    In a configuration ``trainer: {strategy: sharded}``, or the file configs/trainer/fsdp.yaml. In pretraining the
    first process alone holds the whole model, in main memory and until it is shared (`shard`).
    Checkpoints are whole files, as those of one process, which any number of processes goes on from.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str, weights_only: bool | None = None) -> dict[str, Any]:
        """See `vatt.training.checkpoint_io.AtomicCheckpointIO.load_checkpoint`."""
        path = intact_checkpoint(self.broadcast(checkpoint_path))
        checkpoint = read_checkpoint(path, mmap=True)
        if self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            take_raw_weights(checkpoint)  # averaging of sharded weights is not supported
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


def without_memory(kind: type[AnyModule], *args: Any, **kwargs: Any) -> AnyModule:
    """A module on the device "meta", whose weights `shard` fetches from the first process."""
    with torch.device("meta"):
        return kind(*args, **kwargs)


def is_empty(module: nn.Module) -> bool:
    """Whether a module, or a part of it, was built without memory."""
    return any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def shard(module: nn.Module, mesh: DeviceMesh, half: torch.dtype | None) -> None:
    """Share a module among the processes of a mesh, block by block, and the rest as one.

    The first process has all weights, the others may have been built `without_memory`: they get their parts of the
    first one's, one tensor after the other. Where no process was, each takes its parts of its own weights.

    Args:
        module: with the methods `STEPS`, as far as it has them.
        mesh: of one dimension, of all processes.
        half: what blocks compute in and send their weights as; gradients are summed in single precision. None: as the
            weights are.

    Raises:
        VattError: the first process was built without memory, or a process was and has something that is not saved
            with the model, which it cannot get.
    """
    empty: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(empty, is_empty(module))
    if empty[0]:
        raise VattError("the first process has no weights to share: build its model with memory")
    weights = module.state_dict() if any(empty) and not dist.get_rank() else {}
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh)
    if any(empty):
        set_model_state_dict(module, weights, options=OF_THE_FIRST)
        left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
        every: list[list[str]] = [[]] * dist.get_world_size()
        dist.all_gather_object(every, left)  # lest the others wait for one that has failed
        if any(every):
            raise VattError(f"{max(every)[0]} is not saved with the model, so that it cannot be built without memory")
    for step in STEPS:
        if hasattr(module, step):
            register_fsdp_forward_method(module, step)
