"""Reports on the data before a training starts: splits, files in two splits, and texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from vatt.datasets.identity import Segments, count_shared
from vatt.datasets.readers import TextReader
from vatt.datasets.splits import SplitRows, describe_unused
from vatt.datasets.table import ClipTable

CLIPS, TEXTS = 10_000, 10  # clips whose texts are checked, and texts of each
SHOWN, SHOWN_COLUMNS = 80, 3  # characters of a text, and columns, in a message


@rank_zero_only
def report(line: str) -> None:
    """Print a line in the first process."""
    print(line, flush=True)


def report_rows(
    manifest: str,
    counts: Mapping[str, int],
    split_rows: SplitRows | None,
    held_out: float = 0.0,
    part: str = "",
) -> None:
    """Print the number of clips of a manifest by use, and the number of unused rows.

    Args:
        manifest: Manifest.
        counts: Number of clips by use.
        split_rows: Rows by split, or None if the manifest has no splits.
        held_out: Fraction of the training clips that was held out for validation; 0 if validation has a split.
        part: Name of the fold.
    """
    names = {} if split_rows is None else split_rows.names
    uses = [
        f"{count or 'no'} {use} clip{'s' * (count != 1)}"
        + (f" (split {names[use]!r})" if count and use in names else "")
        + (_held_out(held_out, count) if held_out and use == "validation" else "")
        for use, count in counts.items()
    ]
    unused = "" if split_rows is None else describe_unused(split_rows.unused)
    report(f"{manifest}{part}: {', '.join(uses)}{f'; not used: {unused}' if unused else ''}")


def _held_out(fraction: float, count: int) -> str:
    return " (held out)" if count else f" (data.val_fraction {fraction:g} of so few files holds out none)"


def warn_shared(train: Segments, others: Segments, use: str) -> None:
    """Warn if files of training clips are in another split as well.

    Args:
        train: Training clips.
        others: Clips of the other split, numbered together with the training clips.
        use: What the other clips are used for.
    """
    shared, overlapping = count_shared(others, train)
    if shared:
        at_once = f", {overlapping} of which overlap with them in time" if overlapping else ""
        rank_zero_warn(
            f"{shared} of {len(others)} {use} clips are from files of the training clips{at_once}: their results do "
            "not hold for other files. Give all rows of a file the same split"
        )


@dataclass
class TextCounts:
    """Texts of clips.

    Attributes:
        total: Number of clips.
        clips: Number of clips that were checked.
        with_text: Number of those that have a text.
        texts: Number of texts that were checked.
        unknown: Texts without any word of the vocabulary.
        columns: Number of clips without text, by ``x_`` column that contains a phrase of several words.
    """

    total: int = 0
    clips: int = 0
    with_text: int = 0
    texts: int = 0
    unknown: list[str] = field(default_factory=list)
    columns: Counter[str] = field(default_factory=Counter)

    def add(self, clips: ClipTable, reader: TextReader | None) -> None:
        """Count the texts of clips: the first `TEXTS` of each, of `CLIPS` evenly spaced clips if there are more.

        Args:
            clips: Clips.
            reader: Reader of their texts; None if there is no vocabulary.
        """
        self.total += len(clips)
        for clip in clips[:: -(-len(clips) // CLIPS) or 1]:
            texts = [*clip.texts, *clip.words] if reader is None else reader.candidates(clip)
            self.clips, self.with_text = self.clips + 1, self.with_text + bool(texts)
            if not texts:
                self.columns.update(name for name, value in clip.extra.items() if _is_phrase(value))
            elif reader is not None:
                some = [text.text for text in texts[:TEXTS]]
                self.texts += len(some)
                self.unknown += [text for text in some if not reader.vocabulary.coverage(text).known]

    def describe_columns(self) -> str:
        """Return a sentence about columns that may have the texts, or an empty string."""
        shown = " or ".join(repr(name) for name, _ in self.columns.most_common(SHOWN_COLUMNS))
        return f". If column {shown} has the captions, name it 'text'" if shown else ""


def _is_phrase(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_phrase, value))
    return isinstance(value, str) and len(value.split()) > 1


def report_texts(counts: TextCounts, has_vocabulary: bool, manifests: str) -> None:
    """Warn if clips have no text, texts without any word of the vocabulary, or texts that are not read.

    Args:
        counts: Texts of the training clips.
        has_vocabulary: There is a vocabulary, so that texts are read.
        manifests: Manifests, for messages.
    """
    of, hint = f"{counts.total} training clips", counts.describe_columns()
    if counts.clips < counts.total:
        of = f"{counts.clips} checked training clips (of {counts.total})"
    if not has_vocabulary:
        if counts.with_text:
            rank_zero_warn(
                f"{manifests}: {counts.with_text} of {of} have texts, which are ignored because data.vocabulary is not "
                "set. Make a vocabulary with vatt vocabulary"
            )
    elif counts.clips and not counts.with_text:
        rank_zero_warn(
            f"{manifests}: none of {of} has a text (columns text, texts, words), so no text is used for training "
            f"although data.vocabulary is set{hint}"
        )
    elif counts.with_text < counts.clips:
        report(f"{manifests}: {counts.clips - counts.with_text} of {of} have no text{hint}")
    if counts.unknown:
        rank_zero_warn(
            f"{manifests}: {len(counts.unknown)} of {counts.texts} texts have no word of data.vocabulary, such as "
            f"{counts.unknown[0][:SHOWN]!r}. If the vocabulary was built from other texts, build a new one with vatt "
            "vocabulary"
        )
