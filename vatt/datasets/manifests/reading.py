"""Text encodings, and common parts of the readers of CSV, JSON Lines and Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from unicodedata import normalize

import pyarrow as pa

from vatt.datasets.rows import COLUMNS
from vatt.errors import ManifestError
from vatt.media.sources.files import open_source
from vatt.structures import Event

BLOCK_ROWS = 4096
SHOWN = 5  # problems that one error message lists
BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
SAVE_AS_UTF8 = "save the file as UTF-8"
BINARY = {
    b"\x1f\x8b": "compressed with gzip: decompress it",
    b"BZh": "compressed with bzip2: decompress it",
    b"\xfd7zXZ": "compressed with xz: decompress it",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard: decompress it",
    b"7z\xbc\xaf": "a 7z archive: extract it",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet (.xlsx, .ods): extract it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel spreadsheet (.xls): save the sheet as CSV UTF-8",
    b"PAR1": "a Parquet file: rename it to .parquet",
    b"SQLite f": "an SQLite database: export the table as CSV",
}
NOT_UNICODE = "its path is not valid Unicode: rename the file"
SKIPPED = "files are skipped because their paths are not valid Unicode; rename them"
REPLACED = "rows have U+FFFD in place of invalid Unicode (half of a surrogate pair)"
NUL = "contains NUL characters: the file is damaged, or UTF-16 without a byte order mark. Save it as UTF-8"
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
Values = pa.Array | list[Any]


@dataclass
class Block:
    """Rows of a manifest as they are in the file.

    Args:
        numbers: Line of each row, from 1 on; row number in a Parquet file.
        columns: Values by column, without columns ``x_…``.
        extras: Columns ``x_…`` of each row.
    """

    numbers: list[int]
    columns: dict[str, Values]
    extras: list[dict[str, Any]]


@dataclass
class Report:
    """Errors and counts of one manifest.

    Args:
        source: Path or URL of the manifest.
        unit: Unit of row numbers: "line" or "row".
        decimal_comma: Whether numbers may have a decimal comma.
        has_types: Whether values have types, so that a string such as "null" is a string.
        problems: Rows that are errors: number, column, reason, and whether a file is missing.
        counts: Number and first example of reported rows or cells that are not errors, by description.
        notes: Further sentences to report.
        skipped: Rows that are not clips.
        separators: First line and cell with each kind of decimal separator, by column of seconds.
    """

    source: str
    unit: str = "line"
    decimal_comma: bool = False
    has_types: bool = True
    problems: list[tuple[int, str, str, bool]] = field(default_factory=list)
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[Event] = field(default_factory=list)
    separators: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)

    def add(self, number: int, column: str, reason: str, is_missing_file: bool = False) -> None:
        """Add a row that is an error."""
        self.problems.append((number, column, reason, is_missing_file))

    def count(self, description: str, number: int, example: str = "", times: int = 1) -> None:
        """Count something that is reported once, with the first row and an example."""
        before, first = self.counts.get(description, (0, ""))
        first = first or f"{self.unit} {number}" + (f": {example}" if example else "")
        self.counts[description] = (before + times, first)

    def skip(self, path: str, place: str) -> None:
        """Skip a row whose path is not valid Unicode."""
        try:
            shown = os.fsencode(path).decode(errors="backslashreplace")
        except UnicodeEncodeError:  # half of a surrogate pair of JSON, which is not a byte of a name
            shown = path.encode(errors="backslashreplace").decode()
        self.skipped.append(Event(kind="unreadable", id=shown, path=shown, reason=NOT_UNICODE))
        before, first = self.counts.get(SKIPPED, (0, ""))
        self.counts[SKIPPED] = before + 1, first or f"{place}{shown}"

    def raise_problems(self) -> None:
        """Raise the errors of all rows together.

        Raises:
            ManifestError: There are errors.
        """
        if not self.problems:
            return
        listed = [
            f"{self.unit} {number}, column {column!r}: {reason}" for number, column, reason, _ in sorted(self.problems)
        ]
        missing = sum(is_missing for *_, is_missing in self.problems)
        more = f"\n  … and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
        counted = f" ({missing} missing files)" if missing else ""
        shown = "\n  ".join(listed[:SHOWN])
        raise ManifestError(f"{self.source}: {len(listed)} bad rows{counted}\n  {shown}{more}")

    def warn(self) -> None:
        """Issue one warning for each description, in the first process of a run."""
        for note in self.notes:
            warn(f"{self.source}: {note}")
        for description, (times, first) in self.counts.items():
            warn(f"{self.source}: {times:,} {description} (first: {first})")


def warn(message: str) -> None:
    """Issue a warning, unless another process of the same run issues it.

    Python shows equal warnings once, so a manifest that is read several times is reported once.
    """
    if next((os.environ[name] for name in RANK_VARIABLES if name in os.environ), "0") == "0":
        warnings.warn(message, stacklevel=1)


def bad_line(source: str, number: int, reason: str) -> ManifestError:
    """Return the error for a line of a text file."""
    return ManifestError(f"{source} line {number}: {reason}")


def check_columns(names: Iterator[str] | list[str], source: str, place: str) -> None:
    """Check the names of columns.

    Raises:
        ManifestError: A column is unknown or occurs twice, or there is no ``path``.
    """
    from difflib import get_close_matches

    names, known = list(names), set()
    for name in names:
        if normalize("NFC", name) in known:
            raise ManifestError(f"{source} {place}, column {name!r}: occurs twice in the header; rename or remove one")
        known.add(normalize("NFC", name))
        if name not in COLUMNS and not name.startswith("x_"):
            close = get_close_matches(name.lower(), COLUMNS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "begin names of your own columns with x_."
            raise ManifestError(
                f"{source} {place}, column {name!r}: unknown; {hint} Known columns: {', '.join(COLUMNS)}"
            )
    if "path" not in known:
        raise ManifestError(
            f"{source} {place}, column 'path': missing; there are only {', '.join(names) or 'no columns'}"
        )


def encoding_of(source: str) -> str:
    """Return the encoding that the first bytes of a text file declare, else UTF-8.

    Raises:
        ManifestError: See `check_not_binary`.
    """
    start = check_not_binary(source)
    return next((name for bom, name in BOMS.items() if start.startswith(bom)), "utf-8-sig")


def check_not_binary(source: str) -> bytes:
    """Return the first bytes of a file, which must not be in one of the formats `BINARY`.

    Raises:
        ManifestError: The file has one of these formats; the message names it.
    """
    with open_source(source, "rb") as file:
        start = file.read(8)
    for magic, reason in BINARY.items():
        if start.startswith(magic):
            raise ManifestError(f"{source}: the file is {reason}")
    return start


def error_handler(encoding: str) -> str:
    """Return the error handler of an encoding. For UTF-16 and UTF-32, lone surrogates are kept and replaced later."""
    return "surrogatepass" if encoding in BOMS.values() else "strict"


def encoding_if_not_utf8(source: str) -> str:
    """Return Windows-1252 for a text file in it.

    Raises:
        ManifestError: The file is in another encoding, or damaged.
    """
    first, high, adjacent = 0, 0, 0
    utf8_line = 0
    with open_source(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            if b"\0" in line:
                raise bad_line(source, number, NUL)
            if number == 1 and b"\r" in line and not line.endswith(b"\n"):
                raise ManifestError(
                    f"{source}: not UTF-8, and lines end with CR as on classic Mac OS, so the encoding is probably Mac "
                    f"Roman: {SAVE_AS_UTF8}"
                )
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
                utf8_line = utf8_line or number
                continue
            except UnicodeDecodeError:
                pass
            try:
                text = line.decode("windows-1252")
            except UnicodeDecodeError:
                raise bad_line(source, number, f"neither UTF-8 nor Windows-1252: {SAVE_AS_UTF8}") from None
            high += sum(not letter.isascii() for letter in text)
            adjacent += sum(not a.isascii() and not b.isascii() for a, b in pairwise(text))
            if not first:
                first = number
                at = next(i for i, letter in enumerate(text) if not letter.isascii())
                example = text[max(0, at - 20) : at + 20].strip()
    if utf8_line:
        raise bad_line(source, first, f"not UTF-8, but line {utf8_line} is: save the whole file as UTF-8")
    if 3 * adjacent > high:  # accented letters are rarely adjacent, unlike the bytes of other alphabets
        raise bad_line(source, first, f"not UTF-8, and it does not look like Windows-1252: {SAVE_AS_UTF8}")
    warn(f"{source}: the file is not UTF-8 and is read as Windows-1252 (first: line {first}: {example!r})")
    return "windows-1252"


def text_lines(lines: Iterator[str], source: str) -> Iterator[str]:
    """Yield the lines of a text file, without the byte order marks of files that were joined.

    Raises:
        ManifestError: A line contains a NUL character.
    """
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise bad_line(source, number, NUL)
        yield line.lstrip("\ufeff")
