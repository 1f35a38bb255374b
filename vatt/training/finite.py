"""What happens when a loss is not a number: it is traced, the step is left out, and after a few the training ends."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from vatt.errors import VattError
from vatt.structures import MODALITIES, Batch

MAX_SKIPPED = 10  # steps of a training that may be left out
NAMED = 20  # clips at most


class NonFiniteLoss(VattError, RuntimeError):
    """A loss became NaN or infinite; the message names the terms, where it comes from, and the clips."""


class FiniteGuard:
    """Leaves out steps whose loss or gradients are not finite, and has running statistics as they were before.

    Attributes:
        skipped: steps that were left out so far.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._seen: list[tuple[dict[str, Tensor], Batch]] = []  # of the step that is being done
        self._kept: list[tuple[Tensor, Tensor]] = []

    def begin(self, module: nn.Module) -> None:
        """Begin a step: remember what a forward pass changes."""
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        self._kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        self._seen = []

    def watch(self, losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses; if one is not finite, neither are the gradients that ``loss`` then has, which processes share."""
        values = {name: value.detach() for name, value in losses.items()}
        self._seen.append((values, batch))
        return losses | {"loss": losses["loss"] * (1.0 + 0.0 * sum(values.values()))}

    def end(self, module: L.LightningModule) -> None:
        """Before the optimizer's step: leave it out if the gradients are not finite.

        Raises:
            NonFiniteLoss: a weight is not finite, so that no step can be, or too many steps were left out.
        """
        trained = [(name, p) for name, p in module.named_parameters() if p.grad is not None]
        if not trained or _finite([p.grad for _, p in trained]):
            return
        said = f"step {module.global_step}: {self._cause() or _first(trained) + ' is not finite'}"
        hopeless = next((name for name, p in trained if not _finite([p])), None)
        self.skipped += 1
        for buffer, before in self._kept:
            buffer.copy_(before)
        for _, parameter in trained:
            parameter.grad = None  # the optimizer then changes nothing
        if hopeless is not None:
            raise NonFiniteLoss(f"{said}. The weights {hopeless} are not finite: go back to an earlier checkpoint")
        if self.skipped > MAX_SKIPPED:
            raise NonFiniteLoss(
                f"{said}. This is step {self.skipped} without a finite loss: lower model.optimization.lr, or set "
                "trainer.gradient_clip_val"
            )
        rank_zero_warn(f"{said}. The step is left out, {self.skipped} of at most {MAX_SKIPPED}")

    def _cause(self) -> str | None:
        for losses, batch in self._seen:
            broken = [f"{name} is {value.item()}" for name, value in losses.items() if not torch.isfinite(value)]
            if broken:
                return f"{', '.join(broken)}; {_source(batch)}"
        return None


def norm_of(tensors: list[Tensor]) -> Tensor:
    """The norm of all tensors as one vector."""
    norm = nn.utils.get_total_norm(tensors)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # of tensors that processes share (FSDP)


def _finite(tensors: list[Tensor]) -> bool:
    return bool(norm_of(tensors).isfinite())


def _first(trained: list[tuple[str, nn.Parameter]]) -> str:
    return next(
        (f"the gradient of {name}" for name, p in trained if not _finite([p.grad])), "the norm of all gradients"
    )


def _source(batch: Batch) -> str:
    """The clips whose raw signal is not finite, or, if all are, the clips of the batch."""
    ids, found = batch["id"], []
    for modality in MODALITIES:
        raw = batch.get(modality)
        if raw is not None and raw.is_floating_point():
            bad = ~torch.isfinite(raw.flatten(1)).all(dim=1)
            found += [f"{modality} of {ids[i]}" for i in bad.nonzero().flatten().tolist()]
    if found:
        return f"not finite: {', '.join(found[:NAMED])}" + ("" if len(found) <= NAMED else ", …")
    return f"clips: {', '.join(ids[:NAMED])}" + ("" if len(ids) <= NAMED else f" and {len(ids) - NAMED} more")
