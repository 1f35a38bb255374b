"""Tokenizers of the transformers library as vocabularies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vatt.datasets.text.making import MAX_BYTES, Coverage, coverage_of, normalized, write_description
from vatt.errors import InputError
from vatt.io import short_hash
from vatt.untrusted import inner_file, read_json

TOKENIZER = "tokenizer"


class HuggingFaceVocabulary:
    """A tokenizer of the transformers library, applied to texts in Unicode form NFC.

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
        """See `vatt.datasets.text.making.Vocabulary`."""
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
        return self._tokenizer(normalized(text))["input_ids"]

    def coverage(self, text: str) -> Coverage:
        text = normalized(text)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        is_known = [i != self._tokenizer.unk_token_id for i in ids]
        pieces = self._tokenizer.convert_ids_to_tokens(ids)
        if not all(is_known) and self._tokenizer.is_fast:
            spans = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            pieces = [p if k else text[a:b] for p, k, (a, b) in zip(pieces, is_known, spans, strict=True)]
        return coverage_of(pieces, is_known)

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
