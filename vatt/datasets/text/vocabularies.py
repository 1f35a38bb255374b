"""Text to ids and back: SentencePiece, a word list, or a Hugging Face tokenizer behind one small interface.

A vocabulary lives in a folder with a ``vocabulary.json`` that says which kind it is; the same folder goes into
every exported model. Ids of a text carry no padding; readers pad them with ``pad_id``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vatt.datasets.text.huggingface import HuggingFaceVocabulary
from vatt.datasets.text.making import FILE, MAX_BYTES, Vocabulary
from vatt.datasets.text.sentencepiece import SentencePieceVocabulary
from vatt.datasets.text.words import WordVocabulary
from vatt.errors import InputError
from vatt.untrusted import inner_file, read_json

Kind = Literal["sentencepiece", "words", "huggingface"]


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Load the vocabulary of a directory. The directory is not trusted: only files in it are read.

    Raises:
        FileNotFoundError: There is no vocabulary; the message shows the command that builds one.
        InputError: The kind is unknown, or a file is damaged; the message names file and key.
    """
    folder = Path(folder)
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"no vocabulary at {folder} ({FILE} is missing); make one with: vatt vocabulary MANIFEST --output {folder}"
        )
    values = read_json(inner_file(folder, FILE), MAX_BYTES)

    def value(key: str, kind: type, default: Any = None) -> Any:
        if type(values.get(key, default)) is not kind:
            raise InputError(f"{file} is damaged: {key!r} is {str(values.get(key))[:60]!r}, not a {kind.__name__}")
        return values.get(key, default)

    if values.get("kind") == "words":
        words = value("words", list)
        if not all(isinstance(word, str) for word in words):
            raise InputError(f"{file} is damaged: 'words' must be a list of strings")
        try:
            return WordVocabulary(words, value("unknown_id", int, 1))
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
    if values.get("kind") == "sentencepiece":
        return SentencePieceVocabulary(inner_file(folder, value("model", str)))
    if values.get("kind") == "huggingface":
        name = value("tokenizer", str)
        tokenizer = folder / name
        if Path(name).name != name or not tokenizer.is_dir() or tokenizer.resolve().parent != folder.resolve():
            raise InputError(f"{file}: 'tokenizer' is {name[:100]!r}, which is not a directory in {folder}")
        return HuggingFaceVocabulary(tokenizer, local=True)
    raise InputError(
        f"{file}: unknown kind {str(values.get('kind'))[:60]!r}; must be one of sentencepiece, words, huggingface"
    )


def make_vocabulary(
    texts: Iterable[str],
    folder: str | Path,
    kind: Kind = "sentencepiece",
    size: int = 8000,
    tokenizer: str | None = None,
) -> Vocabulary:
    """Make a vocabulary and save it.

    Args:
        texts: the corpus; not read for "huggingface".
        folder: where it is saved.
        kind: "sentencepiece" and "words" are trained from the texts, "huggingface" takes a finished tokenizer.
        size: number of ids aimed at.
        tokenizer: the hub name or folder of the Hugging Face tokenizer.

    Raises:
        InputError: there is no text to train on, or no tokenizer is named.
    """
    if kind == "huggingface":
        if tokenizer is None:
            raise InputError("kind huggingface needs --tokenizer NAME_OR_FOLDER")
        vocabulary: Vocabulary = HuggingFaceVocabulary(tokenizer)
    else:
        texts = [text for text in texts if text.strip()]
        if not texts:
            raise InputError("the manifest has no text (columns text, texts, words) to make a vocabulary from")
        if kind == "words":
            vocabulary = WordVocabulary.train(texts, size)
        else:
            vocabulary = SentencePieceVocabulary.train(texts, size, folder)
    vocabulary.save(folder)
    return vocabulary
