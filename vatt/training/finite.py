"""Non-finite losses and gradients: the step is skipped, its cause is reported, and too many of them end the training.

On a CPU, gradients are checked before the step of the optimizer. On a GPU with a fused optimizer, the host does not
wait for the device: the device skips the step, and the host reports and counts it before the next step, at the next
checkpoint, or at the end of training. Optimizers that cannot skip a step on the device (not fused, sharded by FSDP, or
SGD in its first step) cost one synchronization per step.
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
class ForwardPass:
    """A forward pass of a step.

    Attributes:
        names: Names of the terms of the loss.
        values: (T,) values of the terms.
        ids: Ids of the clips.
        finite: Function that returns (B,) bool by modality: whether the signal of each clip is finite.
    """

    names: list[str]
    values: Tensor
    ids: list[str]
    finite: Callable[[], dict[str, Tensor]]


@dataclass
class PendingStep:
    """A step whose result was computed on the device and was not read yet.

    Attributes:
        number: ``global_step``.
        broken: () bool on the host, whether the step was skipped; valid after ``copied``.
        copied: Event of the copy to the host, or None if the copy is complete.
        passes: Forward passes of the step.
        parameters: Names of the parameters.
        norms: (P,) norms of their gradients.
    """

    number: int
    broken: Tensor
    copied: torch.cuda.Event | None
    passes: list[ForwardPass]
    parameters: list[str] = field(default_factory=list)
    norms: Tensor | None = None


class FiniteGuard:
    """Leaves out steps whose loss or gradients are not finite, and has running statistics as they were before.

    Args:
        deferred: Check steps on the device and read the result later, if the optimizer supports it. Default: whether
            gradients are not on a CPU.

    Attributes:
        skipped: Number of skipped steps.
        overflowed: Number of steps that a gradient scaler has skipped because gradients overflowed in half precision.
            They are part of its search for a scale and are not counted in ``skipped``.
    """

    def __init__(self, deferred: bool | None = None) -> None:
        self.deferred = deferred
        self.skipped = self.overflowed = 0
        self._passes: list[ForwardPass] = []  # of the current step
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._pending: PendingStep | None = None

    def begin(self, module: nn.Module) -> None:
        """Begin a step: remember what a forward pass changes."""
        norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        self._kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
        self._passes = []

    def watch(self, losses: dict[str, Tensor | int], batch: Batch) -> dict[str, Tensor | int]:
        """Return the losses. If one is not finite, ``loss`` has non-finite gradients, which all processes share.

        Args:
            losses: Loss and its terms by name.
            batch: Batch that they were computed from.
        """
        terms = {name: value.detach().float() for name, value in losses.items() if isinstance(value, Tensor)}
        values = torch.stack(list(terms.values()))
        signals = {m: batch[m] for m in MODALITIES if m in batch}  # type: ignore[literal-required]
        if self._is_deferred(values.device):  # computed now, so that the batch is not kept in memory
            flags = _finite_clips(signals)
            self._passes.append(ForwardPass(list(terms), values, batch["id"], lambda: flags))
        else:
            self._passes.append(ForwardPass(list(terms), values, batch["id"], lambda: _finite_clips(signals)))
        return losses | {"loss": losses["loss"] * (1.0 + 0.0 * values.sum())}

    def end(self, module: L.LightningModule, optimizer: Optimizer, scaler: GradScaler | None = None) -> None:
        """Skip the next step of the optimizer if the gradients are not finite.

        Args:
            module: Module with unscaled gradients.
            optimizer: Its optimizer.
            scaler: Gradient scaler that has unscaled the gradients, and skips the step itself.

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
            parameter.grad = None  # the optimizer skips parameters without gradients
        if scaler is not None and cause is None and scaler.get_scale() > 1:
            self.overflowed += 1
        else:
            self._report(module, module.global_step, cause or f"{first} is not finite")

    def read(self, module: L.LightningModule) -> None:
        """Report the last step if the device has skipped it and it was not reported yet.

        Raises:
            NonFiniteLoss: See `end`.
        """
        step, self._pending = self._pending, None
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
        self, number: int, optimizer: Optimizer, names: list[str], gradients: list[Tensor], passes: list[ForwardPass]
    ) -> None:
        """Skip the step on the device if the gradients are not finite."""
        norms = norms_of(gradients)
        broken = ~torch.linalg.vector_norm(norms).isfinite()
        for buffer, before in self._kept:
            buffer.copy_(torch.where(broken, before, buffer))
        skip_where(optimizer, broken)
        on_host, copied = broken.to("cpu", non_blocking=True), None
        if broken.device.type == "cuda" and torch.cuda.is_available():
            copied = torch.cuda.Event()
            copied.record()
        self._pending = PendingStep(number, on_host, copied, passes, names, norms)

    def _report(self, module: L.LightningModule, number: int, cause: str) -> None:
        """Count a skipped step, and warn with its cause."""
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


def _cause(passes: list[ForwardPass]) -> str | None:
    """Describe the non-finite terms of the loss and their clips; None if all terms are finite."""
    for step_pass in passes:
        values = zip(step_pass.names, step_pass.values.tolist(), step_pass.values.isfinite().tolist(), strict=True)
        broken = [f"{name} is {value}" for name, value, ok in values if not ok]
        if broken:
            return f"{', '.join(broken)}; {_source(step_pass)}"
    return None


def _finite_clips(signals: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return (B,) bool by modality: whether the raw signal of each clip is finite. The signal is not copied."""
    return {
        modality: raw.flatten(1).sum(dim=1, dtype=torch.float32).isfinite()
        for modality, raw in signals.items()
        if raw.is_floating_point()
    }


def _source(step_pass: ForwardPass) -> str:
    """Name the clips with a non-finite raw signal, or all clips of the batch if there are none."""
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
