"""The sources of training data: one manifest, or several with weights and options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vatt.datasets.transforms import Augment
from vatt.errors import InputError
from vatt.structures import ClipFormat


@dataclass(frozen=True)
class Source:
    """One of several datasets in a training mix. Options that are None default to those of the data module.

    Args:
        manifest: See `vatt.datasets.datamodule.ClipDataModule`.
        weight: Sampling weight, relative to the other sources.
        fps: Frame rate. The number of frames is that of the common format.
        sample_rate: Sample rate in Hz. The number of samples is that of the common format.
        augment: Augmentation of the training clips. Replaces all augmentation options of the data module.
        words_per_text: See `vatt.datasets.readers.TextReader`.
        balanced: Sample all classes equally often (see `vatt.datasets.loading.sampling.Balanced`).
        cache: Directory for decoded files.
    """

    manifest: str
    weight: float = 1.0
    fps: float | None = None
    sample_rate: int | None = None
    augment: Augment | None = None
    words_per_text: int | None = None
    balanced: bool = False
    cache: str | None = None

    def format(self, common: ClipFormat) -> ClipFormat:
        """Return the clip format of this source: the tensor shapes of the common format, with its own rates."""
        rate = self.sample_rate or common.sample_rate
        if rate == common.sample_rate and self.fps in (None, common.fps):
            return common
        return replace(common, fps=self.fps or common.fps, sample_rate=rate, audio_s=common.num_samples / rate)


def resolve_sources(
    manifest: str | None,
    sources: Mapping[str, Source] | None,
    augment: Augment,
    modalities: Sequence[str],
    balanced: bool,
    cache: str | None,
) -> Mapping[str, Source]:
    """Return the sources of a data module: those given, or the manifest as a single one without a name.

    Raises:
        InputError: Options exclude each other.
    """
    if (manifest is None) == (not sources):
        raise InputError(
            "set either data.manifest or data.sources, not both. If a configuration file sets data.manifest, pass "
            "--data.manifest null"
        )
    augments = [augment, *(source.augment for source in (sources or {}).values() if source.augment is not None)]
    if "video" in modalities and any(item.speed != (1.0, 1.0) for item in augments):
        raise InputError(
            "augment.speed requires audio without video: set data.modalities [audio], or augment.speed to [1, 1]"
        )
    if manifest is not None:
        return {"": Source(manifest, balanced=balanced)}
    if balanced or cache:
        raise InputError(
            "with data.sources, set balanced and cache for each source. If a configuration file sets them for the data "
            "module, pass --data.cache null --data.balanced false"
        )
    return sources
