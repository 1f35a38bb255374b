"""Normalization of labels, splits and captions."""

from __future__ import annotations

from unicodedata import normalize

# Zero-width space, soft hyphen, word joiner and byte order mark: not visible, and no part of any word. The joiners
# U+200C and U+200D distinguish words of Persian and of Indian languages.
INVISIBLE = "\u200b\u00ad\u2060\ufeff"
EDGES = INVISIBLE + "".join(letter for letter in map(chr, range(0x3001)) if letter.isspace())
_REMOVE = dict.fromkeys(map(ord, INVISIBLE))


def clean(name: str) -> str:
    """Return a name in Unicode form NFC, without surrounding white space and invisible characters."""
    return normalize("NFC", name).strip(EDGES)


def fold(name: str) -> str:
    """Return a key that is equal for names that differ only in case, spaces, normalization or invisible characters.

    Example:
        >>> fold(" Dog\\u200b") == fold("dog")
        True
    """
    return " ".join(normalize("NFKC", name.translate(_REMOVE)).casefold().split())
