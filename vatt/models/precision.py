"""Single precision where autocast would take less."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def single_precision(x: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of a tensor; "meta" has none anyway, and does not know the question."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
