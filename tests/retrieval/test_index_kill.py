"""An index, and embeddings, whose writing is killed: at every write there is."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("faiss")

from benchmarks.killing import killed_at
from tests.evaluation.test_protocols import row
from vatt.locks import LOCK
from vatt.retrieval.claims import claim
from vatt.retrieval.index import FILE, Index
from vatt.retrieval.store import missing_shards, read_errors, read_notes, tidy, write_notes, write_shard

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
VECTORS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def store(folder: Path, name: str, places: range) -> Path:
    write_shard(folder, "m", [row(f"{name}{i}", "video", "video_text", VECTORS[i]) for i in places])
    return folder


def found(folder: Path) -> list[list[tuple[str, float]]] | None:
    """What is found in an index; None if there is none."""
    if not (folder / FILE).exists():
        return None
    return [[(hit.id, hit.score) for hit in hits] for hits in Index.load(folder).search(VECTORS[:5], "m", 40)]


def build(folder: Path) -> None:
    Index.build([folder.parent / "more"]).save(folder)


def add(folder: Path) -> None:
    index = Index.load(folder, mapped=False)
    index.add([folder.parent / "more"])
    index.save(folder)


def remove(folder: Path) -> None:
    index = Index.load(folder)
    index.remove("a1*")
    index.save(folder)


def compact(folder: Path) -> None:
    index = Index.load(folder)
    index.compact()
    index.save(folder)


@pytest.mark.parametrize(
    ("change", "there"), [(build, False), (build, True), (add, True), (remove, True), (compact, True)]
)
def test_a_killed_index_is_the_old_one_or_the_new_one(
    tmp_path: Path, change: Callable[[Path], None], there: bool
) -> None:
    store(tmp_path / "first", "a", range(30))
    store(tmp_path / "more", "b", range(20, 40))
    index, before = tmp_path / "index", tmp_path / "before"
    if there:
        Index.build([tmp_path / "first"]).save(before)
        part = Index.load(before)
        part.remove("a2*")
        part.save(before)
        shutil.copytree(before, index)
    change(index)
    old, new, states = found(before), found(index), []
    for number in itertools.count():
        shutil.rmtree(index)
        if there:
            shutil.copytree(before, index)
        if not killed_at(number, index, lambda: change(index)):
            break
        states.append(found(index))
        change(index)
        assert found(index) == new, f"killed at write {number}, and done again"
        says = json.loads((index / FILE).read_text())
        assert {path.name for path in index.iterdir()} == {FILE, LOCK, *says["parts"][0]["files"]}
    assert len(states) >= 8
    changed = next(n for n, state in enumerate([*states, new]) if state == new) if old != new else 0
    assert states == [old] * changed + [new] * (len(states) - changed)


def test_embeddings_that_were_killed_are_gone_on_with_at_every_write(tmp_path: Path) -> None:
    """Another plan's embeddings are overwritten, two shards are written, and all is said to be complete."""
    plan, error = {"model": "m", "shards": 2}, {"kind": "unreadable", "id": "x", "path": "x.mp4", "reason": "empty"}
    folder, before = tmp_path / "out", tmp_path / "before"

    def write() -> None:
        known = read_notes(folder).get("plan") == plan
        claim(folder, plan, {}, overwrite=not known)
        for shard in missing_shards(folder, 2):
            write_shard(folder, "m", [row(f"v{shard}", "video", "video_text", [1.0])], [error] * shard, shard)
        tidy(folder)
        write_notes(folder, read_notes(folder) | {"complete": True})

    claim(before, {"model": "m", "shards": 3}, {})
    for shard in range(3):
        write_shard(before, "m", [row("old", "video", "video_text", [2.0])], [error], shard)
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        if not killed_at(number, folder, write):
            break
        write()
        assert read_errors(folder) == [error]
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        shards = [
            f"{kind}.parquet/0000{shard}.parquet" for kind in ("embeddings", "errors", "pooled") for shard in (0, 1)
        ]
        assert files == ["embeddings.json", *shards], number
    assert number > 20


def test_files_that_are_no_indexs_own_are_left_alone(tmp_path: Path) -> None:
    index = Index.build([store(tmp_path / "first", "a", range(5))])
    index.save(tmp_path / "index")
    (tmp_path / "index" / "mine.parquet").write_text("mine")
    index.save(tmp_path / "index")
    assert (tmp_path / "index" / "mine.parquet").read_text() == "mine"
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an index"):
        index.save(tmp_path / "tables")
