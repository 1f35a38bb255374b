"""Untrusted indexes and embeddings: damage is reported in one clear error."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("faiss")
import faiss

from tests.conftest import ROOT
from tests.evaluation.test_protocols import row
from tests.retrieval.hostile import (
    COUNT,
    WIDTH,
    file_of,
    foreign_structures,
    graph_changes,
    make_index,
    put,
    record,
    sign,
    table_changes,
    with_lists_elsewhere,
    write_rows,
    wrong_values,
)
from vatt.retrieval.faiss_files import FileMismatch, check_graph
from vatt.retrieval.index import Index
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.store import read_notes, write_shard
from vatt.retrieval.tables import StoreError

QUERY = np.eye(1, WIDTH, dtype=np.float32)


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivfpq"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def good(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("good"), kind)


@pytest.fixture
def index(good: Path, tmp_path: Path) -> Path:
    """A copy of the index that records the media paths of the original."""
    shutil.copytree(good, tmp_path / "index")
    return tmp_path / "index"


def refused(folder: Path, match: str | None = None) -> None:
    """Check that loading or searching raises one short error that names the directory."""
    for mapped in (True, False):
        for verify in (True, False):
            with pytest.raises(StoreError, match=match) as caught:
                Index.load(folder, mapped, verify).search(QUERY, "m", 5, where="x_a=1" if match == "extra" else None)
            assert len(str(caught.value)) < 1200
            assert str(folder) in str(caught.value) or match == "extra"


def test_every_value_of_index_json_is_checked(index: Path) -> None:
    content = json.loads((index / "index.json").read_text())
    changes = list(wrong_values(content))
    assert len(changes) > 150
    loaded = []
    for path, value in changes:
        values = json.loads(json.dumps(content))
        put(values, path, value)
        (index / "index.json").write_text(json.dumps(values))
        try:
            changed = Index.load(index)
        except StoreError:
            continue
        loaded.append(path)
        changed.search(QUERY, changed.model, 5)
    # These are other valid values: a number, the name of a measure or a model, no model.
    assert set(loaded) <= {("number",), ("measure",), ("model",), ("model_folder",)}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"version": ' + b"9" * 10_000 + b"}",
        b'{"version": 3, "model": "\\ud800"}',
        b" " * 2_000_000 + b"{}",
    ],
    ids=range(9),
)
def test_invalid_index_json_is_refused(index: Path, text: bytes) -> None:
    (index / "index.json").write_bytes(text)
    refused(index, "index.json is damaged|index.json has more than|another version")


def test_files_outside_the_directory_are_not_read(index: Path, tmp_path: Path) -> None:
    rows = file_of(index, "parquet")
    for name in (f"../{rows.name}", str(rows), f"video/{rows.name}", ".", "", rows.name + "\0"):
        shutil.copy(rows, tmp_path / rows.name)
        text = (index / "index.json").read_text()
        record(index, lambda values: _rename(values, rows.name, name))  # noqa: B023
        refused(index, "index.json is damaged: .* is not a file of an index")
        (index / "index.json").write_text(text)
    for path in (rows, file_of(index, "faiss"), index / "index.json"):
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        refused(index, "is a link to .*elsewhere, outside its directory")
        path.unlink()
        os.mkfifo(path)
        refused(index)
        path.unlink()
        (tmp_path / "elsewhere").rename(path)
    Index.load(index)


def _rename(values: dict[str, Any], old: str, new: str) -> None:
    for part in values["parts"]:
        part["files"] = {new if name == old else name: facts for name, facts in part["files"].items()}


def test_changed_bytes_are_detected_by_checksums(index: Path) -> None:
    for path in sorted(index.glob("video.*")):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match=rf"the SHA-256 of {path.name} differs from index.json"):
            Index.load(index)
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    Index.load(index)


def test_truncated_or_extended_files_are_refused(index: Path, kind: str) -> None:
    for path in [file_of(index, "faiss"), *([] if kind == "flat" else [file_of(index, kind)])]:
        content = path.read_bytes()
        for size in (0, 3, 20, 44, 45, 46, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            sign(index)
            refused(index, "is missing or damaged")
        path.write_bytes(content + b"\0")
        sign(index)
        refused(index, "is missing or damaged")
        path.write_bytes(content)
        sign(index)
    Index.load(index)


@pytest.mark.parametrize("name", foreign_structures())
def test_other_structures_of_faiss_are_refused(index: Path, kind: str, name: str) -> None:
    structure = foreign_structures()[name]
    for path in [file_of(index, "faiss"), *([] if kind == "flat" else [file_of(index, kind)])]:
        content = path.read_bytes()
        faiss.write_index(structure, str(path))
        sign(index)
        refused(index, "is missing or damaged|there are 299")
        path.write_bytes(content)


def test_clusters_with_lists_in_another_file_are_refused(tmp_path: Path) -> None:
    """FAISS would map the other file, and crash if it is gone."""
    folder = make_index(tmp_path, "ivfpq")
    with_lists_elsewhere(folder, tmp_path / "lists")
    refused(folder, "lists have type b'ilod' and are not in this file")


def test_clusters_with_invalid_ids_are_refused(tmp_path: Path) -> None:
    folder = make_index(tmp_path, "ivfpq")
    path = file_of(folder, "ivfpq")
    data = bytearray(path.read_bytes())
    data[-8:] = (COUNT + 10**6).to_bytes(8, "little")  # the last number of the last list
    path.write_bytes(data)
    sign(folder)
    refused(folder, r"a list has vector ids outside \[0, 300\)")


@pytest.mark.parametrize("name", graph_changes())
def test_graphs_with_out_of_range_numbers_are_refused(tmp_path: Path, name: str) -> None:
    folder = make_index(tmp_path, "hnsw")
    path = file_of(folder, "hnsw")
    graph = faiss.read_index(str(path), faiss.IO_FLAG_SKIP_STORAGE)
    graph_changes()[name](graph.hnsw)
    faiss.write_index(graph, str(path), faiss.IO_FLAG_SKIP_STORAGE)
    sign(folder)
    refused(folder, "is missing or damaged: .*(graph|HNSW)")
    with pytest.raises(FileMismatch, match="graph"):  # FAISS also checks some of them, but not in all versions
        check_graph(graph.hnsw, COUNT)


@pytest.mark.parametrize("name", table_changes())
def test_unusable_rows_are_refused(index: Path, name: str) -> None:
    table = table_changes()[name](pq.read_table(file_of(index, "parquet")))
    write_rows(index, table)
    refused(index, "parquet")


def test_expanding_rows_are_refused_without_allocating_them(index: Path) -> None:
    count = 3_000_000
    zeros = pa.array(np.zeros(count, np.int32))
    texts = {name: pa.DictionaryArray.from_arrays(zeros, pa.array([name * 1000])) for name in ("id", "path", "text")}
    seconds = {name: np.zeros(count) for name in ("start_s", "end_s", "clip_start_s")}
    extra = pa.DictionaryArray.from_arrays(zeros, pa.array(["{}"]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_rows(index, pa.table({**texts, **seconds, "extra": extra, "kept": np.ones(count, bool)}))
    refused(index, "would expand to")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_vectors_without_unit_length_are_refused(index: Path) -> None:
    path = file_of(index, "faiss")
    content = path.read_bytes()
    for value in (np.float32("nan"), np.float32("inf"), np.float32(1e20), np.float32(3)):
        path.write_bytes(content[:-4] + value.tobytes())
        sign(index)
        with pytest.raises(StoreError, match="vector 299 does not have length 1"):
            Index.load(index)


@pytest.mark.parametrize("extra", ["[1]", "{", "x", '"a"', "[" * 10_000, '{"x_a": '])
def test_extra_must_be_a_json_object(index: Path, extra: str) -> None:
    table = pq.read_table(file_of(index, "parquet"))
    words = pa.array([extra] * len(table), pa.string())
    write_rows(index, table.set_column(table.schema.get_field_index("extra"), "extra", words))
    refused(index, "extra")


FUZZ = """
import sys, random, resource
import numpy as np
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.retrieval.hostile import file_of, sign
from vatt.retrieval.faiss_files import FileMismatch, check_graph
from vatt.retrieval.index import Index
from vatt.retrieval.tables import StoreError
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
folder, rng, counts = Path(sys.argv[1]), random.Random(0), [0, 0]
for suffix, *numbers in map(str.split, sys.argv[2:]):
    first, last, step = map(int, numbers)
    path = file_of(folder, suffix)
    content = path.read_bytes()
    last = min(last, len(content))
    for number in range(first, last, step):
        at = number if step < 4 else rng.randrange(first, last)
        for value in {{(content[at] + 1) % 256, 255 - content[at], 0, 127, 255}} - {{content[at]}}:
            data = bytearray(content)
            data[at] = value
            path.write_bytes(data)
            sign(folder)
            print(suffix, at, value, flush=True)
            try:
                index = Index.load(folder, verify=False)
                index.search(np.eye(1, {width}, dtype=np.float32), "m", 5)
                counts[0] += 1
            except StoreError:
                counts[1] += 1
    path.write_bytes(content)
print("done", *counts)
"""


def fuzz(folder: Path, *ranges: str) -> tuple[int, int]:
    """Change single bytes of files, and count how often the index was searched, and how often refused.

    Args:
        folder: Directory of the index.
        ranges: Suffix of a file, first byte, last byte, and step.
    """
    code = FUZZ.format(root=str(ROOT), width=WIDTH)
    argv = [sys.executable, "-c", code, str(folder), *ranges]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert done.returncode == 0, f"after byte {done.stdout.splitlines()[-1:]}: {done.stderr[-800:]}"
    _, searched, wrong = done.stdout.splitlines()[-1].split()
    return int(searched), int(wrong)


def test_changed_header_bytes_are_refused_or_unused(index: Path, kind: str) -> None:
    """Checksums, which would detect all changes, are not verified."""
    searched, wrong = fuzz(index, f"{'faiss' if kind == 'flat' else kind} 0 45 3")
    assert wrong > searched > 0  # 16 bytes are not used


@pytest.mark.slow
def test_changed_bytes_do_not_crash_the_search(index: Path, kind: str) -> None:
    suffix = "faiss" if kind == "flat" else kind
    body = f"{suffix} 300 1000000000 {6000 if kind == 'hnsw' else 600}"
    assert sum(fuzz(index, f"{suffix} 0 300 4", body, "parquet 0 1000000000 120")) > 300


def own(folder: Path, **columns: Any) -> Path:
    """Write embeddings like a user: one Parquet file."""
    usual = {
        "id": ["a", "b"],
        "path": ["/media/a.mp4", "clips/b.mp4"],
        "start_s": [0.0, 1.0],
        "end_s": [1.0, 2.5],
        "clip_start_s": [0.0, 0.0],
        "modality": ["video", "video"],
        "space": ["video_text", "video_text"],
        "vector": [[1.0, 0.0], [0.0, 1.0]],
        "model": ["m", "m"],
    }
    folder.mkdir(exist_ok=True)
    table = pa.table({name: values for name, values in (usual | columns).items() if values is not None})
    pq.write_table(table, folder / "mine.parquet")
    return folder / "mine.parquet"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"id": [1, 2], "start_s": [0, 1], "end_s": [1, 2]},
        {"vector": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float64(), 2))},
        {"vector": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.large_list(pa.float32()))},
        {"modality": pa.array(["video", "video"]).dictionary_encode(), "text": [None, None]},
        {"id": pa.array(["a", "b"], pa.large_string()), "extra": ['{"x_a": 1}', None], "x_mine": [1, 2]},
    ],
    ids=range(6),
)
def test_user_written_parquet_is_read(tmp_path: Path, columns: dict[str, Any]) -> None:
    index = Index.build([own(tmp_path / "own", **columns)])
    hits = index.search(np.array([[0.0, 2.0]], np.float32), "m")[0]
    assert [hit.score for hit in hits] == [1.0, 0.0]
    assert [hit.path for hit in hits] == [str(tmp_path / "own" / "clips" / "b.mp4"), "/media/a.mp4"]
    assert index.roots == tuple(sorted(["/media", str(tmp_path / "own" / "clips")]))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"vector": [[1.0, 0.0], [np.nan, 1.0]]}, "row 1, column 'vector': every number must be finite"),
        ({"vector": [[1.0, 0.0], [1.0, None]]}, "row 1, column 'vector': every number must be finite"),
        ({"vector": [[1.0, 0.0], [1e30, 1.0]]}, "row 1, column 'vector': every number must be finite and below"),
        ({"vector": [[1.0, 0.0], []]}, "row 1, column 'vector': a vector must have 1 to"),
        ({"vector": [[1.0, 0.0], None]}, "row 1, column 'vector': missing value"),
        ({"vector": ["a", "b"]}, "column 'vector': the type is .*string.*, not list"),
        ({"vector": [{"x": 1.0}, {"x": 2.0}]}, "column 'vector': the type is struct"),
        ({"model": None}, "has no column 'model'"),
        ({"clip_start_s": None}, "has no column 'clip_start_s'; add it, or embed again if an older version wrote"),
        (
            {"clip_end_s": [0.0, None], "clip_start_s": [1.0, 0.0]},
            "row 0, column 'clip_end_s': the segment ends before",
        ),
        ({"modality": ["video", "smell"]}, "row 1, column 'modality': must be one of video, audio, text"),
        ({"space": ["video_text", "space"]}, "row 1, column 'space': must be one of"),
        ({"start_s": [0.0, np.nan]}, "row 1, column 'start_s': seconds must be between 0"),
        ({"end_s": [1.0, 0.5]}, "row 1, column 'end_s': the segment ends before it starts"),
        ({"id": ["a", "i" * 10**6]}, "row 1, column 'id': the value has more than 4,096 bytes"),
        ({"path": ["/a", None]}, "row 1, column 'path': missing value"),
    ],
    ids=range(16),
)
def test_invalid_user_written_parquet_is_reported(tmp_path: Path, columns: dict[str, Any], match: str) -> None:
    with pytest.raises(StoreError, match=rf"mine.parquet.*{match}"):
        Index.build([own(tmp_path / "own", **columns)])


def test_embeddings_json_is_checked(tmp_path: Path) -> None:
    write_shard(tmp_path, "m", [row("v", "video", "video_text", [1.0, 0.0])])
    notes = {"plan": {"shards": 1}, "complete": True, "roots": [str(tmp_path)], "folder": str(tmp_path), "model": "m"}
    notes["model_folder"] = "/models/m"
    (tmp_path / "embeddings.json").write_text(json.dumps(notes))
    assert Index.build([tmp_path]).roots == (str(tmp_path),)
    for path, value in wrong_values(notes):
        values = json.loads(json.dumps(notes))
        put(values, path, value)
        (tmp_path / "embeddings.json").write_text(json.dumps(values))
        with contextlib.suppress(StoreError):
            Index.build([tmp_path]).search(np.ones((1, 2), np.float32), "m")
    for text in (b"{", b"[]", b"\xff", b"[" * 100_000, b'{"complete": 3}', b'{"roots": ["/a/../b"]}'):
        (tmp_path / "embeddings.json").write_bytes(text)
        with pytest.raises(StoreError, match=r"embeddings.json is damaged"):
            read_notes(tmp_path)
        with pytest.raises(StoreError, match=r"embeddings.json is damaged"):
            Embeddings(tmp_path)


def test_embeddings_are_read_from_their_own_directory(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        write_shard(tmp_path / name, "m", [row("v", "video", "video_text", [1.0, 0.0])])
    shard = tmp_path / "mine" / "embeddings.parquet" / "00000.parquet"
    shard.unlink()
    shard.symlink_to(tmp_path / "theirs" / "embeddings.parquet" / "00000.parquet")
    with pytest.raises(StoreError, match=r"is a link to .*theirs.*, outside its directory"):
        Embeddings(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "embeddings.parquet")
    (tmp_path / "mine" / "embeddings.parquet").symlink_to(tmp_path / "theirs" / "embeddings.parquet")
    with pytest.raises(StoreError, match=r"is a link to .*theirs"):
        Embeddings(tmp_path / "mine")


def test_media_outside_the_embedded_directories_are_refused(tmp_path: Path) -> None:
    rows = [row(f"v{i}", "video", "video_text", [1.0, i]) | {"path": str(tmp_path / f"{i}.mp4")} for i in range(3)]
    notes = {"folder": str(tmp_path), "roots": [str(tmp_path)]}
    for outside in (
        "/etc/passwd",
        str(tmp_path / ".." / "x.mp4"),
        "https://example.org/x.mp4",
        str(tmp_path) + "x/y.mp4",
    ):
        rows[1]["path"] = outside
        write_shard(tmp_path, "m", rows)
        (tmp_path / "embeddings.json").write_text(json.dumps(notes))
        with pytest.raises(StoreError, match=r"00000.parquet, row 1: .* lies outside the embedded directories"):
            Index.build([tmp_path])
