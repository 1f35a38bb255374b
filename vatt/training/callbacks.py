"""What is watched during training: speed, waiting for data, and everything that happened to clips on their way."""

from __future__ import annotations

import csv
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from vatt.io import write_errno
from vatt.structures import Batch
from vatt.training.health import peak_flops
from vatt.training.history import ConfigMismatch

NAMED = 10  # clips that are named at most at the end of an evaluation
REFRESH_S = 0.2  # between two updates of the progress bar
DATA_BOUND = 0.3  # share of waiting from which on the log says so in words


class StepBar(TQDMProgressBar):
    """Progress bar that covers the complete training and counts steps.

    Reading its values from the device synchronizes. They are therefore updated every `REFRESH_S` seconds only.
    """

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, process_position, leave)
        self._next_s = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now, bar, parts = time.monotonic(), self.train_progress_bar, trainer.accumulate_grad_batches
        done = trainer.global_step * parts + (batch_idx + 1) % parts  # Lightning counts from the start of the epoch
        if not bar.disable and (now >= self._next_s or done == bar.total):
            self._next_s = now + REFRESH_S
            bar.n = done
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return {name.rpartition("/")[2]: value for name, value in shown.items()}

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Set the total number of steps, and the number of steps before a resumed training."""
        super().on_train_start(trainer, *args)
        bar = self.train_progress_bar
        bar.set_description("training", refresh=False)
        bar.initial = bar.n = trainer.global_step * trainer.accumulate_grad_batches
        bar.total = trainer.max_steps * trainer.accumulate_grad_batches  # Lightning's total excludes earlier steps
        bar.refresh()

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Do nothing: the bar covers the complete training."""


def check_state(callback: Callback, trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Check that a training is resumed from a checkpoint with the state of a callback that all trainings have.

    Raises:
        ConfigMismatch: It has none. Lightning would ignore that.
    """
    if trainer.state.fn == TrainerFn.FITTING and not checkpoint["callbacks"].get(callback.state_key):
        raise ConfigMismatch(
            f"the checkpoint has no state of the callback {callback.state_key}: choose another checkpoint with "
            "--ckpt_path, or start a new training"
        )


class NameDirectory(Callback):
    """Adds the directory of the run to errors of a full disk that name no file, such as those of TensorBoard."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, OSError) and exception.filename is None and write_errno(exception) is not None:
            exception.filename = trainer.default_root_dir


class Throughput(Callback):
    """Logs ``speed/data_wait`` (share of the time spent waiting for the loader), ``speed/tokens_per_s``,
    ``speed/clips_per_s`` and ``speed/steps_per_s``, over the steps since the last log and without validation.

    Of one process also ``speed/tflops_per_s``, 10^12 operations of the backbone a second: of a forward pass, and of a
    backward pass of twice as many; what is computed a second time to save memory is not counted. ``speed/mfu`` is that
    as a share of what the device can do by its datasheet, where that is known (model-FLOPs utilisation, Chowdhery et
    al. 2022, "PaLM", appendix B).

    Attributes:
        train_s: seconds of training so far, those before a resumption included.
    """

    def __init__(self) -> None:
        self.train_s = 0.0
        self._warned = False
        self._flops_per_clip: float | None = None
        self._peak: float | None = None
        self._restart()

    def state_dict(self) -> dict[str, Any]:
        return {"train_s": self.train_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train_s = float(state_dict["train_s"])

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        check_state(self, trainer, checkpoint)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._flops_per_clip, self._peak = pl_module.flops_per_clip(), peak_flops(trainer)
        self._restart()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._wait_s += now - self._ended
        self._began = now

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._work_s += now - self._began
        self.train_s += now - self._ended
        self._ended = now
        self._steps += 1
        self._clips += len(batch["id"])
        self._tokens += outputs.get("tokens", 0)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ended = time.perf_counter()  # validation is no waiting

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        whole = self._wait_s + self._work_s
        share = self._wait_s / whole
        rates = {"tokens": self._tokens, "clips": self._clips, "steps": self._steps}
        pl_module.log_dict({f"speed/{name}_per_s": count / whole for name, count in rates.items()})
        if self._flops_per_clip is not None:
            flops = 3 * self._flops_per_clip * self._clips / whole
            pl_module.log("speed/tflops_per_s", flops / 1e12)
            if self._peak is not None:
                pl_module.log("speed/mfu", flops / self._peak)
        pl_module.log("speed/data_wait", share, prog_bar=True)
        if share > DATA_BOUND and not self._warned and trainer.global_step > 2 * trainer.log_every_n_steps:
            self._warned = True
            rank_zero_warn(
                f"{share:.0%} of the time is spent waiting for clips: raise data.num_workers, or shrink the videos"
            )
        self._restart()

    def _restart(self) -> None:
        self._wait_s = self._work_s = 0.0
        self._steps = self._clips = self._tokens = 0
        self._began = self._ended = time.perf_counter()


class DataReport(Callback):
    """Counts what the loader reports, logs it as ``data/<kind>``, and names every clip in ``data_events.csv``.

    Processes beyond the first write ``data_events.<rank>.csv``; the counts said at the end are those of all.

    Args:
        folder: Directory of the run. None: no file is written, and clips are named at the end of the evaluation.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.file = None if folder is None else Path(folder) / "data_events.csv"
        self.counts: Counter[str] = Counter()
        self._named: set[tuple[str, str]] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.global_rank and self.file is not None:
            self.file = self.file.with_name(f"data_events.{trainer.global_rank}.csv")

    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "named": sorted(list(pair) for pair in self._named)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts = Counter({str(kind): int(count) for kind, count in state_dict["counts"].items()})
        self._named = {(kind, name) for kind, name in state_dict["named"]}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        check_state(self, trainer, checkpoint)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._take(batch, f"step {trainer.global_step}")
        if self.counts:
            # Tensors on the CPU: Lightning would copy a number to the device, which synchronizes.
            pl_module.log_dict({f"data/{kind}": torch.tensor(float(count)) for kind, count in self.counts.items()})

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *place: int
    ) -> None:
        self._take(batch, "validation")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *place: int
    ) -> None:
        self._take(batch, "test")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print(trainer)

    def _print(self, trainer: L.Trainer) -> None:
        counts, pairs = self._of_all(trainer)
        if not counts or not trainer.is_global_zero:
            return
        totals = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        names = sorted({name for _, name in pairs})
        if self.file is None:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            print(f"data: {totals}; clips: {', '.join(names[:NAMED])}{more}")
        else:
            files = self.file if trainer.world_size == 1 else self.file.with_name("data_events*.csv")
            print(f"data: {totals}; {len(names)} clips are named in {files}")

    def _of_all(self, trainer: L.Trainer) -> tuple[Counter[str], set[tuple[str, str]]]:
        """The counts and names of all processes."""
        if trainer.world_size == 1:
            return self.counts, self._named
        parts: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, (self.counts, self._named))
        return sum((counts for counts, _ in parts), Counter()), set().union(*(named for _, named in parts))

    def _take(self, batch: Batch, when: str) -> None:
        new = []
        for event in batch["events"]:
            known = (event["kind"], event["id"]) in self._named
            self.counts[event["kind"]] += when.startswith("step") or not known  # the same clips are validated each time
            if not known:
                self._named.add((event["kind"], event["id"]))
                new.append([when, event["kind"], event["id"], event["path"], event["reason"]])
        if not new or self.file is None:
            return
        first = not self.file.exists()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if first:
                writer.writerow(["when", "kind", "id", "path", "reason"])
            writer.writerows(new)
