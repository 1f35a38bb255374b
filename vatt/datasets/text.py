"""Text to ids and back: SentencePiece, a word list, or a Hugging Face tokenizer behind one small interface.

A vocabulary lives in a folder with a ``vocabulary.json`` that says which kind it is; the same folder goes into
every exported model. Ids of a text carry no padding; readers pad them with ``pad_id``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vatt.errors import InputError

FILE = "vocabulary.json"
PART = 2_000  # characters that SentencePiece is given at once
Kind = Literal["sentencepiece", "words", "huggingface"]


@runtime_checkable
class Vocabulary(Protocol):
    """What readers and search need of a vocabulary."""

    @property
    def pad_id(self) -> int:
        """The id that padding has; no word has it."""

    def __len__(self) -> int:
        """Ids run from 0 to ``len - 1``."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text, of any length, without padding."""

    def decode(self, ids: Iterable[int]) -> str:
        """A readable text for ids; padding is left out."""

    def save(self, folder: str | Path) -> None:
        """Write everything `load_vocabulary` needs into a folder."""


class WordVocabulary:
    """A list of words, as the official VATT uses: lower-cased, punctuation stripped, split at spaces.

    Id 0 is padding.

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
        self._ids = {word: i for i, word in enumerate(self._entries) if i not in (self.pad_id, unknown_id)}
        if len(self._ids) != len(self.words):
            twice, _ = Counter(self.words).most_common(1)[0]
            raise InputError(f"the word {twice!r} stands twice")

    @classmethod
    def read(cls, path: str | Path) -> WordVocabulary:
        """A text file with one entry a line, whose number, from 0, is its id: the official code's vocabularies.

        Lines may begin with their number.

        Raises:
            InputError: the first entry is not ``<pad>`` (or empty), ``<unk>`` is missing, a word stands twice, or the
                entries are pieces of words (``##ing``), which are another kind of vocabulary.
        """
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8: {error}") from error
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

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, self.unknown_id) for word in _words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self._entries[i] for i in ids if i != self.pad_id)

    def save(self, folder: str | Path) -> None:
        _write(folder, {"kind": "words", "words": self.words, "unknown_id": self.unknown_id})


class SentencePieceVocabulary:
    """A SentencePiece model; texts are lower-cased by its own normaliser.

    Args:
        model: path of a ``.model`` file whose pad id is set.
    """

    def __init__(self, model: str | Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model = Path(model)
        if not self.model.is_file():
            raise FileNotFoundError(f"no SentencePiece model at {model}")
        self._processor = SentencePieceProcessor(model_file=str(model))
        if self._processor.pad_id() < 0:
            raise InputError(f"{model}: the model has no pad id; train it with --pad_id=0 --unk_id=1")

    @classmethod
    def train(cls, texts: Iterable[str], size: int, folder: str | Path) -> SentencePieceVocabulary:
        """Train a byte-pair model on texts.

        Byte-pair merges end in whole words on a small corpus; the unigram model, whose pieces must occur in two
        different words, would spell them out.

        Args:
            texts: the corpus, one sentence each.
            size: the number of pieces aimed at; a small corpus gives fewer.
            folder: where the model file is written.

        Raises:
            InputError: SentencePiece refuses; mostly because the corpus has more characters than ``size``.
        """
        from sentencepiece import SentencePieceTrainer

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Long texts go in by parts, because SentencePiece leaves out what is over a limit.
        parts = [text[i : i + PART] for text in texts for i in range(0, len(text), PART)]
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(parts),
                max_sentence_length=8 * PART,  # bytes
                model_prefix=str(folder / "sentencepiece"),
                vocab_size=size,
                hard_vocab_limit=False,
                model_type="bpe",
                # Every character of a small alphabet; of a large one the rarest are left to the unknown piece.
                character_coverage=1.0 if len(set().union(*parts)) < size / 2 else 0.9995,
                normalization_rule_name="nmt_nfkc_cf",  # NFKC and case folding
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise InputError(
                f"SentencePiece cannot make {size} pieces (--size) of {len(set().union(*parts))} different characters: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return cls(folder / "sentencepiece.model")

    @property
    def pad_id(self) -> int:
        return self._processor.pad_id()

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids if i != self.pad_id])

    def save(self, folder: str | Path) -> None:
        _write(folder, {"kind": "sentencepiece", "model": "sentencepiece.model"})
        target = Path(folder) / "sentencepiece.model"
        if target.resolve() != self.model.resolve():
            shutil.copyfile(self.model, target)

    def __reduce__(self) -> tuple[Any, ...]:  # the processor itself does not travel to spawned workers
        return type(self), (self.model,)


class HuggingFaceVocabulary:
    """A tokenizer of the transformers library.

    Args:
        tokenizer: a name on the Hugging Face hub, or a folder that holds one.
    """

    def __init__(self, tokenizer: str | Path) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError('a Hugging Face tokenizer needs: pip install "vatt[transformers]"') from error
        self.name = str(tokenizer)
        self._tokenizer = AutoTokenizer.from_pretrained(self.name)
        if self._tokenizer.pad_token_id is None:
            raise InputError(f"tokenizer {tokenizer} has no pad token; choose one that has")

    @property
    def pad_id(self) -> int:
        return self._tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if i != self.pad_id], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        _write(folder, {"kind": "huggingface", "tokenizer": "tokenizer"})
        self._tokenizer.save_pretrained(str(Path(folder) / "tokenizer"))


def load_vocabulary(folder: str | Path) -> Vocabulary:
    """Load the vocabulary that a folder holds.

    Raises:
        FileNotFoundError: there is none; the message says how to make one.
        InputError: it is of an unknown kind.
    """
    folder = Path(folder)
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"no vocabulary at {folder} ({FILE} is missing); make one with: vatt vocabulary MANIFEST --output {folder}"
        )
    says = json.loads(file.read_text(encoding="utf-8"))
    if says["kind"] == "words":
        return WordVocabulary(says["words"], says.get("unknown_id", 1))
    if says["kind"] == "sentencepiece":
        return SentencePieceVocabulary(folder / says["model"])
    if says["kind"] == "huggingface":
        return HuggingFaceVocabulary(folder / says["tokenizer"])
    raise InputError(f"{file}: unknown kind {says['kind']!r}; known: sentencepiece, words, huggingface")


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


def _words(text: str) -> list[str]:
    return re.sub(r"[^\w\s]|_", "", text.lower()).split()


def _write(folder: str | Path, says: dict[str, Any]) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(says, ensure_ascii=False, indent=1), encoding="utf-8")
