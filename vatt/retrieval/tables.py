"""Parquet tables of rows, read without trusting them.

Embeddings and indexes may be untrusted, and users write their own Parquet files with the documented columns. Columns
are cast to the documented types. Files that would expand to far more than their size, and unusable values, raise an
error that names file, row and column.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vatt.errors import VattError
from vatt.models.vatt import SPACES
from vatt.retrieval.parquet_files import expanded_bytes
from vatt.structures import MODALITIES

# A file may expand to this many bytes plus this many times its own size.
FREE_BYTES, MOST_TIMES = 2**28, 1000
MAX_LENGTH = {"id": 4096, "path": 8192, "text": 2**16, "extra": 2**20, "model": 256}  # bytes of a value
MAX_SECONDS = 1e8
OPTIONAL = ("clip_end_s", "text", "extra")  # columns that may be missing or have nulls
MAX_WIDTH = 2**16  # dimensions of a vector
MAX_VALUE = 1e18  # its square does not overflow float32


class StoreError(VattError, ValueError):
    """Embeddings or an index that are missing, damaged, or of several models."""


def read_rows(file: Path, schema: pa.Schema, optional: Collection[str] = OPTIONAL) -> pa.Table:
    """Read a Parquet file with rows of vectors, and check every value.

    Args:
        file: Parquet file.
        schema: Columns and types to return; other columns are ignored.
        optional: Columns that may be missing or have nulls; a missing column is filled with nulls.

    Raises:
        StoreError: The file is damaged, expands to too much, lacks a column, or has an unusable value.
    """
    table = read_table(file, schema, optional)
    check_rows(table, str(file), optional)
    return table


def read_table(file: Path, schema: pa.Schema, optional: Collection[str] = ()) -> pa.Table:
    """Read the columns of a schema from a Parquet file, cast to their types. Raises like `read_rows`.

    Args:
        file: Parquet file.
        schema: Columns and types to return.
        optional: Columns that may be missing.
    """
    try:
        _check_size(expanded_bytes(file), file)
        with pq.ParquetFile(file) as parquet:
            names, leaves = parquet.schema_arrow.names, [column.path for column in parquet.schema]
        for name in schema.names:
            if names.count(name) != 1 and not (name in optional and name not in names):
                older = "; add it, or embed again if an older version wrote the file" if name == "clip_start_s" else ""
                raise StoreError(f"{file} has {'two columns' if name in names else 'no column'} {name!r}{older}")
        # Dictionaries are kept until the decoded size of the column is known.
        texts = [field.name for field in schema if pa.types.is_string(field.type) and field.name in leaves]
        with pq.ParquetFile(file, read_dictionary=texts, page_checksum_verification=True) as parquet:
            table = parquet.read([name for name in schema.names if name in names])
        table.validate(full=True)
        _check_strings(table, file)
        return _cast(table, schema, file)
    except StoreError:
        raise
    except Exception as error:  # any parse error: names that are not UTF-8, unknown types, …
        raise StoreError(f"{file} is damaged or has no embeddings: {_first_line(error)}") from error


def check_rows(table: pa.Table, name: str, optional: Collection[str] = OPTIONAL) -> None:
    """Check the values of rows, as far as the table has the columns.

    Args:
        table: Columns of `vatt.retrieval.store.SCHEMA`.
        name: File, for messages.
        optional: Columns that may have nulls.

    Raises:
        StoreError: A value is unusable; the message names row and column.
    """

    def check(column: str, wrong: pa.Array | pa.ChunkedArray | np.ndarray, reason: str) -> None:
        rows = np.flatnonzero(np.asarray(wrong))
        if len(rows):
            raise StoreError(f"{name}, row {rows[0]}, column {column!r}: {reason}")

    for column in table.column_names:
        values = table.column(column)
        if column not in optional:
            check(column, pc.is_null(values), "missing value")
        if column in MAX_LENGTH:
            long = pc.greater(pc.binary_length(values), MAX_LENGTH[column])
            check(column, pc.fill_null(long, False), f"the value has more than {MAX_LENGTH[column]:,} bytes")
            check(column, pc.fill_null(pc.match_substring(values, "\0"), False), "the value has a NUL character")
    for column, known in (("modality", MODALITIES), ("space", tuple(SPACES))):
        if column in table.column_names:
            unknown = pc.invert(pc.is_in(table.column(column), pa.array(known)))
            check(column, unknown, f"must be one of {', '.join(known)}")
    for prefix in ("", "clip_"):
        start_s, end_s = (table.column(f"{prefix}{column}") for column in ("start_s", "end_s"))
        start_s, end_s = start_s.to_numpy(), pc.fill_null(end_s, MAX_SECONDS).to_numpy()
        for column, seconds in ((f"{prefix}start_s", start_s), (f"{prefix}end_s", end_s)):
            wrong = ~((seconds >= 0) & (seconds <= MAX_SECONDS))
            check(column, wrong, f"seconds must be between 0 and {MAX_SECONDS:g}")
        check(f"{prefix}end_s", end_s < start_s, "the segment ends before it starts")
    if "vector" in table.column_names and pa.types.is_list(table.schema.field("vector").type):
        for reason, wrong in _wrong_vectors(table.column("vector")):
            check("vector", wrong, reason)


def _wrong_vectors(column: pa.ChunkedArray) -> list[tuple[str, np.ndarray]]:
    """Return reasons, and for each of them the rows (N,) bool that it applies to."""
    lengths = pc.list_value_length(column).to_numpy()
    unusable = []
    for chunk in column.chunks:
        ends = np.cumsum(pc.list_value_length(chunk).to_numpy())
        bad = np.flatnonzero(~(np.abs(chunk.flatten().to_numpy(zero_copy_only=False)) < MAX_VALUE))
        unusable.append(np.isin(np.arange(len(chunk)), np.searchsorted(ends, bad, side="right")))
    return [
        (f"a vector must have 1 to {MAX_WIDTH} dimensions", (lengths < 1) | (lengths > MAX_WIDTH)),
        (f"every number must be finite and below {MAX_VALUE:g}", np.concatenate([*unusable, np.zeros(0, bool)])),
    ]


def _check_strings(table: pa.Table, file: Path) -> None:
    """Check that dictionary columns do not expand to too much when they are decoded."""
    needed = 0
    for chunk in (chunk for column in table.columns for chunk in column.chunks):
        if pa.types.is_dictionary(chunk.type):
            lengths = pc.fill_null(pc.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False)
            used = np.bincount(chunk.indices.drop_null().to_numpy(), minlength=len(lengths))
            needed += int(used @ lengths.astype(np.int64))
    _check_size(needed, file)


def _check_size(needed: int, file: Path) -> None:
    size = file.stat().st_size
    if needed > FREE_BYTES + MOST_TIMES * size:
        raise StoreError(f"{file} has {size:,} bytes and would expand to {needed:,} bytes in memory; refused")


def _cast(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
            continue
        try:
            columns.append(table.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            kind = str(table.schema.field(field.name).type)[:80]
            raise StoreError(f"{file}, column {field.name!r}: the type is {kind}, not {field.type}") from error
    return pa.table(columns, schema=schema)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
