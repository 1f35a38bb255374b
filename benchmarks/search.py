"""Our index beside FAISS itself: time to build, memory, latency and recall of every kind.

Usage:
    python benchmarks/search.py [--vectors 1000000] [--width 256] [--keep FOLDER]

Vectors lie in clusters, as those of videos do: ten thousand centres, around each of which they scatter, normalised.
Queries are drawn in the same way. Recall is against exact search. "directly" is the same structure, called in FAISS
with the same parameters, without rows, files and checks. Each kind is built in one process and used in another, so that
memory is its own: what that one has more after the queries than before the index was loaded; what is mapped from files,
and can be dropped, is told apart. With --keep, indexes stay, and what is there is not built again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from vatt.retrieval.index import Index
from vatt.retrieval.vectors import Vectors, choose, import_faiss, unit

HEAD = (
    "", "build, s", "load, s", "on disk, MB", "memory, MB (mapped)", "p50, ms", "p95, ms", "directly p50", "p95",
    "overhead", "recall@10",
)  # fmt: skip
CENTRES, SCATTER, QUERIES, K = 10_000, 0.7, 200, 10


def draw(count: int, width: int, seed: int) -> np.ndarray:
    """Vectors in clusters, whose centres are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, width)).astype(np.float32)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)).astype(np.float32)
    x *= SCATTER
    x += centres[rng.integers(CENTRES, size=count)]
    return unit(x)


def memory() -> dict[str, int]:
    """Megabytes of this process, by /proc: anonymous, and mapped from files."""
    lines = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss")
    )
    return {name: int(lines[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}


def latency(search: object, queries: np.ndarray) -> list[float]:
    """Milliseconds of one query at a time, after ten that do not count."""
    taken = []
    for number, query in enumerate([*queries[:10], *queries]):
        began = time.perf_counter()
        search(query[None])
        if number >= 10:
            taken.append(1e3 * (time.perf_counter() - began))
    return taken


def work(kind: str, count: int, width: int, folder: Path) -> None:
    """One kind, in this process: build, save, load, search."""
    import pyarrow as pa

    faiss, queries, found = import_faiss(), draw(QUERIES, width, 2), {}
    folder.mkdir(parents=True, exist_ok=True)
    name = ("video", "video_text")
    vectors = draw(count, width, 1)
    rows = pa.table(
        {
            "id": pa.array([f"clip{i}" for i in range(count)]),
            "path": pa.array([f"folder/{i // 100}/clip{i}.mp4" for i in range(count)]),
            "start_s": np.zeros(count),
            "end_s": np.full(count, 3.2),
            "clip_start_s": np.zeros(count),
            "clip_end_s": pa.nulls(count, pa.float64()),
            "text": pa.nulls(count, pa.string()),
            "extra": pa.nulls(count, pa.string()),
        }
    )
    began = time.perf_counter()
    made = Index({name: Vectors.build(vectors, rows, kind)}, "m", None)
    found["build_s"] = time.perf_counter() - began
    made.save(folder / kind)
    found["MB on disk"] = sum(file.stat().st_size for file in (folder / kind).iterdir()) / 1e6
    exact = faiss.IndexFlatIP(width)
    exact.add(vectors)
    best = exact.search(queries, K)[1]
    np.save(folder / f"{kind}.best.npy", best)
    print(json.dumps(found))


def use(kind: str, count: int, width: int, folder: Path) -> None:
    """One kind, loaded: latency, recall and memory."""
    queries, best = draw(QUERIES, width, 2), np.load(folder / f"{kind}.best.npy")
    before = memory()
    began = time.perf_counter()
    index = Index.load(folder / kind)
    found: dict[str, float] = {"load_s": time.perf_counter() - began}
    part = index.parts["video", "video_text"]
    answers = index.search(queries, "m", K)
    numbers = [{int(hit.id[4:]) for hit in hits} for hits in answers]
    right = [len(some & set(row.tolist())) / K for some, row in zip(numbers, best, strict=True)]
    found["recall"] = float(np.mean(right))
    (structure, how), ours, theirs = part.directly(K), [], []
    for _ in range(3):  # in turns
        ours += latency(lambda query: index.search(query, "m", K), queries)
        theirs += latency(lambda query: structure.search(query, K, params=how), queries)
    for label, taken in (("ours", ours), ("directly", theirs)):
        found |= {f"{label} p50": float(np.median(taken)), f"{label} p95": float(np.percentile(taken, 95))}
    after = memory()
    found |= {name: after[name] - before[name] for name in after}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--kinds", nargs="+", default=["flat", "hnsw", "ivfpq"])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--do", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.do:
        step, kind, folder = given.do
        (work if step == "build" else use)(kind, given.vectors, given.width, Path(folder))
        return
    about = f"{given.vectors:,} vectors of {given.width} dimensions, {os.cpu_count()} cores"
    print(f"{about}, FAISS {import_faiss().__version__}, {QUERIES} queries, {K} answers each")
    print(f"auto takes {choose(given.vectors)}\n\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(given.keep or temporary)
        for kind in given.kinds:
            known = Path(folder, f"{kind}.json")
            found = json.loads(known.read_text()) if known.is_file() else {}
            for step in ("use",) if found else ("build", "use"):
                command = [sys.executable, __file__, "--vectors", str(given.vectors), "--width", str(given.width)]
                command += ["--do", step, kind, folder]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found |= json.loads(done.stdout.splitlines()[-1])
                if step == "build":
                    known.write_text(json.dumps(found))
            over = found["ours p50"] / found["directly p50"] - 1
            print(
                f"| {kind} | {found['build_s']:.0f} | {found['load_s']:.2f} | {found['MB on disk']:.0f} "
                f"| {found['RssAnon']} ({found['RssFile']}) | {found['ours p50']:.2f} | {found['ours p95']:.2f} "
                f"| {found['directly p50']:.2f} | {found['directly p95']:.2f} | {over:+.0%} | {found['recall']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
