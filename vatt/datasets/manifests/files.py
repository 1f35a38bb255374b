"""Conversion of manifest files to tables of clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.manifests.columns import ROWS, to_rows
from vatt.datasets.manifests.csv_files import read_csv
from vatt.datasets.manifests.decimals import check_separators, integers_as_text
from vatt.datasets.manifests.grouping import group_rows
from vatt.datasets.manifests.json_lines import read_json_lines
from vatt.datasets.manifests.parquet_files import read_parquet
from vatt.datasets.manifests.paths import find_missing, other_spellings
from vatt.datasets.manifests.reading import Block, Report, check_not_binary, encoding_if_not_utf8, encoding_of
from vatt.datasets.manifests.values import has_surrogates
from vatt.datasets.table import STRING, ClipTable, Columns
from vatt.errors import ManifestError
from vatt.media.sources.remote import is_url
from vatt.structures import Clip

READERS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet", ".pq": "parquet"}


def read_rows(source: str, suffix: str, check_files: bool) -> ClipTable:
    """Read the clips of a manifest file.

    Args:
        source: Path or URL.
        suffix: Suffix of the file in lower case.
        check_files: Look for every ``path`` and ``audio_path``.

    Raises:
        ManifestError: See `vatt.datasets.manifest.read_manifest`.
    """
    if suffix not in READERS:
        if not is_url(source):
            check_not_binary(source)
        hint = ": save the sheet as CSV UTF-8" if suffix in (".xlsx", ".xls", ".ods") else ""
        raise ManifestError(
            f"{source}: a manifest ends in .csv, .tsv, .jsonl or .parquet, or is a folder of media{hint}"
        )
    rows, report = _read(source, READERS[suffix])
    if not len(rows["number"]) and not report.problems:
        report.warn()
        raise ManifestError(f"{source}: the manifest has no rows")
    free = pa.default_memory_pool().release_unused  # memory of temporary columns
    free()
    _find_files(rows, check_files, report)
    free()
    if not report.has_types:
        rows["labels"] = integers_as_text(rows["labels"], report)
        check_separators(report)
    report.raise_problems()
    clips = group_rows(rows, report)
    report.raise_problems()
    report.warn()
    return ClipTable.from_columns(clips, report.skipped)


def from_media(source: str, clips: Iterable[Clip]) -> ClipTable:
    """Make a table of clips of media files, without those whose names are not valid Unicode.

    Args:
        source: Directory, pattern or file of the clips, for messages.
        clips: A clip for each file.

    Raises:
        ManifestError: No name is valid.
    """
    report = Report(source)

    def valid() -> Iterator[Clip]:
        for clip in clips:
            if has_surrogates(clip.path):
                report.skip(clip.path, "")
            else:
                yield clip

    table = ClipTable(valid())
    report.warn()
    if not table:
        raise ManifestError(
            f"{source}: the names of its {len(report.skipped)} media files are not valid Unicode: rename them"
        )
    table.skipped = tuple(report.skipped)
    return table


def _read(source: str, kind: str) -> tuple[Columns, Report]:
    """Read the rows of a manifest as columns with the schema `ROWS`."""
    if kind == "parquet":
        report = Report(source, "row")
        return _to_columns(read_parquet(source, report), report)
    read = read_csv if kind == "csv" else read_json_lines
    report = Report(source)
    try:
        return _to_columns(read(source, encoding_of(source), report), report)
    except UnicodeDecodeError as error:
        if error.encoding not in ("utf-8", "utf_8"):
            raise ManifestError(f"{source}: not readable as {error.encoding}: {error.reason}") from None
    report = Report(source)
    return _to_columns(read(source, encoding_if_not_utf8(source), report), report)


def _to_columns(blocks: Iterator[Block], report: Report) -> tuple[Columns, Report]:
    table = pa.Table.from_batches((to_rows(block, report) for block in blocks), ROWS)
    return dict(zip(table.column_names, table.columns, strict=True)), report


def _find_files(rows: Columns, check_files: bool, report: Report) -> None:
    """Replace paths by their spelling on disk (Unicode normalization), and report missing files."""
    for column in ("path", "audio_path"):
        paths = rows[column]
        non_ascii = pc.unique(paths.filter(pc.invert(pc.string_is_ascii(paths)))).to_pylist()
        if spelled := other_spellings(non_ascii):
            index = pc.index_in(paths, pa.array([*spelled], STRING))
            others = pa.chunked_array([pa.array([*spelled.values()], STRING)])
            rows[column] = paths = pc.coalesce(others.take(index), paths)
        if check_files and (missing := find_missing(paths.drop_null().combine_chunks())):
            is_missing = pc.is_in(paths, pa.array(missing, STRING))
            for row in pc.indices_nonzero(is_missing).to_pylist():
                path = paths[row].as_py()
                spelled = "" if path.isprintable() else f", whose path has invisible characters: {path!a}"
                report.add(rows["number"][row].as_py(), column, f"no file at {path}{spelled}", True)
