"""Media files of an index for the search page. Only files in the indexed directories are served, by number."""

from __future__ import annotations

import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vatt.datasets.loading.processes import Failure, Processes
from vatt.errors import InputError
from vatt.media.sources.files import member, split_member, state
from vatt.media.sources.remote import is_url
from vatt.media.tracks.streams import Streams, read_streams
from vatt.media.types import MediaError
from vatt.models.vatt import VATT
from vatt.retrieval.index import Index
from vatt.retrieval.paths import roots_of
from vatt.retrieval.results import Result
from vatt.retrieval.search import Answers
from vatt.retrieval.web.media_types import Delivery, delivery
from vatt.retrieval.web.messages import shortened
from vatt.retrieval.web.reading import read_frame

FRAME_LIMIT_S, READ_LIMIT_S = 3.0, 15.0  # time limits of each read of a file, and of a thumbnail
PROCESSES = 4  # that read files: two thumbnails and two uploads
FRAME_BYTES = 2**26  # of cached thumbnails
REMOTE = ("http://", "https://", "s3://", "gs://", "gcs://", "az://", "abfs://", "hf://")
CAPTIONS = 2  # number per result
CHECKED, SHOWN_ROOTS = 10_000, 8  # files that are checked at the start, and directories in a message


class Library:
    """Media files of an index by number.

    Args:
        index: The index.
        model: Model that made the index.
        roots: Directories whose files are served. Default: those of the index.
        urls: Whether URLs of the index are opened.

    Raises:
        InputError: One of ``roots`` is not a directory.

    Attributes:
        paths: All paths in the index, as they are stored.
        numbers: Number of each path. If the index was moved, also of the present paths of its files.
        with_frames: Numbers of files with video embeddings.
        roots: Directories whose files are served, without symbolic links.
        processes: Processes that read media, so that a file which crashes a decoder fails alone.
    """

    def __init__(
        self, index: Index, model: VATT, roots: Sequence[str | Path] | None = None, urls: bool = False
    ) -> None:
        self.index, self.model, self.urls = index, model, urls
        paths = {name: pc.unique(part.rows.column("path")).to_pylist() for name, part in index.parts.items()}
        self.paths = sorted(set().union(*paths.values()))
        self.numbers = {path: number for number, path in enumerate(self.paths)}
        self.with_frames = {
            self.numbers[path] for (modality, _), some in paths.items() if modality == "video" for path in some
        }
        if index.location.moved:
            self.numbers = {index.location.relocated(path): n for path, n in self.numbers.items()} | self.numbers
        if missing := [str(root) for root in roots or () if not Path(root).is_dir()]:
            raise InputError(f"--roots: not a directory: {', '.join(missing)}")
        roots = [root for root in index.roots if not is_url(root)] if roots is None else roots
        self.roots = tuple(sorted({resolved for root in roots if (resolved := _resolved(root)) is not None}))
        self._frames = _Cache(FRAME_BYTES)
        self.processes = Processes(PROCESSES, READ_LIMIT_S, fatal=lambda error: True)

    @property
    def modalities(self) -> list[Answers]:
        """Modalities of the index."""
        present = {modality for (modality, _), part in self.index.parts.items() if len(part)}
        return [modality for modality in ("video", "audio", "text") if modality in present]

    def counts(self) -> tuple[int, int]:
        """Return the number of clips and of files."""
        parts = [part.rows.select(["id", "path"]).filter(pa.array(part.kept)) for part in self.index.parts.values()]
        clips = pa.concat_tables(parts, promote_options="permissive").group_by(["id", "path"]).aggregate([])
        return clips.num_rows, len(pc.unique(clips.column("path")))

    def facts(self) -> list[str]:
        """Return lines that describe model, index and corpus."""
        lines = [
            f"model: {self.index.model}, {', '.join(self.model.backbone.modalities)}, "
            f"windows of {self.model.format.duration_s:g} s",
            f"index: {Path(self.index.name).name}, {len(self.index):,} vectors of {len(self.paths):,} files",
        ]
        for (modality, space), part in sorted(self.index.parts.items()):
            removed = part.total - len(part)
            suffix = f", {removed:,} removed" if removed else ""
            lines.append(f"{len(part):,} {modality} in {space.replace('_', '-')} ({part.kind}, {part.width}{suffix})")
        return lines

    @property
    def folders(self) -> list[str | Path]:
        """Directories that messages must not reveal."""
        known = self.model.folder, self.index.model_folder
        named = [folder for folder in known if folder]
        return [*self.roots, *self.index.roots, self.index.name, Path.cwd(), Path.home(), *named]

    # ---- files -----------------------------------------------------------------------------------------------

    def file(self, number: int) -> Path | None:
        """Return a local regular file if it lies inside a root after resolving symbolic links, else None."""
        path = self.index.media(self.paths[number])
        if is_url(path):
            return None
        resolved = self._inside(path)
        return resolved if resolved is not None and _is_regular(resolved) else None

    def source(self, number: int) -> str | None:
        """Return what `open_media` opens: a `file`, a member of a shard inside a root, or a URL if URLs are enabled."""
        path = self.index.media(self.paths[number])
        if is_url(path):
            return path if self.urls and path.startswith(REMOTE) and "::" not in path else None
        name, offset, size = _member(path)
        resolved = self._inside(name)
        if resolved is None or not _is_regular(resolved):
            return None
        return str(resolved) if size is None else member(str(resolved), offset, size)

    def problem(self, number: int) -> str | None:
        """Return why a file cannot be shown, or None if it can."""
        path = self.index.media(self.paths[number])
        if self.source(number) is not None:
            return None
        if is_url(path):
            return "unsupported URL" if self.urls else "URLs are disabled; start with --urls true"
        return "outside the indexed directories" if self._inside(_member(path)[0]) is None else "file not found"

    def describe_outside(self) -> str | None:
        """Describe the existing media outside the roots after resolving symbolic links, or return None.

        Of a large index, about `CHECKED` evenly spaced files are checked.
        """
        local = [path for path in self.paths[:: len(self.paths) // CHECKED + 1] if not is_url(path)]
        files = [_resolved(_member(self.index.media(path))[0]) for path in local]
        outside = [file for file in files if file and _is_regular(file) and not self._inside(file)]
        if not outside:
            return None
        roots = roots_of([*map(str, self.roots), *(str(file.parent) for file in outside)], SHOWN_ROOTS)
        return (
            f"{len(outside):,} of {len(local):,} media files lie outside these directories after resolving symbolic "
            f"links, and are not shown: to show them, set --roots [{','.join(roots)}]"
        )

    def delivery(self, number: int) -> Delivery | None:
        """Return how the page plays a file; None for still images and for files that cannot be shown."""
        source = self.source(number)
        return None if source is None else delivery(source, self._read_streams)

    def _read_streams(self, source: str, time_limit_s: float) -> Streams:
        streams = self.processes.run(read_streams, source, time_limit_s)
        if isinstance(streams, Failure):
            raise MediaError(source, streams.reason)
        return streams

    def name(self, path: str) -> str:
        """Return the file name of a path."""
        return (path.partition("?")[0] if is_url(path) else path).rstrip("/").rpartition("/")[2] or path

    def short(self, text: str) -> str:
        """Return a clip id without the root. Ids of scanned directories are paths."""
        for root in map(str, self.roots):
            if text.startswith(root.rstrip("/") + "/"):
                return text[len(root.rstrip("/")) + 1 :]
        return self.name(text) if text.startswith("/") else text

    def _inside(self, path: str | Path) -> Path | None:
        """Return a path without symbolic links if it lies inside a root, else None."""
        resolved = _resolved(path)
        return resolved if resolved is not None and any(root in resolved.parents for root in self.roots) else None

    # ---- thumbnails and captions -----------------------------------------------------------------------------

    def frame(self, number: int, time_s: float) -> bytes:
        """Return the frame of a file at a time as JPEG.

        Args:
            number: Number of the file.
            time_s: Time in seconds.

        Raises:
            LookupError: The file cannot be shown, or has no frame at that time.
        """
        source = self.source(number)
        if source is None or not np.isfinite(time_s) or time_s < 0:
            raise LookupError("no such frame")
        try:
            key = source, state(source), round(time_s, 2)
            image = self._frames.get(key)
            if image is None:
                image = self.processes.run(read_frame, source, time_s, FRAME_LIMIT_S)
        except (MediaError, OSError) as error:
            raise LookupError("the file cannot be read") from error
        if isinstance(image, Failure) and image.kind != "crashed":
            raise LookupError("the file cannot be read")
        image = b"" if isinstance(image, Failure) else image  # it would crash another process
        self._frames.put(key, image)
        if not image:
            raise LookupError("the file cannot be read")
        return image

    def captions(self, hits: Sequence[Result]) -> dict[tuple[str, int], list[str]]:
        """Return captions by id of the clip and number of the file, the nearest in time to the segment first.

        Args:
            hits: Results. The first one of a clip counts.
        """
        part = self.index.parts.get(("text", "video_text"))
        if part is None or not hits:
            return {}
        rows, ids = part.rows, part.rows.column("id")
        is_clip = pc.is_in(ids, pa.array(list({hit.id for hit in hits}), ids.type))
        mask = pc.and_(is_clip, pa.array(part.kept))
        middles = {(hit.id, self.numbers[hit.path]): (hit.start_s + hit.end_s) / 2 for hit in reversed(hits)}
        texts: dict[tuple[str, int], dict[str, float]] = {}
        for row in rows.filter(mask).to_pylist():
            key = row["id"], self.numbers[row["path"]]
            if key in middles and row["text"]:
                distance = abs((row["start_s"] + row["end_s"]) / 2 - middles[key])
                distances = texts.setdefault(key, {})
                distances[row["text"]] = min(distance, distances.get(row["text"], distance))
        nearest = {key: sorted(clip, key=clip.__getitem__)[:CAPTIONS] for key, clip in texts.items()}
        return {key: [shortened(text) for text in clip] for key, clip in nearest.items()}

    def example(self) -> str | None:
        """Return a caption of the index as an example of a query, or None."""
        part = self.index.parts.get(("text", "video_text"))
        if part is None:
            return None
        texts = part.rows.column("text").filter(pa.array(part.kept)).slice(0, 1000).to_pylist()
        return next((shortened(text.strip(), 80) for text in texts if text and text.strip()), None)


class _Cache:
    """Least recently used cache of bytes.

    Args:
        limit: Maximum size in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._values: OrderedDict[Any, bytes] = OrderedDict()

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Any, value: bytes) -> None:
        with self._lock:
            self._size += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._size > self._limit:
                self._size -= len(self._values.popitem(last=False)[1])


def _member(path: str) -> tuple[str, int, int | None]:
    try:
        return split_member(path)
    except (OSError, ValueError):
        return path, 0, None


def _resolved(path: str | Path) -> Path | None:
    """Return an absolute path without symbolic links, or None for an impossible path."""
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or a loop of symbolic links
        return None


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
