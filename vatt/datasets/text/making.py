"""What a vocabulary is: words to ids and back, kept in a folder with a ``vocabulary.json`` that says its kind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from unicodedata import normalize

from vatt.io import atomic_write

FILE = "vocabulary.json"


@dataclass(frozen=True)
class Coverage:
    """Coverage of a text by a vocabulary.

    Args:
        known: Number of words or pieces in the vocabulary.
        unknown: Words or pieces that are not in the vocabulary, each once.
    """

    known: int
    unknown: tuple[str, ...]


@runtime_checkable
class Vocabulary(Protocol):
    """What readers and search need of a vocabulary."""

    @property
    def pad_id(self) -> int:
        """The id that padding has; no word has it."""

    @property
    def hash(self) -> str:
        """Hash of the id-to-token mapping, as 16 hexadecimal digits."""

    def __len__(self) -> int:
        """Ids run from 0 to ``len - 1``."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, of any length, without padding."""

    def coverage(self, text: str) -> Coverage:
        """Return the known and unknown words or pieces of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """A readable text for ids; padding is left out."""

    def save(self, folder: str | Path) -> None:
        """Write everything `load_vocabulary` needs into a folder."""


def write_description(folder: str | Path, values: dict[str, Any]) -> None:
    """Write the metadata file of a vocabulary.

    Args:
        folder: Directory of the vocabulary.
        values: Contents of the file.

    Raises:
        WriteError: The disk is full or read-only.
    """
    with atomic_write(Path(folder) / FILE, "w") as file:
        json.dump(values, file, ensure_ascii=False, indent=1)


def normalized(text: str) -> str:
    """Return a text in Unicode form NFC, so that composed and decomposed accents have the same ids.

    Halves of surrogate pairs, which UTF-8 cannot encode, are replaced by U+FFFD.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return normalize("NFC", text)


MAX_BYTES = 2**26  # of each file of a vocabulary


def coverage_of(pieces: Iterable[str], is_known: Iterable[bool]) -> Coverage:
    """Return the coverage of a text, given its pieces. Pieces that only mark spaces do not count."""
    marked = [(piece.strip("\u2581\u0120 "), known) for piece, known in zip(pieces, is_known, strict=True)]
    unknown = dict.fromkeys(piece for piece, known in marked if piece and not known)
    return Coverage(sum(known for piece, known in marked if piece), tuple(unknown))
