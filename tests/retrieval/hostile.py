"""Damaged and malicious indexes, made by changing a valid one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.evaluation.test_protocols import row
from vatt.io import file_hash
from vatt.retrieval.index import Index
from vatt.retrieval.store import write_shard

COUNT, WIDTH = 300, 8


def make_index(folder: Path, kind: str) -> Path:
    """Build an index of 300 videos with distinct vectors, and return its directory."""
    x = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
    write_shard(folder / "embeddings", "m", [row(f"v{i}", "video", "video_text", x[i]) for i in range(COUNT)])
    Index.build([folder / "embeddings"], kind).save(folder / kind)
    return folder / kind


def record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change index.json."""
    values = json.loads((folder / "index.json").read_text())
    change(values)
    (folder / "index.json").write_text(json.dumps(values))


def file_of(folder: Path, suffix: str) -> Path:
    return next(folder.glob(f"video.*.{suffix}"))


def sign(folder: Path) -> None:
    """Update the sizes and hashes in index.json to those of the files."""

    def change(values: dict[str, Any]) -> None:
        for part in values["parts"]:
            part["files"] = {n: [(folder / n).stat().st_size, file_hash(folder / n)] for n in part["files"]}

    record(folder, change)


def wrong_values(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield every path in a JSON object with values of wrong types and absurd values."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        for other in (None, True, -1, 2**70, 1.5, "x" * 3, "../..", [], [[]], {}, {"a": 1}):
            if type(other) is not type(value) or isinstance(value, (str, int, bool)):
                yield (*path, key), other
        yield from wrong_values(value, (*path, key))


def put(values: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


def foreign_structures() -> dict[str, Any]:
    """Return FAISS structures that an index does not use, or that have other sizes."""
    x = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def filled(structure: Any) -> Any:
        structure.train(x)
        structure.add(x)
        return structure

    quantizer = faiss.IndexFlatIP(WIDTH)
    structures = {
        "l2": filled(faiss.IndexFlatL2(WIDTH)),
        "id map": faiss.IndexIDMap2(quantizer),
        "transform": filled(faiss.index_factory(WIDTH, "PCA4,Flat", faiss.METRIC_INNER_PRODUCT)),
        "lsh": filled(faiss.IndexLSH(WIDTH, 8)),
        "clusters": filled(faiss.index_factory(WIDTH, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)),
        "graph with vectors": filled(faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)),
        "graph by l2": filled(faiss.IndexHNSWFlat(WIDTH, 32)),
        "graph of scalars": filled(faiss.index_factory(WIDTH, "HNSW32_SQ8", faiss.METRIC_INNER_PRODUCT)),
        "refined": filled(faiss.index_factory(WIDTH, "IVF4,PQ4x4,RFlat", faiss.METRIC_INNER_PRODUCT)),
        "shards": filled(faiss.index_factory(WIDTH, "IVF4,PQ4x4fs", faiss.METRIC_INNER_PRODUCT)),
        "fewer": faiss.IndexFlatIP(WIDTH),
        "narrower": faiss.IndexFlatIP(WIDTH // 2),
    }
    structures["fewer"].add(x[:-1])
    structures["narrower"].add(np.ascontiguousarray(x[:, : WIDTH // 2]))
    return structures


def with_lists_elsewhere(folder: Path, elsewhere: Path) -> None:
    """Store the lists of the clusters in another file, with FAISS's OnDiskInvertedLists."""
    path = file_of(folder, "ivfpq")
    index = faiss.read_index(str(path))
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(elsewhere))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists, False)
    faiss.write_index(index, str(path))
    sign(folder)


def graph_changes() -> dict[str, Callable[[Any], None]]:
    """Return changes of a graph that make its numbers point outside its arrays."""

    def array(name: str, position: int, value: int) -> Callable[[Any], None]:
        def change(graph: Any) -> None:
            vector = getattr(graph, name)
            values = faiss.vector_to_array(vector)
            values[position] = value
            faiss.copy_array_to_vector(values, vector)

        return change

    def number(name: str, value: int) -> Callable[[Any], None]:
        return lambda graph: setattr(graph, name, value)

    def neighbor_above(graph: Any) -> None:
        """Link a node of the second level to a node of the first level."""
        levels = faiss.vector_to_array(graph.levels)
        offsets = faiss.vector_to_array(graph.offsets)
        neighbors = faiss.vector_to_array(graph.neighbors)
        neighbors[int(offsets[int(np.argmax(levels > 1))]) + 64] = int(np.argmax(levels == 1))
        faiss.copy_array_to_vector(neighbors, graph.neighbors)

    return {
        "neighbor too large": array("neighbors", 3, COUNT),
        "neighbor huge": array("neighbors", 0, 2**31 - 1),
        "neighbor negative": array("neighbors", 0, -2),
        "neighbor of a higher level": neighbor_above,
        "level too large": array("levels", 5, 40),
        "level zero": array("levels", 5, 0),
        "level negative": array("levels", 5, -3),
        "offset": array("offsets", 7, 2**40),
        "offsets of levels": array("cum_nneighbor_per_level", 1, 2**20),
        "entry": number("entry_point", COUNT),
        "entry negative": number("entry_point", -5),
        "top level": number("max_level", 30),
        "top level negative": number("max_level", -1),
    }


def table_changes() -> dict[str, Callable[[pa.Table], pa.Table]]:
    """Return changes that make rows unusable."""

    def column(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            new = values(len(table)) if callable(values) else values
            return table.set_column(table.schema.get_field_index(name), name, new)

        return change

    def cell(name: str, value: Any, row: int = 7) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            values = table.column(name).to_pylist()
            values[row] = value
            field = table.schema.field(name)
            return table.set_column(table.schema.get_field_index(name), field, [pa.array(values, field.type)])

        return change

    def not_utf8(table: pa.Table) -> pa.Table:
        offsets = pa.array(range(len(table) + 1), pa.int32()).buffers()[1]
        words = pa.StringArray.from_buffers(len(table), offsets, pa.py_buffer(b"\xff" * len(table)))
        return table.set_column(table.schema.get_field_index("id"), "id", words)

    def copied(table: pa.Table, name: str, size: int) -> pa.Table:
        words = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), pa.array(["b" * size]))
        return table.set_column(table.schema.get_field_index(name), name, words)

    return {
        "nan start": cell("start_s", float("nan")),
        "infinite end": cell("end_s", float("inf")),
        "negative start": cell("start_s", -1.0),
        "absurd end": cell("end_s", 1e300),
        "end before start": cell("start_s", 5.0),
        "no path": cell("path", None),
        "long id": cell("id", "i" * 2**20),
        "long path": cell("path", "/" + "p" * 2**20),
        "long text": cell("text", "t" * 2**20),
        "path with nul": cell("path", "/a\0b.mp4"),
        "path outside": cell("path", "/etc/passwd"),
        "path with dots": cell("path", "/a/../../etc/passwd"),
        "relative path": cell("path", "etc/passwd"),
        "url": cell("path", "https://example.org/a.mp4"),
        "not utf-8": not_utf8,
        "numbers for ids": column("id", lambda n: pa.array([[1]] * n)),
        "lists for ids": column("id", lambda n: pa.array([{"a": 1}] * n)),
        "no column": lambda table: table.drop_columns(["end_s"]),
        "two columns": lambda table: table.append_column("id", table.column("id")),
        "kept is a text": column("kept", lambda n: pa.array(["yes"] * n)),
        "fewer rows": lambda table: table.slice(1),
        "no rows": lambda table: table.slice(0, 0),
        "more rows": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        "vectors out of range": lambda table: table.append_column(
            "vector", pa.array(np.arange(len(table)) + 1)
        ).append_column("representative", pa.array(np.arange(len(table)))),
        "negative vectors": lambda table: table.append_column(
            "vector", pa.array(np.arange(len(table)) - 1)
        ).append_column("representative", pa.array(np.arange(len(table)))),
        "vectors without representatives": lambda table: table.append_column("vector", pa.array(np.arange(len(table)))),
        "representatives out of range": lambda table: table.append_column(
            "vector", pa.array(np.arange(len(table)))
        ).append_column("representative", pa.array(np.arange(len(table)) + 5)),
        "copies of a text": lambda table: copied(pa.concat_tables([table] * 100), "extra", 2**20 - 1),
    }


def write_rows(folder: Path, table: pa.Table) -> None:
    pq.write_table(table, file_of(folder, "parquet"), compression="zstd")
    sign(folder)
