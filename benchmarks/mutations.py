"""Spoilt media files through everything: ``vatt scan``, ``pretrain``, ``embed`` and ``index``.

500 files are made out of 22 small good ones: cut, flipped, mixed up, misnamed, with headers that tell absurd things
(see ``benchmarks/mutating.py``). All of them, and the good ones, go through every command. None may hang or end
otherwise than it should, and every file must be accounted for: it was read, or it is counted with a reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import pyarrow.parquet as pq

from benchmarks.mutating import mutate, write_good
from vatt.preparation.scan.report import read_report
from vatt.structures import NOT_READ

ROOT = Path(__file__).parents[1]
LARGEST_BATCH = 24
LIMIT_S = 300.0  # for one command; all of them take minutes together
REMARKS = ("damaged", "truncated")  # of a scan: of files that can be read, but not whole
COLUMNS = (
    "files", "scan: ok", "remark", "refused", "training: read", "left out", "embed: whole", "damaged", "refused "
)  # fmt: skip


@dataclass
class Account:
    """What became of the files.

    Attributes:
        counts: by kind of file and column.
        lost: what is not accounted for, in words.
    """

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lost: list[str] = field(default_factory=list)

    def take(self, kind: str, column: str) -> None:
        self.counts[kind][column] += 1


def command(folder: Path, *words: object, status: tuple[int, ...] = (0,)) -> float:
    """Run a ``vatt`` command, and return how many seconds it took.

    Raises:
        SystemExit: it hangs, or ends with a status that it should not have.
    """
    output, began = folder / f"{words[0]}.txt", time.perf_counter()
    line = [sys.executable, "-m", "vatt", *map(str, words)]
    with output.open("wb") as file:
        process = subprocess.Popen(line, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            ended = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"vatt {words[0]} is not done after {LIMIT_S:g} s: {output}") from None
    if ended not in status:
        raise SystemExit(f"vatt {words[0]} ended with status {ended}: {output}")
    return time.perf_counter() - began


def scanned(account: Account, kinds: dict[str, str], report: Path) -> set[str]:
    """Take note of a scan's report; returns the files with which something is wrong."""
    rows = list(read_report(report))
    for path, count in Counter(row.path for row in rows).items():
        if path not in kinds or count != 1:
            account.lost.append(f"scan: {path} has {count} rows")
    account.lost += [f"scan: {path} has no row" for path in kinds.keys() - {row.path for row in rows}]
    for row in rows:
        good = row.status == "ok"
        account.take(kinds[row.path], "scan: ok" if good else "remark" if row.status in REMARKS else "refused")
        if not good and not row.reason:
            account.lost.append(f"scan: {row.path} is {row.status} without a reason")
    return {row.path for row in rows if row.status != "ok"}


def trained(account: Account, kinds: dict[str, str], run: Path) -> None:
    """Take note of the clips that a training has seen, and of those it names."""
    steps = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    read = {name for _, kind, said in steps if kind == "step" for name in said[:-1]}
    with (run / "data_events.csv").open(newline="", encoding="utf-8") as file:
        named = {row["id"]: row["reason"] for row in csv.DictReader(file) if row["kind"] in NOT_READ}
    for path, kind in kinds.items():
        if path in read:
            account.take(kind, "training: read")
        elif named.get(path):
            account.take(kind, "left out")
        else:
            account.lost.append(f"training: {path} was neither read nor named")


def embedded(account: Account, kinds: dict[str, str], folder: Path) -> set[str]:
    """Take note of what was embedded; returns the files that were, without any remark."""
    vectors = pq.read_table(folder / "embeddings.parquet", columns=["id", "modality"]).to_pylist()
    read = {row["id"] for row in vectors if row["modality"] != "text"}
    errors = pq.read_table(folder / "errors.parquet").to_pylist()
    named = {row["id"] for row in errors if row["kind"] in (*NOT_READ, "damaged") and row["reason"]}
    for path, kind in kinds.items():
        if path in read:
            account.take(kind, "damaged" if path in named else "embed: whole")
        elif path in named:
            account.take(kind, "refused ")
        else:
            account.lost.append(f"embed: {path} was neither embedded nor named")
    if not json.loads((folder / "embeddings.json").read_text(encoding="utf-8"))["complete"]:
        account.lost.append("embed: not complete")
    return read - named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/mutations"))
    given = parser.parse_args()
    folder = given.output.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    good = write_good(folder / "good")
    spoilt = mutate(good, folder / "spoilt", given.files, given.seed)
    kinds = {str(folder / "good" / name): "good" for name in good} | {str(path): kind for path, kind in spoilt.items()}
    manifest, vocabulary, run, out = (folder / name for name in ("clips.jsonl", "vocabulary", "run", "embeddings"))
    rows = [{"id": path, "path": path, "text": f"a file that is {kind}"} for path, kind in kinds.items()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    digest = sha256(b"".join(Path(path).read_bytes() for path in kinds)).hexdigest()[:12]
    print(f"{len(spoilt)} files of {len(good)} good ones, seed {given.seed} (sha256 {digest})\n", flush=True)

    batch = next(size for size in range(LARGEST_BATCH, 0, -1) if len(kinds) % size == 0)  # a pass is all of them
    callback = {"class_path": "benchmarks.kill.Journal", "init_args": {"path": str(run / "journal.jsonl")}}
    command(folder, "vocabulary", manifest, "--output", vocabulary)
    run.mkdir()
    took_s = {
        "scan": command(folder, "scan", manifest, "--output", folder / "report.csv", "--time_limit_s", 20, status=(1,)),
        "training": command(
            folder, "pretrain", "fit", "--config", "configs/demo.yaml", f"--data.manifest={manifest}",
            f"--data.vocabulary={vocabulary}", "--data.cache=null", f"--data.batch_size={batch}",
            "--data.val_fraction=0", "--data.time_limit_s=20", f"--run.folder={run}", "--run.best_by=null",
            f"--trainer.max_steps={len(kinds) // batch}", f"--trainer.callbacks={json.dumps([callback])}",
            "--trainer.enable_progress_bar=false", "--model.optimization.warmup_steps=5",
        ),
        "embed": command(folder, "embed", manifest, "--model", run / "model", "--output", out, status=(1,)),
        "index": command(folder, "index", out, "--output", folder / "index"),
    }  # fmt: skip

    account = Account()
    for kind in kinds.values():
        account.take(kind, "files")
    wrong = scanned(account, kinds, folder / "report.csv")
    trained(account, kinds, run)
    whole = embedded(account, kinds, out)
    print("| | " + " | ".join(name.strip() for name in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    whole_table = {**account.counts, "all": sum(account.counts.values(), Counter())}
    for kind, counts in whole_table.items():
        print(f"| {kind} | " + " | ".join(str(counts[name]) for name in COLUMNS) + " |")
    said = next(line for line in (folder / "pretrain.txt").read_text().splitlines() if line.startswith("data: "))
    print(f"\nthe training's own words: {said.partition(';')[0]}")
    print(f"scan has a remark, embed has none: {len(wrong & whole)} files")
    print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in took_s.items()))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"memory of the largest process: {peak:.1f} GiB")
    print("\n".join([f"\n{len(account.lost)} not accounted for", *account.lost]))
    raise SystemExit(bool(account.lost))


if __name__ == "__main__":
    main()
