"""Loader of training batches whose position is saved in checkpoints."""

from __future__ import annotations

from typing import Any

from vatt.datasets.loading.crashes import CrashTolerantLoader
from vatt.datasets.loading.sampling import StepSampler
from vatt.structures import Batch


class ClipLoader(CrashTolerantLoader):
    """Data loader that counts the delivered batches, so that a resumed run continues with the next one."""

    def delivered(self, batch: Batch) -> None:
        """See `CrashTolerantLoader.delivered`."""
        sampler: StepSampler = self.batch_sampler
        sampler.step, sampler.slot = sampler.step + 1, sampler.slot + sampler.whole

    def state_dict(self) -> dict[str, Any]:
        return self.batch_sampler.state_dict() | {"crashed": dict(self.crashed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.crashed |= state["crashed"]
        self.batch_sampler.load_state_dict(state)
