"""What happens when a loss is not a number: it is traced, the step is left out, and after a few the training ends.

On a CPU this is decided before the optimizer's step. On a GPU with a fused optimizer the host does not wait for it: the
device leaves the step out, and the host learns of it, names the cause and counts it before the step after, at the next
checkpoint, or at the end of the training. Optimizers that cannot leave a step out on the device (not fused, sharded by
FSDP, or SGD in its first step) cost one read from the device for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from vatt.errors import VattError
from vatt.structures import MODALITIES, Batch
from vatt.training.device_skip import can_skip_on_device, norms_of, skip_where
from vatt.training.optim import norm_of

MAX_SKIPPED = 10  # steps of a training that may be left out
NAMED = 20  # clips at most


class NonFiniteLoss(VattError, RuntimeError):
    """A loss became NaN or infinite; the message names the terms, where it comes from, and the clips."""


@dataclass
class Pass:
    """A forward pass of a step.

    Attributes:
        names: of the terms of the loss.
        values: (T,) of the terms.
        ids: of the clips.
        finite: computes, by modality, (B,) bool: whether the signal of each clip is finite.
    """

    names: list[str]
    values: Tensor
    ids: list[str]
    finite: Callable[[], dict[str, Tensor]]


@dataclass
class UnreadStep:
    """A step that the device has judged, and the host does not know of yet.

    Attributes:
        number: ``global_step``.
        broken: () bool on the host; valid once ``copied`` has happened.
        copied: the event of the copy; None where it has happened.
        passes: forward passes of the step.
        parameters: names of the parameters.
        norms: (P,) norms of their gradients.
    """

    number: int
    broken: Tensor
    copied: torch.cuda.Event | None
    passes: list[Pass]
    parameters: list[str] = field(default_factory=list)
    norms: Tensor | None = None


class FiniteGuard:
    """Leaves out steps whose loss or gradients are not finite, and has running statistics as they were before.

    Args:
        deferred: judge steps on the device and read the judgement later, where the optimizer is able to. None does so
            wherever gradients are not on a CPU.

    Attributes:
        skipped: steps that were left out so far.
        overflowed: steps that a gradient scaler has left out since their gradients overflowed in half precision. They
            belong to its search for a scale, and are not among ``skipped``.
    """

    def __init__(self, deferred: bool | None = None) -> None:
        self.deferred = deferred
        self.skipped = self.overflowed = 0
        self._passes: list[Pass] = []  # of the step that is being done
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._unread: UnreadStep | None = None

    def begin(self, module: nn.Module) -> None:
        """Begin a step: remember what a forward pass changes."""
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        self._kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        self._passes = []

    def watch(self, losses: dict[str, Tensor | int], batch: Batch) -> dict[str, Tensor | int]:
        """The losses; if one is not finite, neither are the gradients that ``loss`` then has, which processes share."""
        terms = {name: value.detach().float() for name, value in losses.items() if isinstance(value, Tensor)}
        values = torch.stack(list(terms.values()))
        signals = {m: batch[m] for m in MODALITIES if m in batch}  # type: ignore[literal-required]
        if self._is_deferred(values.device):  # batches are not kept until they are asked for
            flags = _finite_clips(signals)
            self._passes.append(Pass(list(terms), values, batch["id"], lambda: flags))
        else:
            self._passes.append(Pass(list(terms), values, batch["id"], lambda: _finite_clips(signals)))
        return losses | {"loss": losses["loss"] * (1.0 + 0.0 * values.sum())}

    def end(self, module: L.LightningModule, optimizer: Optimizer, scaler: GradScaler | None = None) -> None:
        """Before the optimizer's step: leave it out if the gradients are not finite.

        Args:
            module: with gradients, which are not scaled.
            optimizer: whose step comes.
            scaler: that has unscaled the gradients, and leaves out the step itself.

        Raises:
            NonFiniteLoss: a weight is not finite, so that no step can be, or too many steps were left out.
        """
        self.read(module)
        skip_where(optimizer, None)
        trained = [(name, p) for name, p in module.named_parameters() if p.grad is not None]
        passes, self._passes = self._passes, []
        if not trained:
            return
        gradients = [p.grad for _, p in trained]
        if scaler is None and self._is_deferred(gradients[0].device) and can_skip_on_device(optimizer):
            self._skip_on_device(module.global_step, optimizer, [name for name, _ in trained], gradients, passes)
            return
        if _finite(gradients):
            return
        cause, first = _cause(passes), _first(trained)
        for buffer, before in self._kept:
            buffer.copy_(before)
        for _, parameter in trained:
            parameter.grad = None  # the optimizer then changes nothing
        if scaler is not None and cause is None and scaler.get_scale() > 1:
            self.overflowed += 1
        else:
            self._report(module, module.global_step, cause or f"{first} is not finite")

    def read(self, module: L.LightningModule) -> None:
        """Report the last step, if the device has left it out and the host does not know of it yet.

        Raises:
            NonFiniteLoss: as `end`.
        """
        step, self._unread = self._unread, None
        if step is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        if step.broken:
            finite = step.norms.isfinite().tolist()
            first = next((name for name, ok in zip(step.parameters, finite, strict=True) if not ok), None)
            what = "the norm of all gradients" if first is None else f"the gradient of {first}"
            self._report(module, step.number, _cause(step.passes) or f"{what} is not finite")

    def _is_deferred(self, device: torch.device) -> bool:
        return device.type != "cpu" if self.deferred is None else self.deferred

    def _skip_on_device(
        self, number: int, optimizer: Optimizer, names: list[str], gradients: list[Tensor], passes: list[Pass]
    ) -> None:
        """Have the device leave the step out where the gradients are not finite."""
        norms = norms_of(gradients)
        broken = ~torch.linalg.vector_norm(norms).isfinite()
        for buffer, before in self._kept:
            buffer.copy_(torch.where(broken, before, buffer))
        skip_where(optimizer, broken)
        on_host, copied = broken.to("cpu", non_blocking=True), None
        if broken.device.type == "cuda" and torch.cuda.is_available():
            copied = torch.cuda.Event()
            copied.record()
        self._unread = UnreadStep(number, on_host, copied, passes, names, norms)

    def _report(self, module: L.LightningModule, number: int, cause: str) -> None:
        """Count a step that was left out, and say why."""
        self.skipped += 1
        hopeless = next((name for name, p in module.named_parameters() if p.requires_grad and not _finite([p])), None)
        if hopeless is not None:
            raise NonFiniteLoss(
                f"step {number}: {cause}. Parameter {hopeless} is not finite: resume from an earlier checkpoint"
            )
        if self.skipped > MAX_SKIPPED:
            raise NonFiniteLoss(
                f"step {number}: {cause}. This is step {self.skipped} without a finite loss: lower "
                "model.optimization.lr, or set trainer.gradient_clip_val"
            )
        rank_zero_warn(f"step {number}: {cause}. Step skipped ({self.skipped} of at most {MAX_SKIPPED})")


def _finite(tensors: list[Tensor]) -> bool:
    return bool(norm_of(tensors).isfinite())


def _first(trained: list[tuple[str, nn.Parameter]]) -> str:
    return next(
        (f"the gradient of {name}" for name, p in trained if not _finite([p.grad])), "the norm of all gradients"
    )


def _cause(passes: list[Pass]) -> str | None:
    """The terms of the loss that are not finite, and the clips they come from; None if all are."""
    for step_pass in passes:
        values = zip(step_pass.names, step_pass.values.tolist(), step_pass.values.isfinite().tolist(), strict=True)
        broken = [f"{name} is {value}" for name, value, ok in values if not ok]
        if broken:
            return f"{', '.join(broken)}; {_source(step_pass)}"
    return None


def _finite_clips(signals: dict[str, Tensor]) -> dict[str, Tensor]:
    """By modality (B,) bool: whether the raw signal of each clip is finite, without a copy of the signal."""
    return {
        modality: raw.flatten(1).sum(dim=1, dtype=torch.float32).isfinite()
        for modality, raw in signals.items()
        if raw.is_floating_point()
    }


def _source(step_pass: Pass) -> str:
    """The clips whose raw signal is not finite, or, if all are, the clips of the batch."""
    ids = step_pass.ids
    bad = [
        f"{modality} of {name}"
        for modality, finite in step_pass.finite().items()
        for name, ok in zip(ids, finite.tolist(), strict=True)
        if not ok
    ]
    if bad:
        return f"not finite: {', '.join(bad[:NAMED])}" + ("" if len(bad) <= NAMED else ", …")
    return f"clips: {', '.join(ids[:NAMED])}" + ("" if len(ids) <= NAMED else f" and {len(ids) - NAMED} more")
