"""The report of a scan: a CSV or Parquet file with a row a file, and the counts over all of them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from vatt.datasets.scan.file import FileFacts
from vatt.errors import InputError

KINDS = {"str": str, "int | None": int, "float | None": float, "bool | None": bool}
COLUMNS = {column.name: KINDS[str(column.type)] for column in fields(FileFacts)}
OFFSET_S = 0.025  # picture and sound that begin further apart are counted
SHOWN = 20  # files that the summary names
ROW_GROUP = 1000  # rows of a Parquet report that are held back to be written together


@dataclass
class ScanSummary:
    """What a scan found.

    Attributes:
        statuses: files of each status.
        duration_s: of all files together, as far as it is known.
        kinds: files with "picture and sound", "picture only", "sound only".
        silent: files whose sound is silence.
        codecs: files of each codec of the picture, and of the sound.
        variable_fps: videos without a constant frame rate.
        offset: files whose picture and sound begin more than 25 ms apart.
        duplicates: files that have the content of an earlier one.
        unusable: the first 20 files that are not "ok".
    """

    statuses: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    codecs: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    variable_fps: int = 0
    offset: int = 0
    duplicates: int = 0
    unusable: list[FileFacts] = field(default_factory=list)

    @property
    def files(self) -> int:
        """Files in the report."""
        return self.statuses.total()

    def add(self, facts: FileFacts) -> None:
        """Count a file."""
        self.statuses[facts.status] += 1
        if facts.status != "ok" and len(self.unusable) < SHOWN:
            self.unusable.append(facts)
        self.duration_s += facts.duration_s or 0.0
        there = [kind for kind, codec in (("picture", facts.video_codec), ("sound", facts.audio_codec)) if codec]
        if there:
            self.kinds[" and ".join(there) if len(there) == 2 else f"{there[0]} only"] += 1
        for counter, codec in zip(self.codecs, (facts.video_codec, facts.audio_codec), strict=True):
            counter.update([codec] if codec else [])
        self.silent += facts.silent is True
        self.variable_fps += facts.constant_fps is False
        self.offset += abs(facts.start_difference_s or 0.0) > OFFSET_S
        self.duplicates += bool(facts.duplicate_of)


class ReportWriter:
    """Writes rows as they come; what is there after an interruption can be read.

    Args:
        path: a .csv or .parquet file.
    """

    def __init__(self, path: Path) -> None:
        self._rows: list[dict[str, Any]] = []
        self._csv = path.suffix.lower() == ".csv"
        if self._csv:
            self._file = path.open("w", newline="", encoding="utf-8")
            self._writer: Any = csv.DictWriter(self._file, COLUMNS)
            self._writer.writeheader()
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
            self._schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
            self._writer = pq.ParquetWriter(path, self._schema)

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._csv:
            self._file.close()
        else:
            self._write_group()
            self._writer.close()

    def add(self, facts: FileFacts) -> None:
        """Write a row."""
        if self._csv:
            self._writer.writerow(asdict(facts))
            self._file.flush()
            return
        self._rows.append(asdict(facts))
        if len(self._rows) == ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def read_report(path: str | Path) -> Iterator[FileFacts]:
    """The rows of a report.

    Raises:
        InputError: the file is not a report.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                if None not in row.values():  # the last row of a scan that was killed may be cut off
                    yield FileFacts(**{name: _cell(text, COLUMNS[name]) for name, text in row.items()})
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        report = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}") from None
    _check_columns(path, report.schema_arrow.names)
    for batch in report.iter_batches():
        yield from (FileFacts(**row) for row in batch.to_pylist())


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if list(names) != list(COLUMNS):
        raise InputError(f"{path} is not a report of this version of vatt scan: its columns are {', '.join(names)}")


def _cell(text: str, kind: type) -> Any:
    if kind is str:
        return text
    if not text:
        return None
    return text == "True" if kind is bool else kind(text)
