"""Convert the segment files of AudioSet (Gemmeke et al. 2017), with all labels per segment.

Usage:
    vatt manifest audioset balanced_train_segments.csv eval_segments.csv media \\
        --classes class_labels_indices.csv --output runs/audioset/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import find_split, read_cells, read_table, to_name, to_span
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, span_id, write
from vatt.structures import Clip


def cut_names(name: str, start_s: float, end_s: float) -> list[str]:
    """What a ten-second cut is called by the common downloaders: its start in s or ms, with or without the end."""
    forms = [(f"{t:.10g}", f"{t:.3f}", f"{t:.1f}", f"{t:06.0f}", f"{t * 1000:.0f}") for t in (start_s, end_s)]
    spans = [f"{start}{joiner}{end}" for joiner in "_-" for start, end in zip(*forms, strict=True)]
    times = dict.fromkeys([*spans, *forms[0]])  # several forms may be the same
    return [f"{prefix}{name}_{time}" for prefix in ("", "Y") for time in times] + [f"Y{name}"]


def read(path: Path, classes: Mapping[str, str], split: str | None, cuts: bool) -> Iterator[Wanted]:
    """Lines of 'YTID, start_seconds, end_seconds, "mid,mid"' below comments that begin with '#'."""
    subset, split = path.stem.removesuffix("_segments"), find_split(path, split)
    for place, cells in read_cells(path, skipinitialspace=True):
        if cells[0].startswith("#"):
            continue
        if len(cells) < 4:
            raise InputError(f"{place}: {', '.join(cells)!r} is not 'id, start, end, \"labels\"'")
        name, mids = to_name(cells[0], place, "YTID"), [mid.strip() for cell in cells[3:] for mid in cell.split(",")]
        unknown = [mid for mid in mids if mid not in classes]
        if unknown:
            raise InputError(f"{place}: the file of the classes does not have {unknown[0]!r}")
        start_s, end_s = to_span(cells[1], cells[2], place)
        clip = Clip(
            id=span_id(name, start_s, end_s),
            path="",
            start_s=start_s,
            end_s=end_s,
            labels=tuple(classes[mid] for mid in mids),
            split=split,
            extra={"x_subset": subset},
        )
        names = cut_names(name, start_s, end_s)
        yield Wanted(clip, names=[] if cuts else [name], cuts=[*names, name] if cuts else names)


def main() -> None:
    parser = make_parser(__doc__, "segment files, such as balanced_train_segments.csv")
    parser.add_argument("--classes", type=Path, required=True, help="class_labels_indices.csv")
    parser.add_argument("--split", help="of all rows; in the names of the segment files without this option")
    parser.add_argument("--cuts", action="store_true", help="files called <id> alone hold only the segment")
    given = parser.parse_args()
    classes = {row["mid"]: row["display_name"] for _, row in read_table(given.classes, ("mid", "display_name"))}
    rows = (row for path in given.annotations for row in read(path, classes, given.split, given.cuts))
    write(rows, Files(given.media), given.output, Notes())


if __name__ == "__main__":
    run(main)
