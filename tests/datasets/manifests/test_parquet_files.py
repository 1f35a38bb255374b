from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.datasets.manifests.conftest import Read, texts
from vatt.errors import ManifestError

PATHS = ["a.mp4", "b.mp4", "c.mp4"]


def test_integers_that_pandas_wrote_as_floats(read: Read, tmp_path: Path) -> None:
    frame = pandas.DataFrame({"path": PATHS, "label": [0, 10, None], "x_year": [2020, None, 2021]}, index=[5, 1, 3])
    frame["split"] = pandas.Categorical(["train ", "val", "val"])
    frame.to_parquet(tmp_path / "clips.parquet")
    clips, warnings = read("clips.parquet")
    assert [(clip.labels, clip.extra["x_year"], clip.split) for clip in clips] == [
        (("0",), 2020, "train"),
        (("10",), None, "val"),
        ((), 2021, "val"),
    ]
    assert warnings == ["3 values of column '__index_level_0__' are ignored as the row index of pandas (first: row 1)"]


@pytest.mark.parametrize(
    ("value", "label", "extra"),
    [
        (True, "True", True),
        (Decimal("2.00"), "2", 2),
        (date(2020, 1, 2), "2020-01-02", "2020-01-02"),
        (datetime(2020, 1, 2, 3, tzinfo=UTC), "2020-01-02T03:00:00+00:00", "2020-01-02T03:00:00+00:00"),
        (timedelta(seconds=1.5), "1.5", 1.5),
        (b"caf\xc3\xa9", "café", None),
    ],
)
def test_values_of_all_types(read: Read, tmp_path: Path, value: object, label: str, extra: object) -> None:
    columns = {"path": PATHS[:1], "label": pa.array([value])}
    if extra is not None:
        columns["x_own"] = pa.array([value])
    pq.write_table(pa.table(columns), tmp_path / "clips.parquet")
    (clip,) = read("clips.parquet")[0]
    assert clip.labels == (label,)
    assert clip.extra.get("x_own") == extra


def test_nested_columns(read: Read, tmp_path: Path) -> None:
    table = pa.table({"path": PATHS, "texts": [["e\u0301 "], None, []], "labels": [[0.0, 3.0], [1.0], None]})
    pq.write_table(table.append_column("x_list", [[[1.0], None, [2.5]]]), tmp_path / "clips.parquet")
    clips, _ = read("clips.parquet")
    assert texts(clips) == {"a.mp4": ["é"], "b.mp4": [], "c.mp4": []}
    assert [clip.labels for clip in clips] == [("0", "3"), ("1",), ()]
    assert [clip.extra["x_list"] for clip in clips] == [[1], None, [2.5]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("path", PATHS), ("text", PATHS), ("text", PATHS)], "column 'text': occurs twice"),
        ([("path", PATHS), ("text", [{"a": 1}] * 3)], "row 1, column 'text': must be one text"),
        ([("path", PATHS), ("x_own", [b"\xff"] * 3)], "row 1, column 'x_own': bytes cannot be used"),
        ([("path", PATHS), ("text", [b"\xff"] * 3)], "row 1, column 'text': bytes cannot be used"),
        ([("path", PATHS), ("start_s", [1.0, -1.0, None])], "row 2, column 'start_s': -1.0 is not a time"),
        ([("path", PATHS), ("start_s", [datetime(2020, 1, 1)] * 3)], "row 1, column 'start_s': datetime"),
        ([("path", ["", "a.mp4", None])], r"2 bad rows\n  row 1, column 'path': empty\n  row 3"),
    ],
)
def test_values_that_cannot_be_used_name_row_and_column(
    read: Read, tmp_path: Path, columns: list[tuple[str, list[object]]], message: str
) -> None:
    names, values = zip(*columns, strict=True)
    pq.write_table(pa.table([pa.array(column) for column in values], names=list(names)), tmp_path / "clips.parquet")
    with pytest.raises(ManifestError, match=message):
        read("clips.parquet")


def test_strings_that_are_not_utf8(read: Read, tmp_path: Path) -> None:
    offsets, data = pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9")
    table = pa.table({"path": ["a.mp4"], "text": pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])})
    pq.write_table(table, tmp_path / "clips.parquet")
    with pytest.raises(ManifestError, match="column 'text': Invalid UTF8"):
        read("clips.parquet")
