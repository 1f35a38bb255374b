"""The vocabulary of whole words, as the official VATT has it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from unicodedata import category

from vatt.datasets.text.making import Coverage, normalized, write_description
from vatt.errors import InputError
from vatt.io import read_lines, short_hash


class WordVocabulary:
    """A list of words, as the official VATT uses: lower-cased, punctuation stripped, split at spaces.

    Words are compared in Unicode form NFC. Combining marks, such as the vowel signs of Hindi, Thai and Arabic, belong
    to their word. Punctuation, symbols and invisible characters, such as zero-width joiners, are removed. Id 0 is
    padding.

    Args:
        words: the words in order of their ids, which leave out 0 and ``unknown_id``.
        unknown_id: stands for every word that is not in the list.
    """

    pad_id = 0

    def __init__(self, words: Iterable[str], unknown_id: int = 1) -> None:
        self.words, self.unknown_id = list(words), unknown_id
        if not 1 <= unknown_id <= len(self.words) + 1:
            raise InputError(f"unknown_id {unknown_id} is not among the ids from 1 to {len(self.words) + 1}")
        self._entries = ["<pad>", *self.words]
        self._entries.insert(unknown_id, "<unk>")
        if len(set(self.words)) != len(self.words):
            duplicate, _ = Counter(self.words).most_common(1)[0]
            raise InputError(f"the word {duplicate!r} occurs twice")
        self._ids: dict[str, int] = {}
        for i, word in enumerate(self._entries):
            if i not in (self.pad_id, unknown_id):
                self._ids.setdefault(normalized(word), i)  # the first, if a list has two forms of a word

    @classmethod
    def read(cls, path: str | Path) -> WordVocabulary:
        """A text file with one entry a line, whose number, from 0, is its id: the official code's vocabularies.

        Lines may begin with their number.

        Raises:
            InputError: the first entry is not ``<pad>`` (or empty), ``<unk>`` is missing, a word occurs twice, or the
                entries are pieces of words (``##ing``), which are another kind of vocabulary.
        """
        lines = [line.strip() for line in read_lines(path)]
        if lines and all(line.split()[:1] == [str(i)] for i, line in enumerate(lines)):
            lines = [line.partition(" ")[2].strip() for line in lines]
        pieces = next((line for line in lines if line.startswith("##")), None)
        if pieces is not None:
            raise InputError(f"{path}: {pieces!r} is a piece of a word; make this one with --kind huggingface")
        if not lines or lines[0].lower() not in ("<pad>", "[pad]", ""):
            raise InputError(f"{path}: line 1 must be <pad>, not {lines[0] if lines else 'nothing'!r}: id 0 is padding")
        unknown = [i for i, line in enumerate(lines) if line.lower() in ("<unk>", "[unk]")]
        if len(unknown) != 1:
            raise InputError(f"{path}: one line must be <unk>, not {len(unknown)}")
        try:
            return cls((line for i, line in enumerate(lines) if i not in (0, unknown[0])), unknown[0])
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> WordVocabulary:
        """The most frequent words of a corpus; equal counts are ordered by the alphabet."""
        counts = Counter(word for text in texts for word in _words(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls(word for word, _ in ranked[: max(0, size - 2)])

    @property
    def hash(self) -> str:
        """See `vatt.datasets.text.making.Vocabulary`."""
        return short_hash("words", *self._entries)

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unknown_id) for word in _words(text)]

    def coverage(self, text: str) -> Coverage:
        words = _words(text)
        unknown = [word for word in words if word not in self._ids]
        return Coverage(len(words) - len(unknown), tuple(dict.fromkeys(unknown)))

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self._entries[i] for i in ids if i != self.pad_id)

    def save(self, folder: str | Path) -> None:
        write_description(folder, {"kind": "words", "words": self.words, "unknown_id": self.unknown_id})


def _words(text: str) -> list[str]:
    text = text.lower()
    if text.isascii():
        return _SEPARATE.sub("", text).split()
    words = _SEPARATE.sub(_combining, normalized(text)).split()
    return [word for word in words if any(map(str.isalnum, word))]  # marks of removed symbols are no words


_SEPARATE = re.compile(r"[^\w\s]|_")  # also matches combining marks, which ``\w`` does not include


def _combining(match: re.Match[str]) -> str:
    """Return a matched character if it is a combining mark. Variation selectors, as in emoji, are not."""
    char = match[0]
    is_selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return char if category(char) in ("Mn", "Mc") and not is_selector else ""
