"""The Lightning data module: manifests in, batches out, in an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import ConcatDataset, DataLoader

from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, MixedDataset
from vatt.datasets.identity import Segments, count_distinct, read_segments
from vatt.datasets.loading.batches import collate, finish
from vatt.datasets.loading.crashes import SequentialLoader
from vatt.datasets.loading.loader import ClipLoader
from vatt.datasets.loading.sampling import Balanced, Mix, Order, Shuffled, StepSampler
from vatt.datasets.loading.workers import leave_signals_to_main
from vatt.datasets.manifest import hold_out, of_split, read_manifest
from vatt.datasets.reports import TextCounts, report, report_rows, report_texts, warn_shared
from vatt.datasets.sources import Source, resolve_sources
from vatt.datasets.splits import SplitRows, find_rows
from vatt.datasets.table import ClipTable
from vatt.datasets.text.vocabularies import Vocabulary, load_vocabulary
from vatt.datasets.transforms import NO_AUGMENT, Augment
from vatt.errors import InputError, ManifestError
from vatt.media.decoding import TIME_LIMIT_S, Decoder
from vatt.structures import Batch, Clip, ClipFormat


class ClipDataModule(L.LightningDataModule):
    """Training and validation clips of a manifest, or of several.

    Args:
        manifest: CSV, JSONL or Parquet file, or a folder of media (see `vatt.datasets.manifest`).
        format: shapes of the tensors.
        vocabulary: folder with a vocabulary (``vatt vocabulary``); without it no text is read.
        sources: several datasets by name, in place of ``manifest``. Ids of their clips begin with the name.
        batch_size: opened files per batch and process.
        windows: windows taken from each opened file; a batch has ``batch_size * windows`` clips.
        augment: how training clips are varied.
        train_split: rows to train on. A manifest without a split column is trained on as a whole.
        val_split: rows to validate on. If it is "val" and there are none, ``val_fraction`` of the training rows is held
            out. Synonyms such as "validation" are accepted and reported (see `vatt.datasets.splits.match_split`).
        val_fraction: share of training rows to hold out, chosen by a hash of their ids; 0 validates on nothing.
        balanced: every class of the manifest comes equally often (see `vatt.datasets.loading.sampling.Balanced`).
        decoder: "auto", "pyav", "decord" or "torchcodec" (see `vatt.media.decoding`).
        time_limit_s: bound on reading one modality of one window.
        words_per_text: see `vatt.datasets.readers.TextReader`.
        cache: folder that keeps decoded files, or "memory", for sets of short clips (see `vatt.media.cache`).
        num_workers: processes that read clips. With 0, a file that crashes a decoder ends the main process.
        start_method: of these processes: "fork", "spawn" or "forkserver"; the system's unless given.
        seed: of the order and of every random draw.
        modalities: those of a clip that are read: "video", "audio" or both.
    """

    def __init__(
        self,
        manifest: str | None = None,
        format: ClipFormat = ClipFormat(),  # noqa: B008 (frozen)
        vocabulary: str | None = None,
        sources: dict[str, Source] | None = None,
        batch_size: int = 64,
        windows: int = 1,
        augment: Augment = NO_AUGMENT,
        train_split: str = "train",
        val_split: str = "val",
        val_fraction: float = 0.05,
        balanced: bool = False,
        decoder: Decoder = "auto",
        time_limit_s: float = TIME_LIMIT_S,
        words_per_text: int | None = None,
        cache: str | None = None,
        num_workers: int = 2,
        start_method: str | None = None,
        seed: int = 0,
        modalities: Sequence[str] = ("video", "audio"),
    ) -> None:
        super().__init__()
        _check_options(batch_size, windows, num_workers, val_fraction, time_limit_s, modalities)
        sources = resolve_sources(manifest, sources, augment, modalities, balanced, cache)
        self.sources: Mapping[str, Source] = sources
        self.format, self.batch_size, self.windows = format, batch_size, windows
        self.augment, self.train_split, self.val_split = augment, train_split, val_split
        self.val_fraction, self.num_workers, self.seed = val_fraction, num_workers, seed
        self.start_method = start_method
        self.vocabulary: Vocabulary | None = load_vocabulary(vocabulary) if vocabulary else None
        self.readers = {
            name: ClipReader(
                source.format(format),
                self.vocabulary,
                decoder,
                words_per_text if source.words_per_text is None else source.words_per_text,
                source.cache or cache,
                time_limit_s,
                modalities,
            )
            for name, source in sources.items()
        }
        self.parts: dict[str, tuple[ClipTable, ClipTable]] = {}
        self.train_segments: list[Segments] = []
        self.crashed: dict[str, str] = {}

    @property
    def train_clips(self) -> ConcatDataset[Clip]:
        """Every row that is trained on."""
        return ConcatDataset([train for train, _ in self.parts.values()])

    @property
    def val_clips(self) -> ConcatDataset[Clip]:
        """Every row that is validated on."""
        return ConcatDataset([val for _, val in self.parts.values()])

    def setup(self, stage: str) -> None:
        """Read the manifests, split each of them, and print the use of its rows."""
        if not self.parts:
            self.parts = {name: self._part(name, source.manifest) for name, source in self.sources.items()}
            self._check_parts()

    def _part(self, name: str, manifest: str) -> tuple[ClipTable, ClipTable]:
        clips = read_manifest(manifest)
        split_rows = self._rows(clips, manifest, {"training": self.train_split, "validation": self.val_split})
        for use, split in (("training", self.train_split), ("validation", self.val_split)):
            if split_rows is not None and use not in split_rows.names and split != "val":  # or it is misspelled
                of_split(clips, split, manifest)
        train, val = (clips, clips.take([])) if split_rows is None else map(clips.take, split_rows.rows.values())
        held_out = not val and self.val_fraction > 0
        if held_out:
            train, val = hold_out(train, self.val_fraction)
        fraction = self.val_fraction if held_out else 0.0
        report_rows(manifest, {"training": len(train), "validation": len(val)}, split_rows, fraction)
        prefix = f"{name}/" if name else ""
        return train.named(prefix), val.named(prefix)

    @staticmethod
    def _rows(clips: ClipTable, manifest: str, requested: Mapping[str, str]) -> SplitRows | None:
        """Return the rows of splits, or None if no row has a split."""
        splits = [clip.split for clip in clips.heads()]
        try:
            return None if set(splits) == {None} else find_rows(splits, requested)
        except InputError as error:
            raise ManifestError(f"{manifest}: {error}; set data.train_split, val_split or test_split") from None

    def _check_parts(self) -> None:
        """Remove repeated validation clips, and warn about files that are in both training and validation."""
        segments = read_segments([part.heads() for parts in self.parts.values() for part in parts])
        earlier = set[tuple[int, float, float]]()  # segments of earlier sources; clips of one source are distinct
        val_segments = []
        for (name, (train, val)), own in zip(self.parts.items(), segments[1::2], strict=True):
            keys = own.keys()
            new = [row for row, key in enumerate(keys) if key not in earlier]
            if len(new) < len(keys):
                rank_zero_warn(
                    f"{self.sources[name].manifest}: {len(keys) - len(new)} of {len(keys)} validation clips are also "
                    "validation clips of another source; they are used once"
                )
                self.parts[name] = train, val.take(new)
            earlier |= {*keys}
            val_segments.append(own.take(new))
        self.train_segments = segments[::2]
        warn_shared(Segments.concat(self.train_segments), Segments.concat(val_segments), "validation")

    def report_texts(self) -> None:
        """Warn about training clips without text, and about texts without any word of the vocabulary."""
        counts = TextCounts()
        for name, (train, _) in self.parts.items():
            counts.add(train, self.readers[name].text)
        manifests = ", ".join(source.manifest for source in self.sources.values())
        report_texts(counts, self.vocabulary is not None, manifests)

    def train_dataloader(self) -> ClipLoader:
        """Batches for every step of the training, across all passes over the data.

        Raises:
            InputError: ``trainer.max_steps`` is not set, or the clips do not fill one batch.
        """
        if self.trainer is None or self.trainer.max_steps < 1:
            raise InputError("set trainer.max_steps: the length of the training is counted in steps")
        datasets, orders = [], []
        for number, (name, source) in enumerate(self.sources.items()):
            clips = self.parts[name][0]
            seed = self.seed + number  # so that the draws of two datasets are unrelated
            augment = source.augment or self.augment
            datasets.append(ClipDataset(clips, self.readers[name], augment, self.windows, seed))
            orders.append(self._order(name, source, clips, seed))
        sampler = StepSampler(
            orders,
            self.batch_size,
            self.trainer.max_steps * self.trainer.accumulate_grad_batches,
            Mix([source.weight for source in self.sources.values()], self.seed) if len(orders) > 1 else None,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            segments=self._segments(),
        )
        return ClipLoader(MixedDataset(datasets), batch_sampler=sampler, **self._workers())

    def _segments(self) -> list[Segments] | None:
        """Return the segments of the training clips, or None if no two of them are the same moment of a file."""
        clips = Segments.concat(self.train_segments)
        distinct, batch = count_distinct(clips), self.batch_size * self.trainer.world_size
        if distinct == len(clips):
            return None
        report(
            f"{len(clips)} training clips, at most {distinct} of which do not overlap in time: clips that overlap by "
            "more than half are not put into the same batch"
        )
        if distinct < batch:
            rank_zero_warn(
                f"a batch has {batch} clips, but only {distinct} training clips do not overlap in time: a contrastive "
                "loss would use the same segment as positive and negative. Lower data.batch_size"
            )
        return self.train_segments

    def _order(self, name: str, source: Source, clips: ClipTable, seed: int) -> Order:
        try:
            if source.balanced:
                return Balanced([clip.labels for clip in clips.heads()], seed)
            alone = len(self.sources) == 1
            return Shuffled(len(clips), seed, self.batch_size * self.trainer.world_size if alone else 1)
        except InputError as error:
            raise InputError(f"{source.manifest}: {error}") from error

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation clips in the order of the manifests, one window each."""
        datasets = [ClipDataset(val, self.readers[name]) for name, (_, val) in self.parts.items() if val]
        if not datasets:
            return []
        return SequentialLoader(ConcatDataset(datasets), self.batch_size, **self._workers())

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch except for its color augmentation parameters, which `finish` reads on the CPU."""
        stays = {name: batch[name] for name in ("video_color",) if name in batch}  # type: ignore[literal-required]
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | stays

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Pictures travel as uint8 and become float where the model is."""
        return finish(batch)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "crashed": self.crashed,
            "initialize": leave_signals_to_main,
            "collate_fn": collate,
            "persistent_workers": self.num_workers > 0,
            "multiprocessing_context": self.start_method if self.num_workers else None,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }


def _check_options(
    batch_size: int,
    windows: int,
    num_workers: int,
    val_fraction: float,
    time_limit_s: float,
    modalities: Sequence[str],
) -> None:
    """Check the options of a `ClipDataModule` that do not depend on each other.

    Raises:
        InputError: An option is out of its range.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("windows", windows, 1),
        ("num_workers", num_workers, 0),
    ):
        if value < least:
            raise InputError(f"data.{name} must be at least {least}, not {value}")
    if not 0 <= val_fraction < 1:
        raise InputError(f"data.val_fraction must lie in [0, 1), not {val_fraction}")
    if not time_limit_s > 0:
        raise InputError(f"data.time_limit_s must be positive, not {time_limit_s}")
    if not modalities or set(modalities) - {"video", "audio"}:
        raise InputError(f"data.modalities are video, audio or both, not {', '.join(modalities) or 'none'}")
