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
def test_a_file_expands_to_its_pages_and_values(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    """Against what PyArrow says of a good file, which leaves out the values of dictionaries."""
    path = tmp_path / "a.parquet"
    pq.write_table(TABLES[name], path, **options)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(metadata.num_columns)]
    least = sum(VALUE_BYTES * column.num_values + column.total_uncompressed_size for column in columns)
    headers = 300 * len(columns) + 0.2 * least  # of pages, which count as uncompressed there
    assert least - headers <= expanded_bytes(path) <= 1.9 * least + headers


def test_what_expands_to_gigabytes_is_counted_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"v": pa.array([[1.0] * 10**6] * 200, pa.list_(pa.float32()))}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    assert expanded_bytes(path) > 200 * 10**6 * VALUE_BYTES


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLES["texts"], path)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for data in (
        b"",
        b"PAR1PAR1",
        b"PARE" + whole[4:],
        whole[:-1],
        whole[: len(whole) // 2] + whole[-8:],
        whole[:-8] + (2**31).to_bytes(4, "little") + b"PAR1",
        whole[: -8 - footer] + b"\x1c" * footer + whole[-8:],  # structs in structs
        whole[: -8 - footer] + b"\xff" * footer + whole[-8:],
        whole[: -8 - footer] + b"\x19\xfc\xff\xff\xff\xff\x0f" + bytes(footer - 7) + whole[-8:],  # a long list
    ):
        path.write_bytes(data)
        with pytest.raises(ParquetDamaged):
            expanded_bytes(path)
