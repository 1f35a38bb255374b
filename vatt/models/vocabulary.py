"""The vocabulary in a model directory, compared with the hash that ``config.json`` records.

`vatt.models.saving` imports this module only when it is needed.
"""

from __future__ import annotations

from pathlib import Path

from vatt.datasets.text.vocabularies import Vocabulary, load_vocabulary
from vatt.errors import InputError


def read_vocabulary(folder: Path, expected: str | None) -> Vocabulary:
    """Load the vocabulary of a model.

    Args:
        folder: Directory of the vocabulary.
        expected: ``vocabulary_hash`` of the model, or None if that is not known.

    Raises:
        FileNotFoundError: There is no vocabulary.
        ImportError: The library of the vocabulary is not installed.
        InputError: The vocabulary is damaged, or is not the one that the model was trained with.
    """
    if expected is not None and not (folder / "vocabulary.json").is_file():
        raise InputError(
            f"{folder} is missing or incomplete, and the model was trained with the vocabulary {expected}. "
            "Copy that vocabulary back"
        )
    vocabulary = load_vocabulary(folder)
    if expected not in (None, vocabulary.hash):
        raise InputError(
            f"{folder} is not the vocabulary that the model was trained with: its hash is {vocabulary.hash}, and "
            f"config.json has {expected}. Copy that vocabulary back"
        )
    return vocabulary


def vocabulary_hash(folder: Path, expected: str | None) -> str | None:
    """Return the hash of the vocabulary of a model; ``expected`` if the library of the vocabulary is not installed.

    See `read_vocabulary` for arguments and exceptions other than ImportError.
    """
    try:
        return read_vocabulary(folder, expected).hash
    except ImportError:
        return expected
