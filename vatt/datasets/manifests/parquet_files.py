"""Rows of Parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

from vatt.datasets.manifests.reading import BLOCK_ROWS, Block, Report, check_columns
from vatt.errors import ManifestError
from vatt.media.sources.files import open_source

INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?")  # of pandas


def read_parquet(source: str, report: Report) -> Iterator[Block]:
    """Yield blocks of rows.

    Args:
        source: Path or URL.
        report: Report to which counts are added.

    Raises:
        ManifestError: The file is not Parquet, or a column is unknown or occurs twice.
    """
    import pyarrow.parquet as pq

    report.unit = "row"
    try:
        with open_source(source, "rb") as file:
            # Threads of Arrow that read from a Python file can abort the interpreter at exit.
            parquet = pq.ParquetFile(file, pre_buffer=False)
            names = parquet.schema_arrow.names
            index = [name for name in names if INDEX.fullmatch(name)]
            check_columns([name for name in names if name not in index], source, "row 1")
            for name in index:
                report.count(
                    f"values of column {name!r} are ignored as the row index of pandas",
                    1,
                    times=parquet.metadata.num_rows,
                )
            row = 1
            for batch in parquet.iter_batches(BLOCK_ROWS, use_threads=False):
                _check_text(batch, source)
                yield _block(batch, row, index)
                row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ManifestError(f"{source}: not a readable .parquet file: {error}") from error


def _check_text(batch: pa.RecordBatch, source: str) -> None:
    """Check that strings are UTF-8, which not all programs ensure."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ManifestError(f"{source}, column {name!r}: {error}") from None


def _block(batch: pa.RecordBatch, first: int, index: list[str]) -> Block:
    own = [name for name in batch.schema.names if name.startswith("x_")]
    columns = {name: batch.column(name) for name in batch.schema.names if name not in own and name not in index}
    return Block([*range(first, first + batch.num_rows)], columns, batch.select(own).to_pylist() if own else [])
