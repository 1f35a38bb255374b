"""The data module of fine-tuning: clips with targets, from one modality, and views of them to test on."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from torch.utils.data import DataLoader

from vatt.datasets.clips import ClipDataset, Views
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.identity import read_segments
from vatt.datasets.labels import Classes
from vatt.datasets.loading.crashes import SequentialLoader
from vatt.datasets.manifest import hold_out, read_manifest
from vatt.datasets.manifests.values import MISSING
from vatt.datasets.reports import report_rows, warn_shared
from vatt.datasets.splits import SplitRows, describe_missing
from vatt.datasets.table import ClipTable
from vatt.datasets.transforms import NO_AUGMENT, Augment
from vatt.errors import InputError, ManifestError
from vatt.media.decoding import TIME_LIMIT_S, Decoder
from vatt.structures import Clip, ClipFormat, Downmix, Overflow

FOLD = "x_fold"  # column with the number of a clip's fold; with a number behind it: that split


@dataclass(frozen=True)
class FormatChange:
    """Where clips differ from those of the pretrained model; what is None is as there. See `ClipFormat`."""

    num_frames: int | None = None
    fps: float | None = None
    size: int | None = None
    sample_rate: int | None = None
    audio_s: float | None = None
    crop_box: tuple[float, float, float, float] | None = None
    audio_downmix: Downmix | None = None
    audio_overflow: Overflow | None = None

    def apply(self, base: ClipFormat) -> ClipFormat:
        """The changed format."""
        return replace(base, **{name: value for name, value in asdict(self).items() if value is not None})


class LabelledDataModule(ClipDataModule):
    """Clips with classes, to train, validate and test a classifier of one modality.

    Args:
        manifest: see `ClipDataModule`; its rows have ``label`` or ``labels``.
        modality: "video" or "audio"; the other one is not read.
        base: format of the pretrained model, as `ClipFormat.to_dict` gives it; the paper's format unless given.
        format: where the clips differ from it.
        classes: text file with one class name a line, in order. Without it the classes are the labels of the rows
            that are trained on, sorted.
        multi_label: a clip has any number of classes; otherwise exactly one.
        views: of each clip in validation and test, over which logits are averaged.
        batch_size: opened files per batch and process.
        augment: how training clips are varied.
        train_split: rows to train on. A manifest without a split column is trained on as a whole.
        val_split: rows to validate on; where there are none, ``val_fraction`` of the training rows is held out. None
            validates on nothing.
        test_split: rows to test on; may be the same as ``val_split``.
        val_fraction: share of training rows to hold out, chosen by a hash of their ids; 0 validates on nothing.
        fold: number of the fold to test on, while all the others are trained on (column x_fold); or of the split to use
            (columns x_fold1, x_fold2, …, with train and test). The column split does not count then.
        balanced: every class comes equally often (see `vatt.datasets.loading.sampling.Balanced`).
        decoder, time_limit_s, cache, num_workers, start_method: see `ClipDataModule`.
        seed: of the order and of every random draw.
    """

    def __init__(
        self,
        manifest: str,
        modality: str = "video",
        base: dict[str, Any] | None = None,
        format: FormatChange = FormatChange(),
        classes: str | None = None,
        multi_label: bool = False,
        views: Views = Views(),  # noqa: B008 (frozen)
        batch_size: int = 64,
        augment: Augment = NO_AUGMENT,
        train_split: str = "train",
        val_split: str | None = "val",
        test_split: str = "test",
        val_fraction: float = 0.0,
        fold: int | None = None,
        balanced: bool = False,
        decoder: Decoder = "auto",
        time_limit_s: float = TIME_LIMIT_S,
        cache: str | None = None,
        num_workers: int = 2,
        start_method: str | None = None,
        seed: int = 0,
    ) -> None:
        if modality not in ("video", "audio"):
            raise InputError(f"data.modality is video or audio, not {modality!r}")
        super().__init__(
            manifest,
            format.apply(ClipFormat() if base is None else ClipFormat.from_dict(base)),
            batch_size=batch_size,
            augment=augment,
            train_split=train_split,
            val_split=val_split or "",
            val_fraction=val_fraction,
            balanced=balanced,
            decoder=decoder,
            time_limit_s=time_limit_s,
            cache=cache,
            num_workers=num_workers,
            start_method=start_method,
            seed=seed,
            modalities=(modality,),
        )
        self.manifest, self.modality, self.views = manifest, modality, views
        self.test_split, self.fold = test_split, fold
        self._class_file, self.multi_label = classes, multi_label
        self.test_clips = ClipTable()

    @cached_property
    def classes(self) -> Classes:
        """The classes, once every row that is used has been looked at.

        Raises:
            InputError: see `Classes.check`.
        """
        self.setup("fit")
        train, val = self.parts[""]
        if self._class_file is None and not train:
            raise InputError(f"{self.manifest} has nothing to train on, so give data.classes, the file of the names")
        parts = (train, val, self.test_clips)
        if not any(clip.labels for part in parts for clip in part.heads()):
            raise InputError(f"{self.manifest}: no row that is used has a label, in column label or labels")
        try:
            if self._class_file is None:
                classes = Classes.of(train.heads(), self.multi_label)
            else:
                classes = Classes.read(self._class_file, self.multi_label)
            for part in parts:
                classes.check(part.heads())
        except InputError as error:
            raise InputError(f"{self.manifest}: {error}") from error
        for reader in self.readers.values():
            reader.classes = classes
        return classes

    @property
    def origin(self) -> dict[str, Any]:
        """What a model that is trained on this must say of it; plain values."""
        train = self.parts[""][0]
        ids = sha256("\n".join(sorted(clip.id for clip in train.heads())).encode()).hexdigest()[:12]
        part = f"split {self.train_split}" if self.fold is None else f"all but fold {self.fold}"
        return {"manifest": self.manifest, "part": part, "clips": len(train), "ids": ids}

    @property
    def validates_on_test(self) -> bool:
        """Whether validation clips are test clips as well."""
        test = {clip.id for clip in self.test_clips.heads()}
        return any(clip.id in test for clip in self.parts[""][1].heads())

    def _part(self, name: str, manifest: str) -> tuple[ClipTable, ClipTable]:
        clips = read_manifest(manifest)
        splits = {clip.split for clip in clips.heads()}
        columns = {column for clip in clips.heads() for column in clip.extra if column.rstrip("0123456789") == FOLD}
        if self.fold is None and columns and splits == {None}:
            there = ", ".join(sorted(columns))
            raise ManifestError(f"{manifest} has {there} and no split: choose a fold (data.fold; vatt probe --folds)")
        requested = {"training": self.train_split, "validation": self.val_split, "test": self.test_split}
        if not self.val_split:
            del requested["validation"]
        split_rows = self._fold_rows(clips) if self.fold is not None else self._rows(clips, manifest, requested)
        parts = {use: [] for use in requested} | (
            {"training": range(len(clips))} if split_rows is None else split_rows.rows
        )
        if self.fold is not None and not parts["test"]:
            there = {str(clip.extra[FOLD]) for clip in clips.heads() if clip.extra.get(FOLD) is not None}
            available = ", ".join(sorted(there | columns - {FOLD})) or "none"
            raise ManifestError(f"{manifest}: no row is to be tested in fold {self.fold}; found: {available}")
        if not any(parts.values()):
            raise ManifestError(f"{manifest}: {describe_missing(requested.values(), splits)}")
        train, val, self.test_clips = (clips.take(parts.get(use, ())) for use in ("training", "validation", "test"))
        held_out = not val and self.val_fraction > 0 and "validation" in requested
        if held_out:
            train, val = hold_out(train, self.val_fraction)
        counts = {"training": len(train), "validation": len(val), "test": len(self.test_clips)}
        counts = {use: count for use, count in counts.items() if use in requested}
        fraction = self.val_fraction if held_out else 0.0
        report_rows(manifest, counts, split_rows, fraction, "" if self.fold is None else f", fold {self.fold}")
        return train, val

    def _check_parts(self) -> None:
        train, val = self.parts[""]
        segments = read_segments([train.heads(), val.heads(), self.test_clips.heads()])
        self.train_segments = segments[:1]
        for use, own in (("validation", segments[1]), ("test", segments[2])):
            warn_shared(segments[0], own, use)

    def _segments(self) -> None:
        """Return None: a batch may have several clips of a file, since a classifier does not compare them."""
        return

    def _fold_rows(self, clips: ClipTable) -> SplitRows:
        """Return the rows of a fold; rows that are neither for training nor for testing are unused."""
        rows: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
        unused = Counter[str | None]()
        for row, clip in enumerate(clips.heads()):
            use = self._in_fold(clip)
            if use is None:
                unused[clip.split] += 1
            else:
                rows["training" if use == "train" else use].append(row)
        return SplitRows(rows, {}, unused)

    def _in_fold(self, clip: Clip) -> str | None:
        """Whether a row is for "train" or "test"; None is for neither."""
        own = clip.extra.get(f"{FOLD}{self.fold}")  # of splits that overlap, one column each
        if own is not None:
            return own if own in ("train", "test") else None
        fold = clip.extra.get(FOLD)
        if fold is None or str(fold).strip() in MISSING | {""}:
            return None
        try:
            number = float(fold)
            if not number.is_integer():
                raise ValueError
        except (TypeError, ValueError):
            raise ManifestError(f"{self.manifest}: the fold of {clip.id!r} is {fold!r}, not an integer") from None
        return "test" if number == self.fold else "train"

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation clips, all views of each."""
        val = self.parts[""][1]
        return self._views_of(val) if val else []

    def test_dataloader(self) -> DataLoader:
        """The test clips, all views of each.

        Raises:
            ManifestError: there are none.
        """
        if not self.test_clips:
            raise ManifestError(
                f"{self.manifest}: no row has split {self.test_split!r}, so there is nothing to test on"
            )
        return self._views_of(self.test_clips)

    def _views_of(self, clips: ClipTable) -> DataLoader:
        dataset = ClipDataset(clips, self.readers[""], views=self.views)
        # A batch in memory is as large as one of the training.
        return SequentialLoader(dataset, max(1, self.batch_size // len(self.views)), **self._workers())
