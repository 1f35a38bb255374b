"""Points and commas in numbers of text files, which separate decimals in some files and thousands in others."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.manifests.reading import Report
from vatt.datasets.manifests.values import MAYBE_THOUSANDS
from vatt.datasets.table import STRING, STRINGS

# Kinds of seconds: with a decimal point, with a point or comma before three digits, and with a decimal comma.
PATTERNS = {
    "point": r"^\d*\.\d*$",
    "point or thousands": r"^[1-9]\d{0,2}\.\d{3}$",
    "comma": r"^\d+,\d+$",
    "comma or thousands": f"^{MAYBE_THOUSANDS.pattern}$",
}
ADVICE = "Write seconds with a decimal point and no thousands separators"


def count_separators(values: pa.Array, column: str, numbers: list[int], report: Report) -> None:
    """Remember the first cell of each kind of `PATTERNS` in a column of seconds.

    Args:
        values: (N,) strings without surrounding white space.
        column: Name of the column.
        numbers: (N,) line numbers.
        report: Report to which the cells are added.
    """
    first = {}
    for kind, pattern in PATTERNS.items():
        matches = pc.match_substring_regex(values, pattern)
        if kind == "comma":  # one that cannot be thousands
            matches = pc.and_not(matches, pc.match_substring_regex(values, PATTERNS["comma or thousands"]))
        row = pc.index(matches, True).as_py()
        if row >= 0:
            first[kind] = (numbers[row], values[row].as_py())
    report.separators[column] = first | report.separators.get(column, {})


def check_separators(report: Report) -> None:
    """Report seconds that could be read in two ways as errors.

    In a file with decimal commas, "1.000" may be 1000. In one without any other decimal comma, "1,000" may be 1000.
    """
    cells = [(*cell, column, kind) for column, kinds in report.separators.items() for kind, cell in kinds.items()]
    commas = sorted(cell for cell in cells if cell[3].startswith("comma"))
    if not commas:
        return
    line, value, _, _ = commas[0]
    for column, kinds in report.separators.items():
        mixed = kinds.get("point") if any(kind.startswith("comma") for kind in kinds) else None
        if mixed := mixed or kinds.get("point or thousands"):
            reason = f"{mixed[1]!r} has a point, but {value!r} in line {line} has a comma. {ADVICE}"
            report.add(mixed[0], column, reason)
    if all(kind == "comma or thousands" for *_, kind in commas):
        number, value, column, _ = commas[0]
        report.add(number, column, f"the comma of {value!r} may separate decimals or thousands. {ADVICE}")


def integers_as_text(labels: pa.ChunkedArray, report: Report) -> pa.ChunkedArray:
    """Turn labels such as "0.0" and "10.0" into "0" and "10" if all labels of a text file are such numbers.

    pandas writes integers as floats if a value of the column is missing. Other numbers, such as "1.000" and "007.0",
    stay as they are.

    Args:
        labels: (N,) lists of labels.
        report: Report to which labels are added that occur with and without decimals.
    """
    values = labels.combine_chunks().flatten() if labels.num_chunks else pa.array([], STRING)
    decimal = "[.,]" if report.decimal_comma else "[.]"
    integer = rf"^(-?(?:0|[1-9]\d*))(?:{decimal}0)?$"
    if not len(values) or not pc.all(pc.match_substring_regex(values, integer)).as_py():
        return labels
    integers = pc.replace_substring_regex(values, integer, r"\1")
    texts = pc.unique(values)
    counts = pc.value_counts(pc.replace_substring_regex(texts, integer, r"\1")).to_pylist()
    if merged := [count["values"] for count in counts if count["counts"] > 1]:
        report.notes.append(f"{len(merged):,} labels are written with and without decimals (first: {merged[0]!r})")
    lists = labels.combine_chunks()
    return pa.chunked_array([pa.LargeListArray.from_arrays(lists.offsets, integers, mask=lists.is_null())], STRINGS)
