"""Trainings that are killed at a random moment and gone on with, beside one that never was.

Usage:
    python benchmarks/kill.py [--times 20] [--output runs/benchmarks/kill]

The demonstration, with smaller batches and fewer steps, on the CPU. Every second one is killed by SIGKILL, the others
are told to end by SIGTERM, which writes a checkpoint first; some are in the middle of validation. Each then goes on
with ``--ckpt_path last`` and another number of workers. Compared are the clips of every step, its loss to the last bit,
what validation found, and the weights in the end.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L

from vatt.models.vatt import VATT

ROOT = Path(__file__).parents[1]
STEPS, BATCH, CHECKPOINTS, VALIDATION = 40, 8, 5, 10


class Journal(L.Callback):
    """Writes down the clips and the loss of every step, and what validation found.

    Args:
        path: of the journal, to which lines are added.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._write(trainer.global_step, "step", [*batch["id"], float(outputs["loss"]).hex()])

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._write(trainer.global_step, "validation", sorted(found.items()))

    def _write(self, step: int, kind: str, said: list[Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([step, kind, said]) + "\n")


def start(folder: Path, corpus: Path, workers: int, resume: bool = False) -> subprocess.Popen[bytes]:
    """Begin a training, or go on with one."""
    folder.mkdir(parents=True, exist_ok=True)
    callback = {"class_path": "benchmarks.kill.Journal", "init_args": {"path": str(folder / "journal.jsonl")}}
    command = [
        sys.executable, "-m", "vatt", "pretrain", "fit", "--config", "configs/demo.yaml",
        f"--data.manifest={corpus / 'manifest.jsonl'}", f"--data.vocabulary={corpus / 'vocabulary'}",
        f"--run.folder={folder}", f"--run.checkpoint_steps={CHECKPOINTS}", f"--trainer.max_steps={STEPS}",
        f"--trainer.val_check_interval={VALIDATION}", f"--data.batch_size={BATCH}", f"--data.num_workers={workers}",
        f"--trainer.callbacks={json.dumps([callback])}", "--trainer.enable_progress_bar=false",
        "--model.optimization.warmup_steps=5",
        *(["--ckpt_path=last"] if resume else []),
    ]  # fmt: skip
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)


def journal(folder: Path) -> dict[tuple[int, str], list[Any]]:
    """What was written down, by step and kind.

    Raises:
        SystemExit: a step that was done twice was not the same both times.
    """
    found: dict[tuple[int, str], list[Any]] = {}
    path = folder / "journal.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        step, kind, said = json.loads(line)
        if found.setdefault((step, kind), said) != said:
            raise SystemExit(f"{folder}: {kind} {step} was done twice, and not the same")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/kill"))
    given = parser.parse_args()
    output, draw = given.output.resolve(), random.Random(0)
    shutil.rmtree(output, ignore_errors=True)
    corpus = output / "corpus"
    for command in (
        ["synth", corpus, "--num_train", "48", "--num_val", "16", "--num_test", "8"],
        ["vocabulary", corpus / "manifest.jsonl", "--split", "train", "--output", corpus / "vocabulary"],
    ):
        subprocess.run([sys.executable, "-m", "vatt", *map(str, command)], cwd=ROOT, check=True)
    if start(output / "whole", corpus, 2).wait():
        raise SystemExit(f"the training failed: {output / 'whole' / 'output.txt'}")
    whole, weights = journal(output / "whole"), VATT.from_pretrained(output / "whole" / "model").model_hash()
    print(f"{STEPS} steps of {BATCH} clips, a checkpoint every {CHECKPOINTS}, validation every {VALIDATION}\n")
    print("| | signal | in step | status | went on after step | clips, losses, validation | weights |")
    print("|---|---|---|---|---|---|---|")
    differ = 0
    for number in range(given.times):
        folder, kind = output / str(number), (signal.SIGKILL, signal.SIGTERM)[number % 2]
        wanted, delay_s = draw.randrange(1, STEPS), draw.uniform(0, 1.0)
        process = start(folder, corpus, 2)
        while (wanted, "step") not in journal(folder) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay_s)
        process.send_signal(kind)
        status = process.wait()
        reached = max(step for step, _ in journal(folder))
        before = len((folder / "journal.jsonl").read_bytes().splitlines())
        if start(folder, corpus, 1, resume=True).wait():
            raise SystemExit(f"could not go on: {folder / 'output.txt'}")
        after = [json.loads(line) for line in (folder / "journal.jsonl").read_bytes().splitlines()[before:]]
        same = journal(folder) == whole
        equal = VATT.from_pretrained(folder / "model").model_hash() == weights
        differ += not (same and equal)
        went_on = min((step for step, what, _ in after if what == "step"), default=STEPS + 1) - 1
        said = " | ".join(("differ", "equal")[value] for value in (same, equal))
        print(f"| {number + 1} | {kind.name} | {reached + 1} | {status} | {went_on} | {said} |", flush=True)
    print(f"\n{given.times - differ} of {given.times} are as if they had not been stopped")
    raise SystemExit(differ > 0)


if __name__ == "__main__":
    main()
