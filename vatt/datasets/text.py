"""Text to ids and back: SentencePiece, a word list, or a Hugging Face tokenizer behind one small interface.

A vocabulary lives in a folder with a ``vocabulary.json`` that says which kind it is; the same folder goes into
every exported model. Ids of a text carry no padding; readers pad them with ``pad_id``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vatt.datasets.vocabulary import FILE, Vocabulary, write_description
from vatt.datasets.words import WordVocabulary
from vatt.errors import InputError
from vatt.io import short_hash

PART = 2_000  # characters that SentencePiece is given at once
Kind = Literal["sentencepiece", "words", "huggingface"]


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

    @property
    def hash(self) -> str:
        """See `vatt.datasets.vocabulary.Vocabulary`."""
        return short_hash("sentencepiece", self._processor.serialized_model_proto())

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids if i != self.pad_id])

    def save(self, folder: str | Path) -> None:
        write_description(folder, {"kind": "sentencepiece", "model": "sentencepiece.model"})
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

    @property
    def hash(self) -> str:
        """See `vatt.datasets.vocabulary.Vocabulary`."""
        entries = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        rules = (
            ""
            if fast is None
            else json.dumps(
                {part: str(getattr(fast, part)) for part in ("normalizer", "pre_tokenizer", "post_processor")}
            )
        )
        return short_hash("huggingface", json.dumps(entries), rules, str(self.pad_id))

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer(text)["input_ids"]

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if i != self.pad_id], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        write_description(folder, {"kind": "huggingface", "tokenizer": "tokenizer"})
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
