"""Files to embeddings: every window of every clip, and every text, through a trained model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vatt.datasets.batches import collate, finish
from vatt.datasets.clips import ClipReader
from vatt.datasets.manifest import read_manifest
from vatt.datasets.media.decoding import Decoder
from vatt.datasets.readers import TextReader
from vatt.datasets.text import Vocabulary, load_vocabulary
from vatt.datasets.windows import WindowStream
from vatt.errors import InputError
from vatt.models.vatt import SPACES, VATT
from vatt.retrieval.store import EmbeddingWriter
from vatt.structures import Clip, Event

KNOWN_TEXTS = 500_000  # whose vectors are remembered

OUTPUTS = {  # of the model: modality and space
    "video_va": ("video", "video_audio"),
    "video_vt": ("video", "video_text"),
    "audio_va": ("audio", "video_audio"),
    "text_vt": ("text", "video_text"),
}


@dataclass
class EmbedReport:
    """What came of an embedding run.

    Attributes:
        clips: rows of the manifest.
        embedded: clips with at least one vector.
        windows: windows that were read.
        rows: vectors written.
        events: what went wrong, file by file.
    """

    clips: int = 0
    embedded: int = 0
    windows: int = 0
    rows: int = 0
    events: list[Event] = field(default_factory=list)

    @property
    def unreadable(self) -> list[Event]:
        """Files, or the rest of files, without vectors."""
        return [event for event in self.events if event["kind"] == "unreadable"]

    @property
    def incomplete(self) -> list[Event]:
        """`unreadable`, and windows with vectors from which damaged packets are missing."""
        return [event for event in self.events if event["kind"] in ("unreadable", "damaged")]


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
) -> EmbedReport:
    """Embed a folder of media, a single file, or a manifest.

    A file longer than the model's clips is cut into windows; a shorter one is padded. Writes ``embeddings.parquet``
    (see `vatt.retrieval.store`), ``errors.csv`` and ``embeddings.json``.

    Args:
        source: folder, media file, or manifest.
        model: the model, or the folder it was saved in.
        output: folder that gets the embeddings.
        split: only these rows of a manifest.
        hop_s: distance of the windows in seconds; the length of a window unless given.
        batch_size: windows at a time.
        num_workers: processes that read.
        decoder: what reads the frames: see `vatt.datasets.media.decoding`.
        device: "cpu", "cuda", …; a GPU is used if there is one.
        windows: of each clip, spread over it whatever its length, as benchmarks' protocols want; not with ``hop_s``.

    Returns:
        What was embedded, and which files could not be.
    """
    if windows is not None and hop_s is not None:
        raise InputError("give --windows or --hop_s, not both")
    if not isinstance(model, VATT):
        model = VATT.from_pretrained(model)
    clips = read_manifest(source, split=split)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = model.to(target).eval()
    fingerprint = model.fingerprint()
    report = EmbedReport(clips=len(clips))
    with EmbeddingWriter(output, fingerprint) as writer, torch.inference_mode():
        seen: set[str] = set()
        stream = WindowStream(clips, ClipReader(model.format, None, decoder), hop_s or model.format.duration_s, windows)
        for rows, batch in _windows(model, stream, batch_size, num_workers, target):
            writer.add(rows)
            seen.update(row["id"] for row in rows)
            report.windows += len({(row["id"], row["start_s"]) for row in rows})
            report.events += batch["events"]
        report.embedded = len(seen)
        known = {event["id"] for event in report.unreadable}
        for clip in clips:
            if clip.id not in seen | known:
                reason = f"no window of it has anything that the model takes ({', '.join(model.backbone.modalities)})"
                report.events.append(Event(kind="unreadable", id=clip.id, path=clip.path, reason=reason))
        for rows, events in _texts(model, clips, batch_size):
            writer.add(rows)
            report.events += events
        report.rows = writer.rows
    _write_notes(Path(output), report, model, fingerprint, source, split, stream)
    return report


def model_vocabulary(model: VATT) -> Vocabulary:
    """The vocabulary that was saved with a model.

    Raises:
        FileNotFoundError: the model has none, or was not loaded from a folder.
    """
    if model.folder is None:
        raise FileNotFoundError("the model was not loaded from a folder, so its vocabulary is not known")
    if not (model.folder / "vocabulary").is_dir():
        raise FileNotFoundError(f"{model.folder} has no vocabulary: trained without texts, or converted without one")
    return load_vocabulary(model.folder / "vocabulary")


def encode_texts(model: VATT, texts: Sequence[str], vocabulary: Vocabulary) -> tuple[Tensor, int]:
    """Texts to vectors (N, E) in the video-text space, not normalised, and how many texts were cut to fit."""
    ids, valid, cut = TextReader(model.format, vocabulary).encode(list(texts), len(texts))
    if not valid.all():
        empty = texts[int((~valid).nonzero()[0])]
        raise InputError(f"the text {empty!r} has no word that the model's vocabulary could encode")
    device = next(model.parameters()).device
    return model(text=ids.to(device))["text_vt"].float().cpu(), cut


def _windows(
    model: VATT, stream: WindowStream, batch_size: int, num_workers: int, device: torch.device
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Rows of video and audio vectors, batch by batch."""
    loader = DataLoader(stream, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    done: set[str] = set()
    with tqdm(total=len(stream.clips), desc="embedding", unit="clip", disable=None) as bar:
        for batch in loader:
            valid = {m: batch[f"{m}_valid"] for m in ("video", "audio")}
            ready = finish({k: x.to(device) if isinstance(x, Tensor) else x for k, x in batch.items()})
            present = {m: ready[m] for m in valid if m in model.backbone.modalities and valid[m].any()}
            vectors = {name: x.float().cpu() for name, x in model(**present).items() if name in OUTPUTS}
            rows = []
            for i, name in enumerate(batch["id"]):
                where = {"id": name, **{key: batch[key][i] for key in ("path", "start_s", "end_s")}}
                for output, x in vectors.items():
                    modality, space = OUTPUTS[output]
                    if valid[modality][i]:
                        rows.append({**where, "modality": modality, "space": space, "vector": x[i].numpy()})
            bar.update(len(set(batch["id"]) - done))
            done.update(batch["id"])
            yield rows, batch


def _texts(model: VATT, clips: Sequence[Clip], batch_size: int) -> Iterator[tuple[list[dict[str, Any]], list[Event]]]:
    """Rows of text vectors: every text that training would take of a clip, in the order of the manifest."""
    if not any(clip.texts or clip.words for clip in clips):
        return
    try:
        vocabulary = model_vocabulary(model)
    except FileNotFoundError as error:
        yield [], [Event(kind="skipped", id="", path=str(model.folder), reason=f"texts are not embedded: {error}")]
        return
    reader = TextReader(model.format, vocabulary)
    known: dict[str, np.ndarray] = {}  # what is said twice has one vector, whatever the batches are
    captions = [(clip, text, len(vocabulary.encode(text.text))) for clip in clips for text in reader.candidates(clip)]
    for begin in range(0, len(captions), 8 * batch_size):
        rows, events = [], []
        for clip, text, length in captions[begin : begin + 8 * batch_size]:
            if length == 0:
                reason = f"the vocabulary has nothing for the text {text.text!r}"
                events.append(Event(kind="skipped", id=clip.id, path=clip.path, reason=reason))
        part = [(clip, text) for clip, text, length in captions[begin : begin + 8 * batch_size] if length]
        new = [text for text in dict.fromkeys(text.text for _, text in part) if text not in known]
        if len(known) + len(new) > KNOWN_TEXTS:
            known.clear()
            new = list(dict.fromkeys(text.text for _, text in part))
        if new:
            known |= zip(new, encode_texts(model, new, vocabulary)[0].numpy(), strict=True)
        for clip, text in part:
            vector = known[text.text]
            start_s = clip.start_s if text.start_s is None else text.start_s
            end_s = (clip.end_s if text.end_s is None else text.end_s) or 0.0
            rows.append(
                {
                    "id": clip.id,
                    "path": clip.path,
                    "start_s": start_s,
                    "end_s": end_s,
                    "modality": "text",
                    "space": "video_text",
                    "text": text.text,
                    "vector": vector,
                }
            )
            if len(vocabulary.encode(text.text)) > model.format.num_words:
                reason = f"text cut to {model.format.num_words} ids: {text.text}"
                events.append(Event(kind="truncated", id=clip.id, path=clip.path, reason=reason))
        yield rows, events


def _write_notes(
    output: Path,
    report: EmbedReport,
    model: VATT,
    fingerprint: str,
    source: str | Path,
    split: str | None,
    stream: WindowStream,
) -> None:
    with (output / "errors.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["kind", "id", "path", "reason"])
        writer.writeheader()
        writer.writerows(report.events)
    notes = {
        "model": fingerprint,
        "model_folder": str(model.folder.resolve()) if model.folder else None,
        "source": str(source),
        "split": split,
        "window_s": model.format.duration_s,
        "hop_s": stream.hop_s if stream.count is None else None,
        "windows_per_clip": stream.count,
        "spaces": list(SPACES),
        "lists": sorted({str(clip.extra.get("x_list", "none")) for clip in stream.clips.heads()}),
        "clips": report.clips,
        "embedded": report.embedded,
        "windows": report.windows,
        "rows": report.rows,
    }
    (output / "embeddings.json").write_text(json.dumps(notes, indent=1), encoding="utf-8")
