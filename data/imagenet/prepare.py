"""Convert the directories of ImageNet (Russakovsky et al. 2015), one row per image.

The directories are train/<wnid> and val/<wnid>. Other images in one directory per class are converted, too.

Usage:
    vatt manifest imagenet ILSVRC/Data/CLS-LOC --classes LOC_synset_mapping.txt --output runs/imagenet.jsonl
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from vatt.datasets.folders import PICTURE_SUFFIXES
from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import SPLITS, read_lines, read_table
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip


def read_classes(path: Path) -> dict[str, str]:
    """Names by wnid from lines of "n02012849 crane"; a name that two have is followed by the wnid."""
    names = {}
    for place, line in read_lines(path):
        wnid, _, name = line.partition(" ")
        if not name:
            raise InputError(f"{place}: {line!r} is not 'wnid name'")
        names[wnid] = name.strip()
    times = Counter(names.values())
    return {wnid: name if times[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}


def read_val_labels(path: Path) -> dict[str, str]:
    """The wnid of each image from lines of "ImageId,PredictionString", where the wnid comes first."""
    rows = read_table(path, ("ImageId", "PredictionString"))
    return {row["ImageId"]: row["PredictionString"].partition(" ")[0] for _, row in rows}


def read(
    images: Files, classes: Mapping[str, str] | None, val_labels: Mapping[str, str], notes: Notes
) -> Iterator[Wanted]:
    for path in images.paths:
        *folders, name = path.split("/")
        split = SPLITS.get(folders[0].lower()) if folders else None
        wnid = val_labels.get(name.partition(".")[0]) if split == "val" else None
        wnid = folders[1] if len(folders) > 1 else wnid
        if split is None or wnid is None:
            notes.add("Images left out, not in a folder of a split and a class", path)
            continue
        if classes is not None and wnid not in classes:
            raise InputError(f"{images.folder / path}: the file of the classes does not have {wnid!r}")
        label = wnid if classes is None else classes[wnid]
        yield Wanted(Clip(id=path, path="", labels=(label,), split=split, extra={"x_wnid": wnid}), names=[path])


def main() -> None:
    parser = make_parser(__doc__, None, "folder with the folders train and val")
    parser.add_argument("--classes", type=Path, help="LOC_synset_mapping.txt; labels are wnids without it")
    parser.add_argument("--val_labels", type=Path, help="LOC_val_solution.csv, where val has no folders of classes")
    given = parser.parse_args()
    classes = read_classes(given.classes) if given.classes else None
    val_labels = read_val_labels(given.val_labels) if given.val_labels else {}
    notes, images = Notes(), Files(given.media, PICTURE_SUFFIXES, "image")
    write(read(images, classes, val_labels, notes), images, given.output, notes)


if __name__ == "__main__":
    run(main)
