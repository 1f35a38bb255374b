"""Two processes that write to one directory: the second one gets an error, and nothing is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.evaluation.test_protocols import row
from vatt.cli.main import main
from vatt.errors import DirectoryInUse
from vatt.retrieval.claims import claim_part, is_being_written
from vatt.retrieval.embedder import Embedder
from vatt.retrieval.embeddings import embed
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.store import missing_shards, write_shard
from vatt.retrieval.tables import StoreError

pytest.importorskip("faiss")
from vatt.retrieval.index import Index

PLAN = {"model": "m", "files": "a", "shards": 4}
HOLD = """
import sys, time
{code}
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(code: str) -> Iterator[subprocess.Popen]:
    """Run another process that holds a lock."""
    command = [sys.executable, "-c", HOLD.format(code=code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def part(folder: Path, number: int, parts: int, files: str = "a") -> str:
    plan = PLAN | {"files": files}
    return (
        "from vatt.retrieval.claims import claim_part\n"
        f"lock = claim_part({str(folder)!r}, ({number}, {parts}), {plan!r}, {{}})"
    )


def test_only_parts_of_the_same_division_are_written_concurrently(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with holding(part(folder, 3, 8)) as process:
        other = claim_part(folder, (4, 8), PLAN, {})  # at the same time
        for wrong in ((3, 8), (1, 1), (1, 4)):
            with pytest.raises(DirectoryInUse, match="another process is writing to"):
                claim_part(folder, wrong, PLAN, {})
        with pytest.raises(DirectoryInUse, match=r"writing other embeddings to .* \(files differ\)"):
            claim_part(folder, (5, 8), PLAN | {"files": "b"}, {})
        other.release()
        process.send_signal(signal.SIGKILL)
        process.wait()
        claim_part(folder, (3, 8), PLAN, {}).release()  # the lock of a killed process is free
        claim_part(folder, (1, 1), PLAN, {}).release()
        claim_part(folder, (1, 1), PLAN | {"files": "b"}, {}).release()  # nothing was written


def test_parts_that_start_simultaneously_get_their_locks(tmp_path: Path) -> None:
    """Threads hold separate locks, like processes."""

    def start(number: int) -> bool:
        with claim_part(tmp_path / "out", (number, 8), PLAN, {}):
            time.sleep(0.2)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(start, range(1, 9)))
    shard = [row("v", "video", "video_text", [1.0, 0.0])]
    write_shard(tmp_path / "out", "m", shard)
    assert missing_shards(tmp_path / "out", 4) == [1, 2, 3]


def test_reading_unfinished_embeddings_is_refused(tmp_path: Path) -> None:
    with holding(part(tmp_path, 1, 1)):
        write_shard(tmp_path, "m", [row("v", "video", "video_text", [1.0, 0.0])])
        assert is_being_written(tmp_path)
        with pytest.raises(DirectoryInUse, match="is being written by another process"):
            Index.build([tmp_path])
    assert not is_being_written(tmp_path)
    with pytest.raises(StoreError, match=r"is incomplete \(1 of 4 shards\)"):
        Index.build([tmp_path])


def test_second_source_for_one_directory_is_refused(
    model_folder: Path, video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one starts while the first one writes its shard."""
    for name in ("many", "other"):
        (tmp_path / f"{name}.csv").write_text(f"path,id\n{video_file},{name}\n")
    write, refused = Embedder.write, []

    def slow(self: Embedder, shard: int) -> None:
        for overwrite in (False, True):
            with pytest.raises(DirectoryInUse) as caught:
                embed(tmp_path / "other.csv", model_folder, tmp_path / "out", num_workers=0, overwrite=overwrite)
            refused.append(str(caught.value))
        write(self, shard)

    monkeypatch.setattr(Embedder, "write", slow)
    report = embed(tmp_path / "many.csv", model_folder, tmp_path / "out", num_workers=0)
    assert len(refused) == 2
    assert report.embedded == 1
    assert set(Embeddings(tmp_path / "out").table["id"].to_pylist()) == {"many"}
    monkeypatch.undo()
    with pytest.raises(StoreError, match="has other embeddings"):
        embed(tmp_path / "other.csv", model_folder, tmp_path / "out", num_workers=0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".claim.lock",
        "embeddings.json",
        "embeddings.parquet",
        "errors.parquet",
        "pooled.parquet",
    }


def store(folder: Path, name: str) -> Path:
    x = np.random.default_rng(len(name)).normal(size=(5, 4))
    write_shard(folder / name, "m", [row(f"{name}{i}", "video", "video_text", x[i]) for i in range(5)])
    return folder / name


def test_an_index_is_changed_by_one_process_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "index"
    Index.build([store(tmp_path, "a")]).save(index)
    with holding(f"from vatt.locks import DirectoryLock\nlock = DirectoryLock({str(index)!r}).acquire()"):
        for argv in (
            [str(store(tmp_path, "bb")), "--add", "true"],
            [str(index), "--remove", "*"],
            [str(index), "--compact", "true"],
            [str(tmp_path / "bb")],
        ):
            assert main(["index", *argv, "--output", str(index)]) == 2
            assert f"another process is writing to {index}" in capsys.readouterr().err
        assert len(Index.load(index)) == 5  # reading is still possible
        with pytest.raises(DirectoryInUse):
            Index.build([tmp_path / "bb"]).save(index)
    assert main(["index", str(tmp_path / "bb"), "--add", "true", "--output", str(index)]) == 0
    assert len(Index.load(index)) == 10


def test_an_index_that_was_changed_after_it_was_read_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Index.build([store(tmp_path, "a")]).save(folder)
    first, second = (Index.load(folder, mapped=False) for _ in range(2))
    first.add([store(tmp_path, "bb")])
    second.add([store(tmp_path, "ccc")])
    first.save(folder)
    with pytest.raises(DirectoryInUse, match="was changed by another process after it was loaded: load it again"):
        second.save(folder)
    second.save(tmp_path / "elsewhere")
    assert {hit.id[0] for hit in Index.load(folder).search(np.eye(1, 4, dtype=np.float32), "m", 20)[0]} == {"a", "b"}
    first.remove("a*")
    first.save(folder)  # its own last state
    assert len(Index.load(folder)) == 5
    Index.build([tmp_path / "ccc"]).save(folder)  # replaces it
    assert len(Index.load(folder)) == 5


def test_several_adds_at_once_lose_nothing(tmp_path: Path) -> None:
    index, names = tmp_path / "index", ["b", "cc", "ddd", "eeee"]
    Index.build([store(tmp_path, "a")]).save(index)
    sources = [str(store(tmp_path, name)) for name in names]
    with ThreadPoolExecutor(4) as pool:
        argv = (["index", source, "--add", "true", "--output", str(index)] for source in sources)
        statuses = list(pool.map(main, argv))
    assert set(statuses) <= {0, 2}
    assert 0 in statuses
    assert len(Index.load(index)) == 5 + 5 * statuses.count(0)
    names = {path.name for path in index.iterdir()}
    record = json.loads((index / "index.json").read_text())
    assert names == {".lock", "index.json", *record["parts"][0]["files"]}
