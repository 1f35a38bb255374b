"""Private interfaces of Lightning that exact resuming depends on.

Checked with lightning 2.6; tests/training/test_checkpoint.py compares interrupted trainings with uninterrupted ones and
fails when these parts change.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.connectors import checkpoint_connector

VAL_PROGRESS = "epoch_loop.val_loop.batch_progress"
# Lightning skips entries that are missing, and would count steps and batches from 0.
FIT_PROGRESS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.automatic_optimization.optim_progress")


def has_progress(loops: Any) -> bool:
    """Return whether the state of the loops in a checkpoint has the progress of a training."""
    fit = loops.get("fit_loop") if isinstance(loops, dict) else None
    return isinstance(fit, dict) and all(isinstance(fit.get(name), dict) for name in FIT_PROGRESS)


def raised_while_restoring(error: BaseException) -> bool:
    """Return whether an error was raised while Lightning, or a hook it calls, restored a checkpoint."""
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        is_restoring = code.co_name.startswith(("restore", "_restore", "resume_start"))
        if is_restoring and code.co_filename == checkpoint_connector.__file__:
            return True
        frame = frame.tb_next
    return False


def validation_follows(trainer: L.Trainer) -> bool:
    """Return whether validation runs right after the training batch that has just ended."""
    epoch_loop = trainer.fit_loop.epoch_loop
    return not epoch_loop.val_loop.skip and epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def set_validation_progress(checkpoint: dict[str, Any], pending: bool) -> None:
    """Write into a checkpoint whether the validation after its step is still to be run.

    Lightning repeats a validation if its counters say that a batch was started and not processed. With any other
    counters a resumed training continues with the next step.

    Args:
        checkpoint: Checkpoint that is about to be saved, with the state of the loops.
        pending: Run the complete validation first when the training is resumed.
    """
    progress = checkpoint["loops"]["fit_loop"].get(VAL_PROGRESS)
    if progress is None:
        return
    done = progress["total"]["completed"]
    started = done + 1 if pending else done
    progress["total"] = {"ready": started, "started": started, "processed": done, "completed": done}
    if pending:
        progress["current"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        progress["is_last_batch"] = False


def restore_raw_weights(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Restore the module's own weights while validation runs on the averaged ones."""
    for callback in trainer.callbacks:
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            callback._swap_models(pl_module)


def stop_workers(trainer: L.Trainer) -> None:
    """End the worker processes of all data loaders of a training.

    After an exception in validation, Lightning ends those of validation only. The others ignore the signal that Python
    sends on exit (see `vatt.datasets.loading.workers`), and Python would wait for them forever.
    """
    trainer.fit_loop.teardown()


def export_averaged_weights(callback: WeightAveraging, pl_module: L.LightningModule) -> None:
    """Copy the averaged weights into the module.

    Lightning does not do this if a training is resumed after its last step.
    """
    callback._copy_average_to_current(pl_module)
