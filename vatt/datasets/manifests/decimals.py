"""Points and commas in numbers of text files, which separate decimals in some files and thousands in others."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.manifests.reading import Report
from vatt.datasets.manifests.values import MAYBE_THOUSANDS
from vatt.datasets.table import STRING, STRINGS

# Spellings of seconds by kind. A point or comma before exactly three digits may also separate thousands.
PATTERNS = {
    "point": r"^\d*\.\d*$",
    "point or thousands": r"^[1-9]\d{0,2}\.\d{3}$",
    "comma": r"^\d+,\d+$",
    "comma or thousands": f"^{MAYBE_THOUSANDS.pattern}$",
}
ADVICE = "write seconds with a decimal point and no thousands separators"


def record_separators(values: pa.Array, column: str, numbers: list[int], report: Report) -> None:
    """Store the first cell of each kind of `PATTERNS` in the report.

    Args:
        values: (N,) strings without surrounding white space.
        column: Name of the column.
        numbers: (N,) line numbers.
        report: Report to which the cells are added.
    """
    first = {}
    for kind, pattern in PATTERNS.items():
        matches = pc.match_substring_regex(values, pattern)
        if kind == "comma":  # only commas that cannot be thousands separators
            matches = pc.and_not(matches, pc.match_substring_regex(values, PATTERNS["comma or thousands"]))
        row = pc.index(matches, True).as_py()
        if row >= 0:
            first[kind] = (numbers[row], values[row].as_py())
    report.separators[column] = first | report.separators.get(column, {})


def check_separators(report: Report) -> None:
    """Report seconds that could be read in two ways as errors.

    Next to decimal commas, "1.000" may mean 1000. If no comma in the file is certainly a decimal comma, "1,000" may be
    1000 as well.
    """
    cells = [(*cell, column, kind) for column, kinds in report.separators.items() for kind, cell in kinds.items()]
    commas = sorted(cell for cell in cells if cell[3].startswith("comma"))
    if not commas:
        return
    line, value, _, _ = commas[0]
    for column, kinds in report.separators.items():
        mixed = kinds.get("point") if any(kind.startswith("comma") for kind in kinds) else None
        if mixed := mixed or kinds.get("point or thousands"):
            reason = f"{mixed[1]!r} has a point, but {value!r} in line {line} has a comma: {ADVICE}"
            report.add(mixed[0], column, reason)
    if all(kind == "comma or thousands" for *_, kind in commas):
        number, value, column, _ = commas[0]
        report.add(number, column, f"the comma of {value!r} may separate decimals or thousands: {ADVICE}")


def integers_as_text(labels: pa.ChunkedArray, report: Report) -> pa.ChunkedArray:
    """Convert labels such as "0.0" to "0" if every label of the file is an integer with or without decimals of zero.

    pandas writes integers as floats if a value of the column is missing, and with ``float_format="%.2f"`` all labels
    with two decimals. Other numbers stay as they are, such as "007.0", and "1.000" if no label shows that these are
    not thousands.

    Args:
        labels: (N,) lists of labels.
        report: Report to which labels are added that occur with and without decimals.
    """
    values = labels.combine_chunks().flatten() if labels.num_chunks else pa.array([], STRING)
    decimal = "[.,]" if report.decimal_comma else "[.]"
    integer = _integer_pattern(values, decimal) if len(values) else None
    if integer is None:
        return labels
    integers = pc.replace_substring_regex(values, integer, r"\1")
    texts = pc.unique(values)
    counts = pc.value_counts(pc.replace_substring_regex(texts, integer, r"\1")).to_pylist()
    if merged := [count["values"] for count in counts if count["counts"] > 1]:
        report.notes.append(f"{len(merged):,} labels are written with and without decimals (first: {merged[0]!r})")
    lists = labels.combine_chunks()
    return pa.chunked_array([pa.LargeListArray.from_arrays(lists.offsets, integers, mask=lists.is_null())], STRINGS)


def _integer_pattern(labels: pa.Array, decimal: str) -> str | None:
    """Return a pattern of integers written as floats that all labels match, or None. Its first group is the integer.

    Args:
        labels: (N,) labels, at least one.
        decimal: Pattern of the decimal separator.
    """
    integer = r"^(-?(?:0|[1-9]\d*))"
    zeros = len(labels[0].as_py()) - len(labels[0].as_py().rstrip("0"))
    patterns = [f"{integer}(?:{decimal}0)?$", *([f"{integer}{decimal}0{{{zeros}}}$"] if zeros > 1 else [])]
    for pattern in patterns:
        if pc.all(pc.match_substring_regex(labels, pattern)).as_py():
            is_thousands = pc.match_substring_regex(labels, rf"^-?[1-9]\d{{0,2}}{decimal}000$")
            return None if pc.all(is_thousands).as_py() else pattern
    return None
