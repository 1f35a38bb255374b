"""The Lightning data module: a manifest in, batches out, in an order that depends on seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from vatt.datasets.clips import ClipDataset, ClipReader, StepSampler, collate, finish
from vatt.datasets.manifest import hold_out, read_manifest
from vatt.datasets.media.decoding import Decoder
from vatt.datasets.text import Vocabulary, load_vocabulary
from vatt.datasets.transforms import NO_AUGMENT, Augment
from vatt.errors import InputError
from vatt.structures import Batch, Clip, ClipFormat


class ClipLoader(DataLoader):
    """A loader that knows how many batches it gave, so that a resumed run continues where the last one stopped."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.batch_sampler.start += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batch_sampler.start}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch_sampler.start = state["batches"]


class ClipDataModule(L.LightningDataModule):
    """Training and validation clips of one manifest.

    Args:
        manifest: CSV, JSONL or Parquet file, or a folder of media (see `vatt.datasets.manifest`).
        format: shapes of the tensors.
        vocabulary: folder with a vocabulary (``vatt vocabulary``); without it no text is read.
        batch_size: opened files per batch and process.
        windows: windows taken from each opened file; a batch has ``batch_size * windows`` clips.
        augment: how training clips are varied.
        train_split: rows to train on. A manifest without a split column is trained on as a whole.
        val_split: rows to validate on; where there are none, ``val_fraction`` of the training rows is held out.
        val_fraction: share of training rows to hold out, chosen by a hash of their ids; 0 validates on nothing.
        decoder: "auto", "pyav", "decord" or "torchcodec" (see `vatt.datasets.media.decoding`).
        words_per_text: see `vatt.datasets.readers.TextReader`.
        cache: folder that keeps decoded files, for sets of short clips (see `vatt.datasets.media.cache`).
        num_workers: processes that read clips.
        seed: of the order and of every random draw.
    """

    def __init__(
        self,
        manifest: str,
        format: ClipFormat = ClipFormat(),  # noqa: B008 (frozen)
        vocabulary: str | None = None,
        batch_size: int = 64,
        windows: int = 1,
        augment: Augment = NO_AUGMENT,
        train_split: str = "train",
        val_split: str = "val",
        val_fraction: float = 0.05,
        decoder: Decoder = "auto",
        words_per_text: int | None = None,
        cache: str | None = None,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.manifest, self.format, self.batch_size, self.windows = manifest, format, batch_size, windows
        self.augment, self.train_split, self.val_split = augment, train_split, val_split
        self.val_fraction, self.num_workers, self.seed = val_fraction, num_workers, seed
        self.vocabulary: Vocabulary | None = load_vocabulary(vocabulary) if vocabulary else None
        self.reader = ClipReader(format, self.vocabulary, decoder, words_per_text, cache)
        self.train_clips: list[Clip] = []
        self.val_clips: list[Clip] = []

    def setup(self, stage: str) -> None:
        """Read the manifest and part it."""
        if self.train_clips:
            return
        clips = read_manifest(self.manifest)
        if all(clip.split is None for clip in clips):
            train, val = clips, []
        else:
            train = read_manifest(self.manifest, split=self.train_split, check_files=False)
            val = [clip for clip in clips if clip.split == self.val_split]
        if not val and self.val_fraction:
            train, val = hold_out(train, self.val_fraction)
        self.train_clips, self.val_clips = train, val

    def train_dataloader(self) -> ClipLoader:
        """Batches for every step of the training, across all passes over the data.

        Raises:
            InputError: ``trainer.max_steps`` is not set, or the clips do not fill one batch.
        """
        if self.trainer is None or self.trainer.max_steps < 1:
            raise InputError("set trainer.max_steps: the length of the training is counted in steps")
        steps = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        sampler = StepSampler(
            len(self.train_clips),
            self.batch_size,
            steps,
            self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        dataset = ClipDataset(self.train_clips, self.reader, self.augment, self.windows, self.seed)
        return ClipLoader(dataset, batch_sampler=sampler, **self._workers())

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation clips in the order of the manifest, one window each."""
        if not self.val_clips:
            return []
        dataset = ClipDataset(self.val_clips, self.reader)
        return DataLoader(dataset, batch_size=self.batch_size, **self._workers())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Pictures travel as uint8 and become float where the model is."""
        return finish(batch)

    def _workers(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": collate,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }
