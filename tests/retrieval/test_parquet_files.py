from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.retrieval.parquet_files import VALUE_BYTES, ParquetDamaged, expanded_bytes

TABLES = {
    "numbers": pa.table({"a": np.arange(50_000), "b": np.random.default_rng(0).random(50_000)}),
    "texts": pa.table({"a": [f"text {i % 50}" for i in range(20_000)], "b": [None, "x"] * 10_000}),
    "vectors": pa.table({"v": pa.array(list(np.random.default_rng(0).random((500, 32))), pa.list_(pa.float32()))}),
    "nothing": pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())}),
    "nulls": pa.table({"a": pa.nulls(100), "b": pa.nulls(100, pa.list_(pa.string()))}),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "write_page_checksum": True},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"row_group_size": 1000, "data_page_size": 1000, "write_page_index": True},
    ],
    ids=range(3),
)
def test_expanded_size_matches_pyarrow(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """Compare with the sizes that PyArrow reports, which exclude the values of dictionaries."""
    path = tmp_path / "a.parquet"
    pq.write_table(TABLES[name], path, **options)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(metadata.num_columns)]
    least = sum(VALUE_BYTES * column.num_values + column.total_uncompressed_size for column in columns)
    headers = 300 * len(columns) + 0.2 * least  # of pages, which count as uncompressed there
    assert least - headers <= expanded_bytes(path) <= 1.9 * least + headers


def test_expanded_size_is_computed_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"v": pa.array([[1.0] * 10**6] * 200, pa.list_(pa.float32()))}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    assert expanded_bytes(path) > 200 * 10**6 * VALUE_BYTES


def test_invalid_parquet_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLES["texts"], path)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    for data in (
        b"",
        b"PAR1PAR1",
        b"PARE" + content[4:],
        content[:-1],
        content[: len(content) // 2] + content[-8:],
        content[:-8] + (2**31).to_bytes(4, "little") + b"PAR1",
        content[: -8 - footer] + b"\x1c" * footer + content[-8:],  # structs in structs
        content[: -8 - footer] + b"\xff" * footer + content[-8:],
        content[: -8 - footer] + b"\x19\xfc\xff\xff\xff\xff\x0f" + bytes(footer - 7) + content[-8:],  # a long list
    ):
        path.write_bytes(data)
        with pytest.raises(ParquetDamaged):
            expanded_bytes(path)
