"""Quotes of CSV files that are closed in a later row, so that whole rows become part of one cell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from vatt.datasets.folders import MEDIA_SUFFIXES, PICTURE_SUFFIXES
from vatt.datasets.manifests.reading import Report, bad_line

LINE_END = re.compile(r"\r\n|\r|\n")
PATH = re.compile(r"\w+://|[^#]+#\d+\+\d+$")  # a URL, or a clip in a shard
AMBIGUOUS = "cells of several lines have lines that could be rows: check where their quotes are closed"


class QuoteCheck:
    """Check of cells that span several lines.

    If a quote is opened in one row and the next quote closes a cell of the same column in a later row, the file is
    valid CSV, and the rows between them are lost. A line of a cell is taken for a row if it has as many cells as a row
    and a path that looks like the other paths.

    Programs that quote all texts are not affected: there, a missing quote is a syntax error.

    Args:
        source: Path or URL of the file.
        names: Names of the columns.
        width: Number of columns without unnamed ones at the end.
        delimiter: Separator.
        header: Line with the names.
    """

    def __init__(self, source: str, names: list[str], width: int, delimiter: str, header: str) -> None:
        self.source, self.width, self.delimiter = source, width, delimiter
        self.path, self.slack = names.index("path"), len(names) - width
        self.is_quoted = all(_quoted(name) in header for name in names if name)
        self.spaces = re.compile(rf"{re.escape(delimiter)}[^\S\r\n]+\"")
        self.is_spaced = re.search(rf"{re.escape(delimiter)}[^\S\r\n]+\S", header) is not None

    def check(self, number: int, record: str, row: list[str], report: Report) -> None:
        """Check a row of several lines.

        Args:
            number: First line of the row.
            record: Text of the row.
            row: Its cells.
            report: Report to which cells are added that are ambiguous.

        Raises:
            ManifestError: A cell contains a row.
        """
        if self.is_quoted and _quoted(row[self.path]) in record:
            return
        own = LINE_END.split(row[self.path])[-1].strip()
        is_spaced = self.is_spaced or self.spaces.search(record) is not None
        is_ambiguous = False
        for column, cell in enumerate(row):
            lines = LINE_END.split(cell)
            if len(lines) == 1 or _is_json(cell):
                continue
            for index, line in enumerate(lines):
                place = "first" if index == 0 else "last" if index == len(lines) - 1 else "middle"
                kind = self._kind(line, column, place, own, is_spaced)
                if kind == "row":
                    raise bad_line(
                        self.source,
                        number,
                        f"a quote is closed too late, in another row: {line[:60]!r}. Close the quote on its own line. "
                        "If the cell has several lines, put quotes around all cells of the file and its header",
                    )
                is_ambiguous |= kind == "ambiguous"
        if is_ambiguous:
            report.count(AMBIGUOUS, number)

    def _kind(
        self, line: str, column: int, place: Literal["first", "middle", "last"], own: str, is_spaced: bool
    ) -> Literal["row", "ambiguous", "text"]:
        """Return what a line of a cell looks like.

        Args:
            line: Line of the cell.
            column: Column of the cell.
            place: Place of the line in the cell. The first line may end a row, and the last one may begin a row.
            own: Path of the row.
            is_spaced: Whether the file has white space after separators.
        """
        cells = line.split(self.delimiter)
        for _ in range(self.slack):
            if place != "last" and len(cells) > 1 and not cells[-1].strip():
                cells.pop()
        count = {"first": self.width - column, "middle": self.width, "last": column + 1}[place]
        has_path = {"first": column <= self.path, "middle": True, "last": self.path <= column}[place]
        if len(cells) < count or not has_path:
            return "text"
        path = cells[self.path - self.width if place == "first" else self.path].strip(' "')
        if _is_media(path, own):
            return "row"
        # Text has white space after a comma, and may end with one; JSON has brackets and quotes.
        own_cells = cells[len(cells) - count :] if place == "first" else cells[: count if place == "last" else None]
        has_spaces = not is_spaced and any(cell[:1].isspace() for cell in own_cells[1:])
        if len(cells) == 1 or has_spaces or not path or re.search(r'[\[\]{}"]', path):
            return "text"
        if re.search(r"[/\\]", path) or _shape(path) == _shape(own):
            return "row"
        if len(cells) != count or not all(map(str.strip, cells)):
            return "text"
        return "ambiguous" if re.search(r"\s", path) else "row"


def _is_media(path: str, own: str) -> bool:
    """Return whether a path is that of a media file, of a URL, or has the suffix of another path."""
    suffixes = MEDIA_SUFFIXES | PICTURE_SUFFIXES | {Path(own).suffix.lower()} - {""}
    return Path(path).suffix.lower() in suffixes or PATH.match(path) is not None


def _shape(path: str) -> str:
    """Return a path with "a" in place of words and "0" in place of numbers."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", path))


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def _is_json(cell: str) -> bool:
    """Return whether a cell is a JSON list or object."""
    if not cell.lstrip().startswith(("[", "{")):
        return False
    try:
        json.loads(cell)
    except (ValueError, RecursionError):
        return False
    return True
