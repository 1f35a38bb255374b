"""Convert WebDataset tars, such as those of video2dataset, without unpacking them.

A sample consists of the members with the same name up to the first dot, in any order: KEY.mp4 (or .webm, .jpg, …),
KEY.m4a (or .wav, …) if the audio has a file of its own, KEY.txt with the caption, or KEY.json with a key such as
"caption", and KEY.cls with the number of the class. If a key occurs several times, the n-th KEY.mp4 and the n-th
KEY.txt belong together. Nothing is unpacked: the path of a row is the tar with the offset and size of the media file.

Usage:
    vatt manifest webdataset tars/ --output tars/clips.jsonl
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import tarfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from vatt.datasets.folders import AMBIGUOUS_SUFFIXES, AUDIO_SUFFIXES, MEDIA_SUFFIXES, PICTURE_SUFFIXES
from vatt.datasets.manifests.values import unique_keys
from vatt.datasets.rows import BadCell
from vatt.errors import InputError
from vatt.media.sources.files import member
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.writing import Notes, Wanted, run, write
from vatt.structures import Clip, TimedText

VIDEO_SUFFIXES = MEDIA_SUFFIXES - AUDIO_SUFFIXES - AMBIGUOUS_SUFFIXES
KINDS = {"video": VIDEO_SUFFIXES, "picture": PICTURE_SUFFIXES, "sound": AUDIO_SUFFIXES}
ALL_MEDIA = frozenset().union(*KINDS.values())
TEXT_SUFFIXES = (".txt", ".json")
CLASS_SUFFIX = ".cls"
KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # as the library has it


@dataclass
class Sample:
    """The members of one key: where each kind of media lies, and what the texts and the file of the class hold."""

    key: str
    places: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    label: bytes | None = None


def members(path: Path, notes: Notes) -> Iterator[tuple[str, str, tuple[int, int], bytes]]:
    """Key, suffix, offset and size of each member of a tar, in its order; the content as well if it is text.

    Raises:
        InputError: it is compressed, or no tar.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            size = path.stat().st_size
            for info in tar:
                named = KEY.fullmatch(normalize("NFC", posixpath.normpath(info.name)))
                if not info.isreg() or named is None:
                    continue
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                suffix = f".{named[2].lower()}"
                if not info.size and Path(f"x{suffix}").suffix in ALL_MEDIA:
                    notes.add("Media files without content, left out", f"{path}, {info.name}")
                    continue
                content = tar.extractfile(info).read() if suffix.endswith((*TEXT_SUFFIXES, CLASS_SUFFIX)) else b""
                yield named[1], suffix, (info.offset_data, info.size), content
    except tarfile.ReadError as error:
        with path.open("rb") as file:
            begin = file.read(6)
        if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise InputError(f"{path} is compressed, so that nothing in it has a place: decompress it") from None
        if "end of data" not in str(error):
            raise InputError(f"{path} is no tar: {error}") from None
        notes.add("Tars that were cut off, read as far as they are whole", str(path))


def samples(path: Path, notes: Notes) -> Iterator[Sample]:
    """Return the samples of a tar in the order of their first members.

    A member belongs to the first sample of its key that has no member of its suffix yet. This supports tars with all
    videos before all captions, and several samples of one key, whose ids are ``KEY``, ``KEY#2``, …
    """
    result: dict[tuple[str, int], Sample] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for key, suffix, place, content in members(path, notes):
        number = counts[key, suffix] = counts[key, suffix] + 1
        sample = result.setdefault((key, number), Sample(key if number == 1 else f"{key}#{number}"))
        if number > 1:
            notes.add("Members whose name occurs again in their tar, read as further samples", f"{path}, {key}{suffix}")
        if suffix.endswith(TEXT_SUFFIXES):
            sample.texts[suffix] = content
        elif suffix == CLASS_SUFFIX:
            sample.label = content
        for kind, suffixes in KINDS.items():
            if Path(f"x{suffix}").suffix in suffixes:
                sample.places.setdefault(kind, []).append(place)
    return iter(result.values())


def caption_of(sample: Sample, names: Sequence[str], where: str, notes: Notes) -> str:
    """Return the caption of a sample; empty if there is none.

    Raises:
        InputError: An object in the JSON has a key twice.
    """
    # KEY.txt comes before KEY.en.txt, and both before JSON.
    suffixes = sorted(sample.texts, key=lambda suffix: (suffix.endswith(".json"), suffix.count("."), suffix))
    if not suffixes:
        return ""
    content = sample.texts[suffixes[0]]
    try:
        if suffixes[0].endswith(".txt"):
            return content.decode("utf-8-sig").strip()
        described = json.loads(content, object_pairs_hook=unique_keys)
    except BadCell as error:
        raise InputError(f"{where}{suffixes[0]}: {error}; keep one of them") from None
    except (ValueError, RecursionError):
        notes.add("Captions that are not UTF-8 or not JSON", where)
        return ""
    found = (described.get(name) for name in names) if isinstance(described, dict) else ()
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), "")


def labels_of(sample: Sample, where: str, notes: Notes) -> tuple[str, ...]:
    """Return the class of a sample, an integer; empty if there is none."""
    if sample.label is None:
        return ()
    if not sample.label.strip().isdigit():
        notes.add("Classes that are not integers, left out", f"{where}{CLASS_SUFFIX}")
        return ()
    return (str(int(sample.label)),)


def read(path: Path, folder: str, names: Sequence[str], split: str | None, notes: Notes) -> Iterator[Wanted]:
    """The rows of a tar. Ids are ``<tar>/<key>``, where the tar is named from the folder on."""
    tar = Path(os.path.relpath(path, folder)).with_suffix("").as_posix()
    for sample in samples(path, notes):
        where = f"{tar}/{sample.key}"
        chosen = next((kind for kind in KINDS if kind in sample.places), None)
        if chosen is None:
            notes.add("Samples without media", where)
            continue
        if any(len(places) > 1 for places in sample.places.values()):
            notes.add("Samples with several files of one kind, of which the first is taken", where)
        caption = caption_of(sample, names, where, notes)
        if not caption:
            notes.add("Rows without a caption", where)
        first = {kind: member(str(path), *places[0]) for kind, places in sample.places.items()}
        sound = first.get("sound") if chosen != "sound" else None
        texts = (TimedText(caption),) if caption else ()
        labels = labels_of(sample, where, notes)
        yield Wanted(Clip(id=where, path=first[chosen], texts=texts, labels=labels, split=split, audio_path=sound))


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("tars", type=Path, nargs="+", help="tars, or folders that are searched for some")
    parser.add_argument("--output", type=Path, required=True, help="the manifest, a .jsonl file")
    parser.add_argument("--caption", nargs="+", default=["caption", "text"], help="names of the caption in the JSON")
    parser.add_argument("--split", help="of all rows")
    given = parser.parse_args()
    notes, paths, folders = Notes(), [], []
    for source in given.tars:
        found = sorted(source.rglob("*.tar")) if source.is_dir() else [source]
        if not found:
            packed = next(source.rglob("*.tar.*"), None)
            raise InputError(
                f"folder {source} holds no .tar" + (f", but {packed.name}: decompress it" if packed else "")
            )
        folders.append(source if source.is_dir() else source.parent)
        paths += found
    common = os.path.commonpath(map(os.path.abspath, folders))  # tars of two folders may have the same name
    wanted = (row for path in paths for row in read(path, common, given.caption, given.split, notes))
    write(wanted, Files(folders[0]), given.output, notes)


if __name__ == "__main__":
    run(main)
