"""Text to ids and back: SentencePiece, a word list, or a Hugging Face tokenizer behind one small interface.

A vocabulary lives in a folder with a ``vocabulary.json`` that says which kind it is; the same folder goes into
every exported model. Ids of a text carry no padding; readers pad them with ``pad_id``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from vatt.datasets.vocabulary import FILE, Coverage, Vocabulary, write_description
from vatt.datasets.words import WordVocabulary
from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write, short_hash
from vatt.untrusted import inner_file, read_json

PART = 2_000  # characters that SentencePiece is given at once
MAX_BYTES = 2**26  # of each file of a vocabulary
SENTENCEPIECE, TOKENIZER = "sentencepiece.model", "tokenizer"
Kind = Literal["sentencepiece", "words", "huggingface"]


class SentencePieceVocabulary:
    """A SentencePiece model; texts are lower-cased by its own normaliser.

    Args:
        model: path of a ``.model`` file whose pad id is set.

    Raises:
        InputError: The file is damaged, or has no pad id.
    """

    def __init__(self, model: str | Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self.model = Path(model)
        if not self.model.is_file():
            raise FileNotFoundError(f"no SentencePiece model at {model}")
        if self.model.stat().st_size > MAX_BYTES:
            raise InputError(f"{model} has more than {MAX_BYTES >> 20} MiB, too large for a SentencePiece model")
        try:
            self._processor = SentencePieceProcessor(model_file=str(model))
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(f"{model} is damaged, or not a SentencePiece model: {str(error)[:200]}") from error
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

        model = io.BytesIO()
        # Long texts go in by parts, because SentencePiece leaves out what is over a limit.
        parts = [text[i : i + PART] for text in texts for i in range(0, len(text), PART)]
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(parts),
                max_sentence_length=8 * PART,  # bytes
                model_writer=model,
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
        with atomic_write(Path(folder) / SENTENCEPIECE) as file:
            file.write(model.getvalue())
        return cls(Path(folder) / SENTENCEPIECE)

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

    def coverage(self, text: str) -> Coverage:
        pieces, unknown_id = self._processor.encode(text, out_type=str), self._processor.unk_id()
        is_known = [i != unknown_id for i in self._processor.encode(text)]
        return _coverage(pieces, is_known)

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(i) for i in ids if i != self.pad_id])

    def save(self, folder: str | Path) -> None:
        target = Path(folder) / SENTENCEPIECE
        if target.resolve() != self.model.resolve():
            with atomic_path(target) as path:
                shutil.copyfile(self.model, path)
        write_description(folder, {"kind": "sentencepiece", "model": SENTENCEPIECE})

    def __reduce__(self) -> tuple[Any, ...]:  # the processor itself does not travel to spawned workers
        return type(self), (self.model,)


class HuggingFaceVocabulary:
    """A tokenizer of the transformers library.

    Args:
        tokenizer: Name on the Hugging Face Hub, or a directory. Remote code is not run.
        local: The tokenizer is an untrusted directory: nothing outside it is read, and nothing is downloaded.

    Raises:
        ImportError: transformers is not installed.
        InputError: There is no such tokenizer, it is damaged, or it has no pad token.
    """

    def __init__(self, tokenizer: str | Path, local: bool = False) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError('a Hugging Face tokenizer needs: pip install "vatt[transformers]"') from error
        self.name, self.local = str(tokenizer), local
        if local:
            _check_tokenizer(Path(tokenizer))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self.name, trust_remote_code=False, local_files_only=local)
        except Exception as error:  # a damaged file may cause any error
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise InputError(f"cannot load a tokenizer from {tokenizer}: {reason}") from error
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

    def coverage(self, text: str) -> Coverage:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        is_known = [i != self._tokenizer.unk_token_id for i in ids]
        pieces = self._tokenizer.convert_ids_to_tokens(ids)
        if not all(is_known) and self._tokenizer.is_fast:
            spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            pieces = [p if k else text[a:b] for p, k, (a, b) in zip(pieces, is_known, spans, strict=True)]
        return _coverage(pieces, is_known)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if i != self.pad_id], skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        target = Path(folder) / TOKENIZER
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as unfinished:
            self._tokenizer.save_pretrained(unfinished)
            for file in sorted(path for path in Path(unfinished).iterdir() if path.is_file()):
                os.replace(file, target / file.name)
        write_description(folder, {"kind": "huggingface", "tokenizer": TOKENIZER})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.local)


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


def _coverage(pieces: Iterable[str], is_known: Iterable[bool]) -> Coverage:
    """Return the coverage of a text, given its pieces. Pieces that only mark spaces do not count."""
    marked = [(piece.strip("\u2581\u0120 "), known) for piece, known in zip(pieces, is_known, strict=True)]
    unknown = dict.fromkeys(piece for piece, known in marked if piece and not known)
    return Coverage(sum(known for piece, known in marked if piece), tuple(unknown))


def _check_tokenizer(folder: Path) -> None:
    """Check that the directory of a tokenizer refers to no external files or code.

    Raises:
        InputError: A file does, or is too large; the message names it.
    """
    for path in folder.iterdir():
        if path.is_dir():
            continue
        inner_file(folder, path.name)
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES >> 20} MiB, too large for a file of a tokenizer")
    for name in ("tokenizer_config.json", "config.json"):
        if (folder / name).is_file():
            values = read_json(folder / name, MAX_BYTES)
            files = [key for key in values if key.endswith("_file") and key != "special_tokens_map_file"]
            wrong = [key for key in (*files, "auto_map") if values.get(key) is not None]
            if wrong:
                raise InputError(
                    f"{folder / name}: {wrong[0]!r} refers to external files or code, which are not loaded"
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
