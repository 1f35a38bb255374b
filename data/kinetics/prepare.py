"""Convert the CSV files of Kinetics-400, -600 and -700 (Kay et al. 2017, Carreira et al. 2018).

Usage:
    vatt manifest kinetics train.csv validate.csv videos --output runs/kinetics/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import find_split, read_table, to_name, to_span, to_split
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, span_id, write
from vatt.structures import Clip


def read(path: Path, split: str | None, cuts: bool, notes: Notes) -> Iterator[Wanted]:
    """Lines of "label,youtube_id,time_start,time_end,split"; lists of test clips may have no label."""
    for place, row in read_table(path, ("youtube_id", "time_start", "time_end")):
        name, label = to_name(row["youtube_id"], place, "youtube_id"), row.get("label")
        start_s, end_s = to_span(row["time_start"], row["time_end"], place)
        if not label:
            notes.add("Rows without a label", place)
        folder = f"{label}/" if label else ""
        names = [f"{folder}{name}_{start_s:06.0f}_{end_s:06.0f}", f"{folder}{name}_{start_s:.0f}_{end_s:.0f}"]
        whole = [f"{folder}{name}"]
        clip = Clip(
            id=span_id(name, start_s, end_s),
            path="",
            start_s=start_s,
            end_s=end_s,
            labels=(label,) if label else (),
            split=to_split(split or row.get("split") or find_split(path, None)),
        )
        yield Wanted(clip, names=[] if cuts else whole, cuts=names + whole if cuts else names)


def main() -> None:
    parser = make_parser(__doc__, "CSV files of the splits")
    parser.add_argument("--split", help="of all rows; in the CSV or in its name without this option")
    parser.add_argument("--cuts", action="store_true", help="files called <id> alone hold only the clip")
    given = parser.parse_args()
    notes = Notes()
    rows = (row for path in given.annotations for row in read(path, given.split, given.cuts, notes))
    write(rows, Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
