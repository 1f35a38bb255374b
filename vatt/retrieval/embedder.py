"""Prediction by Lightning: shards of windows and texts through a model, on one or many devices, into a store."""

from __future__ import annotations

import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from tqdm import tqdm

from vatt.datasets.windows import Part, ShardedWindows, WindowLoader
from vatt.errors import InputError, VattError
from vatt.models.device import resolve_device
from vatt.models.encoding import encode_windows
from vatt.models.vatt import VATT
from vatt.retrieval.claims import PartLock, claim_part
from vatt.retrieval.paths import absolute
from vatt.retrieval.store import Row, missing_shards, read_errors, remove_crashed, write_shard
from vatt.retrieval.tables import MAX_LENGTH
from vatt.retrieval.texts import embed_texts
from vatt.structures import NOT_READ, Batch, Clip, Event


class Embedder(L.LightningModule):
    """Embeds the shards that are not there yet, those of this process, and writes each when it has all of it.

    Args:
        model: whose vectors they are.
        stream: of all clips.
        output: folder of the embeddings.
        plan, notes, overwrite: see `vatt.retrieval.claims.claim_part`.
        part: which of how many parts of the shards.
        num_workers: processes that read.
        bar: Existing progress bar to use; a new one by default.
    """

    def __init__(
        self,
        model: VATT,
        stream: ShardedWindows,
        output: Path,
        plan: dict[str, Any],
        notes: dict[str, Any],
        overwrite: bool,
        part: tuple[int, int],
        num_workers: int,
        bar: tqdm[Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.stream, self.output = model, stream, output
        self.plan, self.notes, self.overwrite = plan, notes, overwrite
        self.part, self.num_workers, self.bar = part, num_workers, bar
        self.rows: dict[int, list[Row]] = defaultdict(list)
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.seen: dict[int, set[str]] = defaultdict(set)  # clips that the bar has counted
        self.ended: dict[int, int] = defaultdict(int)
        self._lock: PartLock | None = None

    def setup(self, stage: str) -> None:
        """Lock the directory and list the missing shards."""
        refusal: Exception | None = None
        if self.trainer.is_global_zero:
            try:
                self._lock = claim_part(self.output, self.part, self.plan, self.notes, self.overwrite)
            except (VattError, OSError) as error:
                refusal = error
        if self.trainer.strategy.broadcast(refusal is not None):
            raise refusal or SystemExit(2)  # the first process reports why
        number, parts = self.part
        left = [shard for shard in missing_shards(self.output, self.plan["shards"]) if shard % parts == number - 1]
        self.stream.shards = left[self.global_rank :: self.trainer.world_size]
        self.trainer.strategy.barrier("all know what is left")  # before anybody writes
        clips = sum(len(self.stream.clips_of(shard)) for shard in self.stream.shards)
        if self.bar is None:
            self.bar = tqdm(desc="embedding", unit="clip", disable=None if self.global_rank == 0 else True)
        self.bar.set_description("embedding", refresh=False)
        self.bar.reset(clips)

    def release(self) -> None:
        """Release the lock of the directory."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def predict_dataloader(self) -> Iterable[Part]:
        return iter(WindowLoader(self.stream, self.num_workers))  # Lightning would rebuild a loader

    def predict_step(self, part: Part, batch_idx: int) -> int:
        """Embed a batch; write the shard, if this was its last one. Returns how many windows it had."""
        shard, batch = part["shard"], part["batch"]
        if batch is not None:
            self.rows[shard] += self.rows_of(batch)
            self.events[shard] += batch["events"]
            new = set(batch["id"]) - self.seen[shard]
            self.seen[shard] |= new
            self.bar.update(len(new))
        self.ended[shard] += part["ends"]
        if self.ended[shard] == max(1, self.num_workers):
            self.write(shard)
        return 0 if batch is None else len(batch["id"])

    def on_predict_end(self) -> None:
        self.bar.close()
        self.trainer.strategy.barrier("all is written")
        if self.trainer.is_global_zero:
            self.remove_crashed()

    def remove_crashed(self) -> None:
        """Remove all windows of files that crashed a process. Which ones were read before depends on timing."""
        events = read_errors(self.output)
        reasons = {event["path"]: event["reason"] for event in events if event["kind"] == "crashed"}
        missing = set(missing_shards(self.output, self.plan["shards"]))
        for shard in range(self.plan["shards"] if reasons else 0):
            crashed = []
            for clip in self.stream.clips_of(shard) if shard not in missing else ():
                for path in dict.fromkeys(map(absolute, filter(None, (clip.path, clip.audio_path)))):
                    if path in reasons:
                        event = Event(kind="crashed", id=clip.id, path=path, reason=reasons[path])
                        crashed.append(_storable(event))
                        break
            if crashed:
                remove_crashed(self.output, shard, crashed)

    def rows_of(self, batch: Batch) -> list[Row]:
        """Rows of what a batch has of pictures and sounds."""
        rows = []
        for (modality, space), x in encode_windows(self.model, batch).items():
            vectors, real = x.numpy(), batch[f"{modality}_valid"].tolist()  # type: ignore[literal-required]
            rows += [
                {key: batch[key][i] for key in ("id", "path", "start_s", "end_s")}  # type: ignore[literal-required]
                | {"modality": modality, "space": space, "vector": vectors[i]}
                for i in range(len(vectors))
                if real[i]
            ]
        return rows

    def write(self, shard: int) -> None:
        """Write a shard: windows in the order of the clips and of time, then texts."""
        clips, rows, events = self.stream.clips_of(shard), self.rows.pop(shard, []), self.events.pop(shard, [])
        order, usable = {clip.id: i for i, clip in enumerate(clips)}, []
        for clip in clips:
            if reason := _unusable(clip):
                events.append(Event(kind="unreadable", id=clip.id, path=clip.path, reason=reason))
            else:
                usable.append(clip)
        known = {clip.id for clip in usable}
        rows = [row for row in rows if row["id"] in known]
        rows.sort(key=lambda row: (order[row["id"]], row["start_s"], row["modality"], row["space"]))
        text_rows, text_events = embed_texts(self.model, usable) if "text" in self.plan["modalities"] else ([], [])
        read = self.stream.windows.reader.modalities
        known = {row["id"] for row in (rows if read else text_rows)}
        known |= {event["id"] for event in events if event["kind"] in NOT_READ}
        for clip in clips:
            if clip.id not in known:
                reason = f"no window of it has anything that is embedded ({', '.join(read)})" if read else "no text"
                kind = "unreadable" if read else "skipped"
                events.append(Event(kind=kind, id=clip.id, path=clip.path, reason=reason))
        if shard and not text_rows:  # that there is no vocabulary is said once
            text_events = [event for event in text_events if event["id"]]
        events.sort(key=lambda event: order.get(event["id"], -1))
        columns = {
            clip.id: {
                "path": absolute(clip.path),
                "clip_start_s": clip.start_s,
                "clip_end_s": clip.end_s,
                "extra": _extra(clip),
            }
            for clip in usable
        }
        rows = [row | columns[row["id"]] for row in rows + text_rows]
        write_shard(self.output, self.plan["model"], rows, map(_storable, events + text_events), shard)
        self.bar.update(len(clips) - len(self.seen.pop(shard, ())))


def _unusable(clip: Clip) -> str | None:
    """Return why a clip cannot be stored, or None."""
    for column, value in (("id", clip.id), ("path", absolute(clip.path)), ("extra", _extra(clip) or "")):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return f"its {column} is not valid Unicode: rename the file"
        if size > MAX_LENGTH[column]:
            return f"its {column} has {size:,} bytes, more than {MAX_LENGTH[column]:,}"
    return None


def _storable(event: Event) -> Event:
    """Return an event with an absolute path and texts that UTF-8 can encode."""
    values = event | {"path": absolute(event["path"])}
    return {key: value.encode(errors="backslashreplace").decode() for key, value in values.items()}  # type: ignore


def _extra(clip: Clip) -> str | None:
    """What the manifest says of a clip beside its texts."""
    extra = {"split": clip.split, "labels": list(clip.labels), **clip.extra}
    extra = {key: value for key, value in extra.items() if value not in (None, [])}
    return json.dumps(extra, ensure_ascii=False, default=str) if extra else None


def predict(embedder: Embedder, device: str | None, devices: int, nodes: int) -> bool:
    """Run it, on a GPU if there is one and no other device is named. Returns whether this is the first process."""
    target = resolve_device(device)
    if target.index is not None and devices > 1:
        raise InputError(f"{devices} devices, or {device}: not both")
    if target.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs")
    with _silence():
        trainer = L.Trainer(
            accelerator="gpu" if target.type == "cuda" else target.type,
            devices=devices if target.index is None or target.type == "cpu" else [target.index],
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.predict(embedder, return_predictions=False)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning would exit with status 1
                raise KeyboardInterrupt from None
            raise
    return trainer.is_global_zero


@contextmanager
def _silence() -> Iterator[None]:
    """What Lightning says of devices, and PyTorch of what Lightning calls, is not asked for."""
    names = ("utilities.rank_zero", "trainer.connectors.signal_connector")
    loggers = [logging.getLogger(f"lightning.pytorch.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
