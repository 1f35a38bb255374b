"""Files to embeddings: every window of every clip, and every text, through a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.manifest import read_manifest
from vatt.datasets.table import ClipTable
from vatt.datasets.windows import ShardedWindows, Windows
from vatt.errors import InputError
from vatt.media.decoding import Decoder
from vatt.media.sources.files import state
from vatt.models.device import resolve_device
from vatt.models.encoding import read_modalities
from vatt.models.vatt import SPACES, VATT
from vatt.retrieval.embedder import Embedder, predict
from vatt.retrieval.paths import absolute, parent_directory, roots_of
from vatt.retrieval.store import FILE, SCHEMA, missing_shards, read_errors, read_notes, tidy, write_notes
from vatt.structures import NOT_READ, Clip, Event

SHARD_CLIPS = 512


@dataclass
class EmbedReport:
    """What came of an embedding run.

    Attributes:
        clips: rows of the manifest.
        embedded: clips with at least one vector of picture or sound, or of text where only texts were wanted.
        windows: windows with one.
        rows: vectors written.
        missing: shards that other parts have still to write.
        events: what went wrong, file by file.
        first: this is the first of the processes that share the work, which reports.
    """

    clips: int = 0
    embedded: int = 0
    windows: int = 0
    rows: int = 0
    missing: int = 0
    events: list[Event] = field(default_factory=list)
    first: bool = True

    @property
    def unreadable(self) -> list[Event]:
        """Files, or the rest of files, without vectors."""
        return [event for event in self.events if event["kind"] in NOT_READ]

    @property
    def incomplete(self) -> list[Event]:
        """`unreadable`, and windows with vectors from which damaged packets are missing."""
        return [event for event in self.events if event["kind"] in (*NOT_READ, "damaged")]


def embed(
    source: str | Path,
    model: VATT | str | Path,
    output: str | Path,
    split: str | None = None,
    hop_s: float | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    decoder: Decoder = "auto",
    device: str | None = None,
    windows: int | None = None,
    overwrite: bool = False,
    devices: int = 1,
    nodes: int = 1,
    part: tuple[int, int] = (1, 1),
    shard_clips: int = SHARD_CLIPS,
    modalities: Sequence[str] | None = None,
    bar: tqdm[Any] | None = None,
) -> EmbedReport:
    """Embed a folder of media, a single file, or a manifest.

    A file longer than the model's clips is cut into windows; a shorter one is padded. Writes what
    `vatt.retrieval.store` describes. What was stopped is gone on with, at the first shard that is not there; the
    vectors are those of a run that was not stopped.

    Args:
        source: folder, media file, pattern of such (``clips/**/*.mp4``), or manifest.
        model: the model, or the folder it was saved in.
        output: folder that gets the embeddings.
        split: only these rows of a manifest.
        hop_s: distance of the windows in seconds; the length of a window unless given.
        batch_size: windows at a time.
        num_workers: processes that read, for each one that computes.
        decoder: what reads the frames: see `vatt.media.decoding`.
        device: "cpu", "cuda", "cuda:1", …; a GPU is used if there is one.
        windows: of each clip, spread over it whatever its length, as benchmarks' protocols want; not with ``hop_s``.
        overwrite: delete other embeddings that are there.
        devices: processes (GPUs) on this machine that share the shards.
        nodes: machines that do, each with so many devices, started by SLURM or torchrun.
        part: (3, 8): only the third of eight parts, for jobs that know nothing of each other and write into one folder.
        shard_clips: clips of a shard.
        modalities: of video, audio and text those that are wanted; all that the model takes unless given.
        bar: Existing progress bar to use; a new one by default.

    Returns:
        What was embedded by now, by all processes and parts, and which files could not be.

    Raises:
        InputError: options that cannot be.
        StoreError: ``output`` has other embeddings.
        DirectoryInUse: another process writes the same part, or other embeddings, to ``output``.
        WriteError: the disk is full or read-only.
    """
    if windows is not None and hop_s is not None:
        raise InputError("give --windows or --hop_s, not both")
    if not 1 <= part[0] <= part[1]:
        raise InputError(f"a part is one of so many, as 3/8, not {part[0]}/{part[1]}")
    if overwrite and part[1] > 1:
        raise InputError(f"one part cannot overwrite what the others write: delete {output} before")
    resolve_device(device)
    if not isinstance(model, VATT):
        model = VATT.from_pretrained(model)
    if not model.projection.branches:
        raise InputError(
            "this model has no common space, as one that was trained on video alone: there are no vectors; "
            "probe it (vatt probe) or fine-tune it (vatt finetune)"
        )
    read_of = read_modalities(model, modalities)
    source = absolute(source)
    clips = read_manifest(source, split=split)
    read = Windows(
        ClipReader(model.format, None, decoder, modalities=read_of), hop_s or model.format.duration_s, windows
    )
    plan = {
        "model": model.model_hash(),
        "files": _digest(clips),
        "hop_s": read.hop_s if windows is None else None,
        "windows_per_clip": windows,
        "modalities": sorted(modalities or model.backbone.modalities),
        "columns": SCHEMA.names,
        "shard_clips": shard_clips,
        "shards": -(-len(clips) // shard_clips),
    }
    notes = _notes(model, source, clips, Path(output)) | {"split": split}
    notes |= {key: plan[key] for key in ("model", "hop_s", "windows_per_clip", "modalities")}
    stream = ShardedWindows(clips, read, [], shard_clips, batch_size)
    embedder = Embedder(model, stream, Path(output), plan, notes, overwrite, part, num_workers, bar)
    embedder.events[0] += clips.skipped
    try:
        first = predict(embedder, device, devices, nodes)
        return _finished(Path(output), clips, first)
    finally:
        embedder.release()


def _notes(model: VATT, source: str, clips: ClipTable, output: Path) -> dict[str, Any]:
    """Return the metadata of embeddings that their vectors do not depend on."""
    return {
        "model_folder": absolute(model.directory) if model.directory else None,
        "folder": absolute(output),
        "roots": _roots(source, clips),
        "source": source,
        "window_s": model.format.duration_s,
        "spaces": list(SPACES),
        "lists": sorted({str(clip.extra.get("x_list", "none")) for clip in clips.heads()}),
        "clips": len(clips),
    }


def _roots(source: str, clips: ClipTable) -> list[str]:
    """Return the directories that contain all media: the folder itself, or those of the files of a manifest."""
    if Path(source).is_dir():
        return [source]
    return list(roots_of({parent_directory(absolute(clip.path)) for clip in clips.heads()}))


def _digest(clips: Sequence[Clip]) -> str:
    """A hash of what is embedded: of the rows, and of the sizes and times of their files."""
    digest, states = sha256(), {}
    for clip in clips:
        for path in (clip.path, clip.audio_path):
            if path is not None and path not in states:
                try:
                    states[path] = state(path)
                except OSError as error:
                    states[path] = str(error)
        located = replace(clip, path=absolute(clip.path), audio_path=clip.audio_path and absolute(clip.audio_path))
        digest.update(repr((located, states[clip.path], states.get(clip.audio_path))).encode())
    return digest.hexdigest()[:12]


def _finished(output: Path, clips: ClipTable, first: bool) -> EmbedReport:
    """Count what is there; if that is everything, say so in the notes."""
    notes = read_notes(output)
    report = EmbedReport(clips=len(clips) + len(clips.skipped), events=read_errors(output), first=first)
    report.missing = len(missing_shards(output, notes["plan"]["shards"]))
    seen, windows = set(), set()
    for file in sorted((output / FILE).glob("*.parquet")):
        table = pq.read_table(file, columns=["id", "start_s", "modality"])
        report.rows += table.num_rows
        read = table if notes["modalities"] == ["text"] else table.filter(pc.field("modality") != "text")
        names = read.column("id").to_pylist()
        seen.update(names)
        windows.update(zip(names, read.column("start_s").to_pylist(), strict=True))
    report.embedded, report.windows = len(seen), len(windows)
    counted = {key: getattr(report, key) for key in ("embedded", "windows", "rows")}
    if first and not report.missing:
        tidy(output)
    if first and not report.missing and not notes["complete"]:
        write_notes(output, notes | {"complete": True} | counted)
    return report
