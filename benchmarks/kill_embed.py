"""Embedding and indexing that are killed: the same command, given again, loses nothing and doubles nothing.

``vatt embed`` and ``vatt index`` (building, --add, --remove, --compact) are ended by SIGKILL, at random moments, and at
every single write (see ``benchmarks/killing.py``). An index that was being changed must then be the old one or the new
one, whole. After the command was given once more, rows, vectors and search results are compared with those of a run
that nothing stopped, to the last bit, and no file may be left over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes are forked here

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks.killing import killed_at
from vatt.cli import retrieval
from vatt.locks import LOCK
from vatt.retrieval.index import FILE, Index
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.store import read_errors, write_shard
from vatt.retrieval.tables import StoreError

ROOT = Path(__file__).parents[1]
LARGE, WIDTH = 50_000, 64  # vectors of the large index, of each of two kinds

Row = tuple[str, str, int, int, int | None, int]  # what, when, runs, killed, neither old nor new, differ


def vatt(*words: object) -> list[str]:
    return [sys.executable, "-m", "vatt", *map(str, words)]


def run(line: list[str]) -> None:
    """Run a command to its end; 1 says that it went through, and that a file could not be read."""
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(line)}: {done.stderr}")


def start(line: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a command, and wait until it has changed a folder."""
    before = names(folder)
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while names(folder) == before and process.poll() is None:
        time.sleep(0.001)
    return process


def timed(line: list[str], folder: Path) -> float:
    """Run a command; returns how long it took from its first change of a folder to its last."""
    process, before = start(line, folder), names(folder)
    began = ended = time.perf_counter()
    while process.poll() is None:
        if (after := names(folder)) != before:
            before, ended = after, time.perf_counter()
        time.sleep(0.001)
    return ended - began


def kill(line: list[str], folder: Path, delay_s: float) -> bool:
    """Start a command, and kill it with its workers some time after it has changed a folder; False: it was done."""
    process = start(line, folder)
    time.sleep(delay_s)
    done = process.poll() is not None
    if not done:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return not done


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def every_write(prepare: Callable[[], Path], do: Callable[[Path], object]) -> Iterator[Path]:
    """The folders that are left when something is killed at its first write, at its second, and so on."""
    for number in itertools.count():
        folder = prepare()
        if not killed_at(number, folder, lambda folder=folder: do(folder)):
            return
        yield folder


def fresh(folder: Path, source: Path | None = None) -> Path:
    """An empty folder, or a copy of another one."""
    shutil.rmtree(folder, ignore_errors=True)
    if source is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(source, folder)
    return folder


# ---- embeddings --------------------------------------------------------------------------------------------------


def stored(folder: Path) -> tuple[Any, ...]:
    """All that there is of embeddings, the files, and what a search finds."""
    store = Embeddings(folder)
    texts = store.select("text", "video_text").vectors[:8]
    found = Index.build([folder]).search(texts, store.model)
    notes = {key: value for key, value in store.notes.items() if key != "folder"}
    return store.table.to_pylist(), read_errors(folder), notes, names(folder), found


def embeddings(work: Path, times: int, draw: random.Random) -> Iterator[Row]:
    """Kill ``vatt embed``."""
    corpus, model = work / "corpus", work / "run/model"
    run(vatt("synth", corpus, "--num_train", 8, "--num_val", 8, "--num_test", 8))
    clips = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (corpus / "broken.mp4").write_text("no media")  # so that there is an error to be kept
    manifest, few = corpus / "all.jsonl", corpus / "few.jsonl"
    for path, rows in ((manifest, clips), (few, clips[:6])):
        path.write_text("".join([*rows[:5], '{"path": "broken.mp4"}\n', *rows[5:]]), encoding="utf-8")
    run(vatt("vocabulary", corpus / "manifest.jsonl", "--output", corpus / "vocabulary"))
    run(
        vatt(
            "pretrain", "fit", "--config", "configs/demo.yaml", f"--data.manifest={corpus / 'manifest.jsonl'}",
            f"--data.vocabulary={corpus / 'vocabulary'}", "--data.cache=null", "--data.batch_size=8",
            "--trainer.max_steps=1", f"--run.folder={work / 'run'}", "--model.optimization.warmup_steps=0",
        )
    )  # fmt: skip

    def line(folder: Path) -> list[str]:
        return vatt("embed", manifest, "--model", model, "--output", folder, "--shard_clips", 4, "--batch_size", 8)

    span_s = timed(line(fresh(work / "whole")), work / "whole")
    whole, runs, killed, differ = stored(work / "whole"), 0, 0, 0
    while killed < times:
        folder, runs = fresh(work / "killed"), runs + 1
        killed += kill(line(folder), folder, draw.uniform(0.0, span_s))
        run(line(folder))
        differ += stored(folder) != whole
    yield f"embed, {len(clips) + 1} clips, {len(clips) // 4 + 1} shards", "random", runs, killed, None, differ

    def make(folder: Path, source: Path = few, overwrite: bool = False) -> None:
        with redirect_stdout(StringIO()):
            retrieval.embed(str(source), str(model), str(folder), num_workers=0, shard_clips=4, overwrite=overwrite)

    make(fresh(work / "few"))
    whole, folders = stored(work / "few"), every_write(lambda: fresh(work / "killed"), make)
    yield "embed, 7 clips, 2 shards", "every write", *again(folders, make, lambda folder: stored(folder) == whole)

    def anew(folder: Path) -> None:
        make(folder, overwrite=True)

    make(fresh(work / "other"), manifest)
    folders = every_write(lambda: fresh(work / "killed", work / "other"), anew)
    yield "embed --overwrite", "every write", *again(folders, anew, lambda folder: stored(folder) == whole)


def again(
    folders: Iterator[Path], do: Callable[[Path], object], is_right: Callable[[Path], bool]
) -> tuple[int, int, None, int]:
    """Do once more what was killed; returns how often it was, and how often that gave something else."""
    killed = differ = 0
    for folder in folders:
        do(folder)
        killed, differ = killed + 1, differ + (not is_right(folder))
    return killed, killed, None, differ


# ---- indexes -----------------------------------------------------------------------------------------------------


def write_vectors(folder: Path, name: str, count: int, width: int, seed: int) -> Path:
    """Embeddings of random numbers."""
    rng = np.random.default_rng(seed)
    for modality, space in (("video", "video_text"), ("audio", "video_audio")):
        rows = (
            {"id": f"{name}{i}", "path": f"{name}/{i}.mp4", "start_s": 0.0, "end_s": 1.0,
             "clip_start_s": 0.0, "modality": modality, "space": space, "vector": vector}
            for i, vector in enumerate(rng.normal(size=(count, width)).astype(np.float32))
        )  # fmt: skip
        write_shard(folder, "a model", rows, shard=modality == "audio")
    return folder


def indexed(folder: Path) -> tuple[Any, ...] | None:
    """Rows and vectors of an index, and what is found in it; None if there is none."""
    if not (folder / FILE).exists():
        return None
    index, found = Index.load(folder), []
    for modality, space, _ in index.kinds():
        vectors, rows = index.vectors((modality, space))
        queries = np.random.default_rng(9).normal(size=(5, vectors.shape[1])).astype(np.float32)
        digest = sha256(vectors.tobytes() + "\n".join(rows.column("path").to_pylist()).encode()).hexdigest()
        found.append((modality, space, digest, index.search(queries, index.model, 10, modality, space)))
    return tuple(found)


def tidy(folder: Path) -> bool:
    """Whether the folder of an index holds its files and nothing else."""
    says = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return names(folder) == {FILE, LOCK, *(name for part in says["parts"] for name in part["files"])}


def indexes(work: Path, times: int, draw: random.Random) -> Iterator[Row]:
    """Kill ``vatt index``, as often in all at random moments, and at every write."""
    for count, width in ((LARGE, WIDTH), (300, 8)):
        one = write_vectors(work / f"one{count}", "one", count, width, 1)
        two = write_vectors(work / f"two{count}", "two", count // 2, width, 2)
        old, cut = work / f"old{count}", work / f"cut{count}"
        run(vatt("index", one, "--output", old))
        shutil.copytree(old, cut)
        run(vatt("index", cut, "--output", cut, "--remove", "*7.mp4"))
        ways: dict[str, tuple[Path | None, dict[str, Any]]] = {
            "build": (None, {"sources": [two]}),
            "build in place of another": (old, {"sources": [two]}),
            "--add": (old, {"sources": [two], "add": True}),
            "--remove": (old, {"remove": "*3.mp4"}),
            "--compact": (cut, {"compact": True}),
        }
        if count == 300:
            graph = {"sources": [two], "kind": "hnsw"}
            ways |= {"build a graph": (old, graph), "build clusters": (old, {"sources": [one], "kind": "ivfpq"})}
        for name, (before, options) in ways.items():
            yield from killed_index(
                work, name, before, options, max(1, times // len(ways)) if count == LARGE else 0, draw
            )


def killed_index(
    work: Path, name: str, before: Path | None, options: dict[str, Any], times: int, draw: random.Random
) -> Iterator[Row]:
    """Kill one way to make or to change an index: so often at random, or, for 0, at every write."""

    def given(folder: Path) -> dict[str, Any]:
        return {"sources": [folder], **options}

    def line(folder: Path) -> list[str]:
        words = {key: value for key, value in given(folder).items() if key != "sources"}
        more = [word for key, value in words.items() for word in (f"--{key}", str(value).lower())]
        return vatt("index", *given(folder)["sources"], "--output", folder, *more)

    def make(folder: Path) -> None:
        with redirect_stdout(StringIO()):
            retrieval.index(output=str(folder), **given(folder))

    folder = work / "killed"
    span_s = timed(line(fresh(folder, before)), folder)
    old, new = before and indexed(before), indexed(folder)
    size = f"{sum(counts[2] for counts in Index.load(folder).kinds()):,} vectors"
    runs = killed = torn = differ = 0

    def check(folder: Path) -> None:
        nonlocal torn, differ
        try:
            torn += indexed(folder) not in (old, new)
        except (StoreError, OSError):
            torn += 1
        make(folder)
        differ += indexed(folder) != new or not tidy(folder)

    while killed < times:
        runs += 1
        killed += kill(line(fresh(folder, before)), folder, draw.uniform(0.0, span_s))
        check(folder)
    if not times:
        for left in every_write(lambda: fresh(folder, before), make):
            check(left)
            runs, killed = runs + 1, killed + 1
    yield f"index, {name}, {size}", "random" if times else "every write", runs, killed, torn, differ


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks/kill_embed"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    work, draw, wrong = fresh(given.output.resolve()), random.Random(0), 0
    print("| | killed at | runs | killed in time | neither old nor new | differ after the same command |")
    print("|---|---|---|---|---|---|")
    for name, when, runs, killed, torn, differ in itertools.chain(
        embeddings(work, given.times, draw), indexes(work, given.times, draw)
    ):
        print(f"| {name} | {when} | {runs} | {killed} | {'–' if torn is None else torn} | {differ} |", flush=True)
        wrong += (torn or 0) + differ
    print(f"\n{wrong} differences")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
