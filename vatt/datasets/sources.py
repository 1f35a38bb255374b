"""The sources of training data: one manifest, or several with weights and options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vatt.datasets.transforms import Augment
from vatt.errors import InputError
from vatt.structures import ClipFormat


@dataclass(frozen=True)
class Source:
    """One of several datasets that are trained on together. What is None is as for the whole data module.

    Args:
        manifest: see `vatt.datasets.datamodule.ClipDataModule`.
        weight: share of the clips of a training that come from here, beside the weights of the others.
        fps: distance of the frames, of which there are as many as everywhere.
        sample_rate: of the waveform in Hz, which has as many samples as everywhere.
        augment: how its training clips are varied; whole, so that a single value given changes no other one.
        words_per_text: see `vatt.datasets.readers.TextReader`.
        balanced: every class comes equally often (see `vatt.datasets.sampling.Balanced`).
        cache: folder that keeps its decoded files.
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
        """How its clips are read: with the shapes of the common format."""
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
            "give data.manifest, or data.sources for several, and not both; if a file sets the other: "
            "--data.manifest null"
        )
    varied = [augment, *(source.augment for source in (sources or {}).values() if source.augment is not None)]
    if "video" in modalities and any(variation.speed != (1.0, 1.0) for variation in varied):
        raise InputError("augment.speed is for sound alone: set data.modalities [audio], or leave it at 1")
    if manifest is not None:
        return {"": Source(manifest, balanced=balanced)}
    if balanced or cache:
        raise InputError(
            "with data.sources, balanced and cache belong to each of them; if a configuration file sets them: "
            "--data.cache null --data.balanced false"
        )
    return sources
