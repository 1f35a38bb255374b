"""The report of a scan: a CSV or Parquet file with a row a file, and the counts over all of them.

It appears when the scan is done, in place of an earlier one. Until then every row that is found goes into a journal
beside it (``report.csv.part``: lines of JSON, the names of the columns first), which outlasts an interruption.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vatt.errors import InputError
from vatt.preparation.scan.file import FileFacts

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
        clipped: Files with audio samples outside [-1, 1].
        cancelled: Files whose audio channels cancel in the mono mix.
        several_audio: Files with several audio tracks.
        undecodable: Files with a video or audio track that cannot be decoded.
        silent_skipped: Files with a silent audio track that is not read because another one has sound.
        codecs: files of each codec of the picture, and of the sound.
        variable_fps: videos without a constant frame rate.
        non_square: Videos whose stored pixels are not square.
        offset: files whose picture and sound begin more than 25 ms apart.
        duplicates: files that have the content of an earlier one.
        unusable: the first 20 files that are not "ok".
    """

    statuses: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    clipped: int = 0
    cancelled: int = 0
    several_audio: int = 0
    undecodable: int = 0
    silent_skipped: int = 0
    codecs: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    variable_fps: int = 0
    non_square: int = 0
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
        self.clipped += (facts.clipped_share or 0.0) > 0
        self.cancelled += facts.cancelled is True
        tracks = json.loads(facts.tracks or "[]")
        # Tracks that continue each other in a transport stream are read as one.
        audio = Counter(track["chosen"] for track in tracks if track["kind"] == "audio")
        self.several_audio += audio[False] + min(audio[True], 1) > 1
        self.undecodable += any(track.get("decodable") is False for track in tracks)
        is_chosen_audible = any(track.get("silent") is False and track["chosen"] for track in tracks)
        self.silent_skipped += is_chosen_audible and any(track.get("silent") for track in tracks)
        self.variable_fps += facts.constant_fps is False
        self.non_square += facts.pixel_aspect not in (None, 1.0)
        self.offset += abs(facts.start_difference_s or 0.0) > OFFSET_S
        self.duplicates += bool(facts.duplicate_of)


class ReportWriter:
    """Writes rows as they come. The report is there once all of them are; an error leaves it and the journal behind.

    Args:
        path: a .csv or .parquet file.
        resume: go on with the journal of a scan that was interrupted; else it begins anew.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self._path, self._unfinished = path, path.with_name(f".{path.name}.part")
        self._rows: list[dict[str, Any]] = []
        self._csv = path.suffix.lower() == ".csv"
        self._journal = _open_journal(_journal(path), resume)
        if self._csv:
            self._file = self._unfinished.open("w", newline="", encoding="utf-8")
            self._writer: Any = csv.DictWriter(self._file, COLUMNS)
            self._writer.writeheader()
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
            self._schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
            self._writer = pq.ParquetWriter(self._unfinished, self._schema)

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._csv:
                self._write_group()
            self._journal.close()
            (self._file if self._csv else self._writer).close()
            if kind is None:
                os.replace(self._unfinished, self._path)
                _journal(self._path).unlink()
        except OSError:  # the disk is full: the unfinished file is deleted
            if not self._csv:
                self._writer.is_open = False  # otherwise it would be closed again, and fail
            if kind is None:
                raise
        finally:
            self._unfinished.unlink(missing_ok=True)

    def add(self, facts: FileFacts, known: bool = False) -> None:
        """Write a row.

        Args:
            facts: the row.
            known: it is in the earlier report or in the journal already.
        """
        if not known:
            self._journal.write(json.dumps(astuple(facts)) + "\n")
            self._journal.flush()
        if self._csv:
            self._writer.writerow(asdict(facts))
            return
        self._rows.append(asdict(facts))
        if len(self._rows) == ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def known_rows(path: Path) -> Iterator[FileFacts]:
    """The rows of a report, if it is there, and of the journal that an interrupted scan left: the later ones count.

    Raises:
        InputError: one of them is something else.
    """
    if path.exists():
        yield from read_report(path)
    if _journal(path).exists():
        yield from _read_journal(_journal(path))


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
                try:
                    facts = FileFacts(**{name: _cell(text, COLUMNS[name]) for name, text in row.items()})
                except (KeyError, TypeError, ValueError):
                    raise InputError(f"{path} line {reader.line_num} is not a row of a report") from None
                yield facts
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        report = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a whole Parquet file, remove it: {error}") from None
    _check_columns(path, report.schema_arrow.names)
    for batch in report.iter_batches():
        yield from (FileFacts(**row) for row in batch.to_pylist())


def _journal(report: Path) -> Path:
    return report.with_name(f"{report.name}.part")


def _open_journal(path: Path, resume: bool) -> IO[str]:
    """The journal, ready for the next row."""
    whole = 0  # bytes up to the end of the last row that is: a kill may have cut the one after it
    if resume and path.exists():
        with path.open("rb") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
        os.truncate(path, whole)
    journal = path.open("a" if whole else "w", encoding="utf-8")
    if not whole:
        journal.write(json.dumps(list(COLUMNS)) + "\n")
        journal.flush()
    return journal


def _read_journal(path: Path) -> Iterator[FileFacts]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                return
            try:
                cells = json.loads(line)
                facts = FileFacts(*cells) if number else _check_columns(path, list(map(str, cells)))
            except InputError:
                raise
            except (TypeError, ValueError):
                raise InputError(f"{path} line {number + 1} is not a row of a report") from None
            if facts is not None:
                yield facts


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if list(names) != list(COLUMNS):
        raise InputError(f"{path} is not a report of this version of vatt scan: its columns are {', '.join(names)}")


def _cell(text: str | None, kind: type) -> Any:
    if text is None:
        raise ValueError("a cell is missing")
    if kind is str:
        return text
    if not text:
        return None
    return text == "True" if kind is bool else kind(text)
