"""Vocabularies of SentencePiece."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vatt.datasets.text.making import MAX_BYTES, Coverage, coverage_of, normalized, write_description
from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write, short_hash

PART = 2_000  # characters that SentencePiece is given at once
SENTENCEPIECE = "sentencepiece.model"


class SentencePieceVocabulary:
    """A SentencePiece model; texts in Unicode form NFC are lower-cased by its own normaliser.

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
        parts = [text[i : i + PART] for text in map(normalized, texts) for i in range(0, len(text), PART)]
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
        """See `vatt.datasets.text.making.Vocabulary`."""
        return short_hash("sentencepiece", self._processor.serialized_model_proto())

    def __len__(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(normalized(text))

    def coverage(self, text: str) -> Coverage:
        text, unknown_id = normalized(text), self._processor.unk_id()
        pieces, is_known = self._processor.encode(text, out_type=str), [i != unknown_id for i in self.encode(text)]
        return coverage_of(pieces, is_known)

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
