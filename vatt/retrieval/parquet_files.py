"""Compute the uncompressed size of a Parquet file without decoding it.

PyArrow reports the sizes of a file's columns, but takes them from its footer, which may be wrong, and a damaged footer
aborts the process (PyArrow 26: an uncaught C++ exception). So the footer and the headers of all pages are parsed here.
They are structs of Thrift's compact protocol: https://parquet.apache.org/docs/file-format/metadata/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
MAX_DEPTH, MAX_PAGES = 32, 10**6
VALUE_BYTES = 8  # largest size of a value in memory, without its text

# Numbers of fields: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
ROW_GROUPS, COLUMNS, COLUMN = 4, 1, 3  # of FileMetaData, RowGroup and ColumnChunk
# Of ColumnMetaData: number of values, bytes of all pages, and where they begin.
COLUMN_VALUES, COMPRESSED, DATA_PAGE, DICTIONARY_PAGE = 5, 7, 9, 11
UNCOMPRESSED, COMPRESSED_PAGE = 2, 3  # of PageHeader: bytes
PAGE_HEADERS, VALUES = (5, 7, 8), 1  # of PageHeader: header by type of page; of each of these: number of values


class ParquetDamaged(ValueError):
    """A file is not Parquet, or its structure is damaged."""


def expanded_bytes(path: Path) -> int:
    """Return the bytes that all columns of a Parquet file take in memory, without copies of texts in dictionaries.

    Args:
        path: File.

    Raises:
        ParquetDamaged: The file is not Parquet, is encrypted, or its structure is damaged.
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    if size < 12:
        raise ParquetDamaged("not a Parquet file: too short")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        length = int.from_bytes(data[-8:-4], "little")
        if data[:4] != MAGIC or data[-4:] != MAGIC or length > size - 12:
            raise ParquetDamaged("not a Parquet file, or truncated")
        total, pages = 0, 0
        for column in _columns(_Reader(data[size - 8 - length : size - 8]).struct()):
            for header in _page_headers(data, column):
                pages += 1
                values = sum(_number(header[key], VALUES) for key in PAGE_HEADERS if isinstance(header.get(key), dict))
                total += _number(header, UNCOMPRESSED) + VALUE_BYTES * values
                if pages > MAX_PAGES:
                    raise ParquetDamaged(f"more than {MAX_PAGES:,} pages")
        return total


def _columns(footer: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Yield the metadata of all column chunks."""
    for group in _list(footer, ROW_GROUPS):
        for chunk in _list(group, COLUMNS):
            if not isinstance(chunk.get(COLUMN), dict):
                raise ParquetDamaged("encrypted, or a column without metadata")
            if _number(chunk[COLUMN], COLUMN_VALUES):  # otherwise none of its pages is read
                yield chunk[COLUMN]


def _page_headers(data: mmap.mmap, column: dict[int, Any]) -> Iterator[dict[int, Any]]:
    at = _number(column, DATA_PAGE)
    if isinstance(column.get(DICTIONARY_PAGE), int) and 0 < column[DICTIONARY_PAGE] < at:
        at = column[DICTIONARY_PAGE]
    end = at + _number(column, COMPRESSED)
    if end > len(data):
        raise ParquetDamaged("column beyond end of file")
    while at < end:
        reader = _Reader(data, at)
        header = reader.struct()
        yield header
        at = reader.at + _number(header, COMPRESSED_PAGE)
    if at > end:
        raise ParquetDamaged("page beyond end of column")


def _number(struct: dict[int, Any], key: int) -> int:
    value = struct.get(key)
    if not isinstance(value, int) or value < 0:
        raise ParquetDamaged("missing or negative number")
    return value


def _list(struct: dict[int, Any], key: int) -> list[dict[int, Any]]:
    values = struct.get(key)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ParquetDamaged("missing list")
    return values


class _Reader:
    """Reader of Thrift's compact protocol: structs become dicts by field number; texts are skipped.

    Raises:
        ParquetDamaged: The data are truncated, nested too deeply, or have an unknown type.
    """

    def __init__(self, data: bytes | mmap.mmap, at: int = 0) -> None:
        self.data, self.at, self.size = data, at, len(data)

    def byte(self) -> int:
        if self.at >= self.size:
            raise ParquetDamaged("unexpected end of file")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ParquetDamaged("invalid varint")

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise ParquetDamaged("unexpected end of file")
        self.at += count

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        key = 0
        while header := self.byte():
            kind, step = header & 15, header >> 4
            key = key + step if step else self.zigzag()
            fields[key] = kind == 1 if kind in (1, 2) else self.value(kind, depth)
        return fields

    def zigzag(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def value(self, kind: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ParquetDamaged("nested too deeply")
        if kind in (1, 2, 3):
            return self.byte()
        if kind in (4, 5, 6):
            return self.zigzag()
        if kind in (7, 8):
            return self.skip(8 if kind == 7 else self.varint())
        if kind in (9, 10):
            header = self.byte()
            count = header >> 4 if header >> 4 < 15 else self.varint()
            return [self.value(header & 15, depth + 1) for _ in range(min(count, self.size - self.at + 1))]
        if kind == 11:
            count = self.varint()
            kinds = self.byte() if count else 0
            for _ in range(min(count, self.size)):
                self.value(kinds >> 4, depth + 1)
                self.value(kinds & 15, depth + 1)
            return None
        if kind == 12:
            return self.struct(depth + 1)
        raise ParquetDamaged("unknown type")
