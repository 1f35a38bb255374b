"""Batch norm with statistics of the valid rows only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def apply_to_valid(layer: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
    """Apply a layer whose batch norms take their statistics from valid rows only.

    Shapes do not depend on the number of valid rows, and a GPU is not synchronized.

    Args:
        layer: Layer that processes rows independently, `nn.BatchNorm1d`, or `nn.Sequential` of such layers.
        x: (B, D).
        valid: (B,) bool.

    Returns:
        (B, E). Valid rows and all gradients equal those of ``layer(x[valid])``. The other rows have no meaning; they
        are finite if the outputs of the layer are.

    Raises:
        ValueError: A batch norm is inside another kind of module, or has no running statistics.
    """
    if isinstance(layer, nn.Sequential):
        for part in layer:
            x = apply_to_valid(part, x, valid)
        return x
    if isinstance(layer, nn.BatchNorm1d) and layer.track_running_stats:
        return masked_batch_norm(layer, x, valid)
    if any(isinstance(part, _BatchNorm) for part in layer.modules()):
        raise ValueError(
            f"batch norm in {type(layer).__name__} cannot exclude invalid rows: use nn.BatchNorm1d with running "
            "statistics in an nn.Sequential, or model.objective.statistics: all"
        )
    return layer(x)


def masked_batch_norm(norm: nn.BatchNorm1d, x: Tensor, valid: Tensor) -> Tensor:
    """Apply a batch norm with the statistics of valid rows, as ``norm(x[valid])`` would.

    Running statistics are updated as in `nn.BatchNorm1d`. With fewer than two valid rows, they replace the statistics
    of the batch and are not updated; this is decided on the device.

    Args:
        norm: Layer with running statistics. In evaluation mode it is applied unchanged.
        x: (B, D).
        valid: (B,) bool.

    Returns:
        (B, D).
    """
    # No synchronization is needed on a CPU, and PyTorch's own kernel is faster.
    if not norm.training or (x.device.type == "cpu" and len(x) > 1 and bool(valid.all())):
        return norm(x)
    x = x.where(valid[:, None], 0.0)
    count = valid.sum()
    enough, rows = count > 1, count.clamp(min=1).to(x.dtype)
    mean = x.sum(dim=0) / rows
    var = (x - mean).where(valid[:, None], 0.0).square().sum(dim=0) / rows
    with torch.no_grad():
        tracked = norm.num_batches_tracked + enough
        factor = tracked.clamp(min=1).double().reciprocal() if norm.momentum is None else norm.momentum
        unbiased = var * (rows / (rows - 1).clamp(min=1))
        for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            running.copy_(torch.where(enough, running + factor * (new - running), running))
        norm.num_batches_tracked.copy_(tracked)
    mean, var = torch.where(enough, mean, norm.running_mean), torch.where(enough, var, norm.running_var)
    y = (x - mean) * torch.rsqrt(var + norm.eps)
    return y if norm.weight is None else y * norm.weight + norm.bias
