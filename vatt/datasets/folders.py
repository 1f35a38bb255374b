"""Lists of the media files of a directory or a pattern, without files of the operating system.

These are skipped: trash, snapshot and thumbnail directories, AppleDouble files (``._a.mp4``), files of file managers,
placeholders of iCloud, special files, empty files, and further paths of a listed file.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath

from vatt.datasets.identity import file_identities
from vatt.errors import ManifestError
from vatt.media.sources.remote import is_url

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .mp3 .m4a .aac .ogg .opus .wma .oga .spx .wv .mka .m4b .mp2 .ac3 .eac3 .thd .mlp .aif .aiff .aifc .caf "
    ".w64 .rf64 .tta .voc".split()
)
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .vob .wtv .gif .mpe .m1v .m2v .m2t "
    ".3g2 .f4v .mj2 .asf .divx .mxf .nut .ogx .dv .y4m .ivf .h264 .hevc".split()
)
AMBIGUOUS_SUFFIXES = frozenset((".gif",))  # may be images or videos: listed with either
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
SYSTEM_FILES = re.compile(r"thumbs\.db|ehthumbs(_vista)?\.db|desktop\.ini|\.ds_store|\.localized|icon\r", re.IGNORECASE)
SYSTEM_FOLDERS = re.compile(
    r"__macosx|\.appledouble|\.appledb|\.trash(es|-\d+)?|\$recycle\.bin|recycler|system volume information|lost\+found"
    r"|\.spotlight-v100|\.fseventsd|\.temporaryitems|\.documentrevisions-v100|\.thumbnails|\.snapshots?|\.git"
    r"|@eadir|@tmp|@recycle|@recently-snapshot|#recycle|#snapshot|\.@__thumb|\.dropbox\.cache|\.sync",
    re.IGNORECASE,
)
SHOWN = 20  # skipped files that are named
IN_SYSTEM_DIRECTORY, DUPLICATE_PATH = "in a system directory", "listed at another path"
SPECIAL = "not a regular file"  # a FIFO, socket or device
EMPTY, DOUBLE, ICLOUD = "empty (0 bytes)", "macOS metadata (._*)", "not downloaded from iCloud"


@dataclass
class Listing:
    """What a directory or a pattern holds.

    Attributes:
        media: Media files, sorted by path: videos and audio, or images if there is neither.
        skipped: Skipped files, and skipped directories with the number of their files, each with the reason.
        counts: Number of skipped files by reason.
        others: Number of all other files by suffix.
    """

    media: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def is_listed(source: str | Path) -> bool:
    """Return whether a source is a directory or a pattern, which `list_media` lists."""
    if is_url(str(source)):
        return False
    return Path(source).is_dir() or (not Path(source).exists() and glob.has_magic(str(source)))


def list_media(source: str | Path, suffixes: frozenset[str] | None = None) -> Listing:
    """List the media files below a directory, or those that match a pattern.

    Links to directories are followed, except for those that lead back to a directory above them. A file that is
    reachable at several paths is listed once.

    Args:
        source: Directory or pattern (``*``, ``?``, ``**/`` any directories).
        suffixes: Suffixes of the files to list, in lower case. The default is `MEDIA_SUFFIXES`, or `PICTURE_SUFFIXES`
            in a directory where no file has one of those; a pattern matches both. GIF files are listed with either.

    Raises:
        ManifestError: A directory cannot be listed.
    """
    if Path(source).is_dir():
        root, paths = Path(source), sorted(_walk(source))
    else:
        root = fixed_part(str(source))
        paths = sorted(Path(name) for name in glob.glob(str(source), recursive=True) if not os.path.isdir(name))
    listing, kept = Listing(), []
    folders: Counter[Path] = Counter()
    for path in paths:
        if folder := _system_folder(path, root):
            folders[folder] += 1
        elif reason := _reason(path):
            listing.skipped.append((path, reason))
            listing.counts[reason] += 1
        else:
            kept.append(path)
    for folder, number in folders.items():
        listing.skipped.append((folder, f"{number:,} file{'s' * (number > 1)} {IN_SYSTEM_DIRECTORY}"))
        listing.counts[IN_SYSTEM_DIRECTORY] += number
    if suffixes is None and not os.path.isdir(source):
        suffixes = MEDIA_SUFFIXES | PICTURE_SUFFIXES
    elif suffixes is None:
        has_media = any(path.suffix.lower() in MEDIA_SUFFIXES - AMBIGUOUS_SUFFIXES for path in kept)
        suffixes = MEDIA_SUFFIXES if has_media else PICTURE_SUFFIXES | AMBIGUOUS_SUFFIXES
    media = [path for path in kept if path.suffix.lower() in suffixes]
    listing.others.update(path.suffix.lower() or path.name for path in kept if path.suffix.lower() not in suffixes)
    canonical = _canonical_paths(media, root)
    for path, first in zip(media, canonical, strict=True):
        if path == first:
            listing.media.append(path)
        else:
            listing.skipped.append((path, f"the same file as {first}"))
            listing.counts[DUPLICATE_PATH] += 1
    return listing


def _canonical_paths(paths: Sequence[Path], root: PurePath) -> list[Path]:
    """Return the canonical path of each file: a path without links to directories if there is one, else the first path.

    Args:
        paths: Files below ``root``.
        root: Directory.
    """
    identity, real_root = file_identities(), os.path.realpath(root)
    files = [identity(str(path)) for path in paths]
    first: dict[str, Path] = {}
    for path, file in zip(paths, files, strict=True):
        if file not in first or file == os.path.join(real_root, path.relative_to(root)):
            first[file] = path
    return [first[file] for file in files]


def fixed_part(pattern: str) -> Path:
    """Return the directory that contains all matches of a pattern: the parts before the first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1]))


def summarize(source: str | Path) -> list[str]:
    """Return lines that list the skipped files of a directory or pattern, and count files that are not media.

    Args:
        source: Any source of `vatt.datasets.manifest.read_manifest`.
    """
    if not is_listed(source):
        return []
    listing = list_media(source)
    lines = [f"skipped: {path}: {reason}" for path, reason in listing.skipped[:SHOWN]]
    if len(listing.skipped) > SHOWN:
        lines.append(f"… and {len(listing.skipped) - SHOWN:,} more")
    if listing.skipped:
        counts = "; ".join(f"{reason}: {number:,}" for reason, number in sorted(listing.counts.items()))
        lines.append(f"skipped files: {listing.counts.total():,} ({counts})")
    if listing.others:
        lines.append(f"not media by their names: {describe(listing.others.items())}")
    return lines


def describe(counts: Iterable[tuple[str, int]]) -> str:
    """Return counts as text, such as "3 .txt, 1 README"; "nothing" without any."""
    return ", ".join(f"{number:,} {name}" for name, number in sorted(counts)) or "nothing"


def _walk(folder: str | Path) -> Iterator[Path]:
    """Yield all files below a directory, including dangling links."""

    def fail(error: OSError) -> None:
        raise ManifestError(f"folder {error.filename} cannot be listed: {error.strerror}") from error

    above: dict[str, tuple[str, ...]] = {}  # real paths of the directories that contain a directory
    for top, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        real, parents = os.path.realpath(top), above.pop(top, ())
        if real in parents:
            folders.clear()
            continue
        above |= {os.path.join(top, name): (*parents, real) for name in folders}
        yield from (Path(top, name) for name in names)


def _system_folder(path: Path, root: PurePath) -> Path | None:
    """Return the first directory below ``root`` that contains ``path`` and is a system directory, or None."""
    folder = root
    for part in path.relative_to(root).parts[:-1]:
        folder = folder / part
        if SYSTEM_FOLDERS.fullmatch(part):
            return Path(folder)
    return None


def _reason(path: Path) -> str | None:
    """Return why a file is skipped, or None."""
    name = path.name
    if SYSTEM_FILES.fullmatch(name):
        return "system file"
    if name.startswith(".") and name.lower().endswith(".icloud"):
        return ICLOUD
    if name.startswith("._"):
        return DOUBLE
    if path.suffix.lower() not in MEDIA_SUFFIXES | PICTURE_SUFFIXES:
        return None
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return SPECIAL
        if status.st_size == 0:
            return EMPTY
    except OSError:  # named when it is read
        pass
    return None
