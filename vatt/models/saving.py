"""Models in directories and on the Hugging Face Hub: ``config.json``, ``model.safetensors`` and a model card."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn

from vatt.directories import PENDING, current_directory, lock_directory, remove_leftovers, replace_files
from vatt.errors import InputError
from vatt.io import atomic_path, atomic_write, file_hash
from vatt.models.backbone import Backbone
from vatt.models.card import PAGE, TRAINING, VOCABULARY, is_edited, make_card
from vatt.models.directories import local_directory, read_saved
from vatt.models.part import check_types, from_config, to_config
from vatt.models.saved import (
    CONFIG,
    WEIGHTS,
    WEIGHTS_HASH,
    check_fits,
    copy_directory,
    read_config,
    read_format,
    read_page,
    read_weights,
)
from vatt.structures import ClipFormat

INPUTS = {  # for readers of config.json
    "video": "(B, T, 3, H, W) RGB in [-1, 1] at format.fps: the middle square of format.crop_box, format.size wide",
    "audio": "(B, S) mono in [-1, 1] at format.sample_rate, of the same seconds",
    "text": "(B, L) ids of the vocabulary, padded to format.num_words",
}


class HubModel(nn.Module, ModelHubMixin, library_name="vatt"):
    """A model that can be saved, loaded, and shared: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

    Subclasses name the constructor arguments that make up their configuration in ``parts``; each is a
    `vatt.models.part.Part`, plain values, or the `ClipFormat`.

    Attributes:
        format: how clips must be read for this model.
        directory: Directory that the model was loaded from, or None.
        vocabulary_hash: Hash of the vocabulary that the model was trained with; None if it was trained without text,
            or if that is not known.
    """

    parts: tuple[str, ...]
    backbone: Backbone
    format: ClipFormat
    directory: Path | None = None
    vocabulary_hash: str | None = None

    @property
    def folder(self) -> Path | None:
        """Directory with the files that belong to the model, or None.

        It is `directory`, or its subdirectory ``.pending`` if saving was interrupted (see
        `vatt.directories.replace_files`).
        """
        return None if self.directory is None else current_directory(self.directory)

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self.directory = folder.parent if folder is not None and folder.name == PENDING else folder

    def model_hash(self) -> str:
        """16 hexadecimal digits that change with any weight and any part of the configuration."""
        digest = hashlib.sha256(json.dumps(self.config(brief=True), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def config(self, brief: bool = False) -> dict[str, Any]:
        """Architecture and preprocessing in values that JSON can hold; ``brief`` without what has its default."""
        values = {name: _encode(getattr(self, name), brief) for name in self.parts}
        if brief:
            usual = self._defaults()
            values = {name: value for name, value in values.items() if name not in usual or value != usual[name]}
        return {"model": type(self).__name__, **values}

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """What parts are where nothing is said of them."""
        parameters = inspect.signature(cls.__init__).parameters
        return {
            name: parameters[name].default
            for name in cls.parts
            if parameters[name].default is not parameters[name].empty
        }

    def _save_pretrained(self, save_directory: Path, vocabulary_hash: str | None = None) -> None:
        """Write the weights, and the configuration with their SHA-256, to an empty directory."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        config = {**self.config(), "inputs": {modality: INPUTS[modality] for modality in self.backbone.modalities}}
        if vocabulary_hash is not None:
            config["vocabulary_hash"] = vocabulary_hash
        with atomic_path(save_directory / WEIGHTS) as path:
            save_file(tensors, path, metadata={"format": "pt"})
        config[WEIGHTS_HASH] = file_hash(save_directory / WEIGHTS)
        with atomic_write(save_directory / CONFIG, "w") as file:
            json.dump(config, file, indent=1)

    def save_vocabulary(self, folder: Path) -> None:
        """Copy the vocabulary that the model was loaded with, if any, into another directory.

        Raises:
            InputError: A file of the vocabulary is a link to another directory.
            WriteError: The disk is full or read-only.
        """
        source = None if self.folder is None else self.folder / VOCABULARY
        if source is not None and source.is_dir() and source.resolve() != (folder / VOCABULARY).resolve():
            with lock_directory(self.directory, shared=True):
                copy_directory(self.folder / VOCABULARY, folder / VOCABULARY)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        vocabulary: Any = None,
        extra_files: Mapping[str, Callable[[Path], Any]] | None = None,
        **options: Any,
    ) -> str | None:
        """Write weights, configuration, the vocabulary if any, and a model card (see `vatt.models.card`).

        An existing model is replaced atomically (see `vatt.directories.replace_files`). After an error, or if the
        process is killed, either the old or the new model is loaded, with its own vocabulary and extra files.
        ``config.json`` is written last; a directory without it is not a model. Other files are kept, such as a
        vocabulary or ``training.json`` if the new model has none. A model card that was edited by hand is kept. It is
        copied if the model is saved unchanged to another directory.

        Args:
            save_directory: the folder.
            config: Ignored. The configuration of the model is written.
            model_card_kwargs: see `generate_model_card`.
            vocabulary: Vocabulary of the model (`vatt.datasets.text.vocabularies.Vocabulary`); None copies the one that
                the model was loaded with, if any.
            extra_files: Functions that write further files, by file name. They take the path.
            repo_id, push_to_hub, options: See `huggingface_hub.ModelHubMixin.save_pretrained`.

        Raises:
            DirectoryInUse: Other processes load from the directory or save to it for more than a minute.
            InputError: The vocabulary is missing, damaged, or not the one that the model was trained with.
            WriteError: The disk is full or read-only.
        """
        folder, kwargs = Path(save_directory), {"name": str(save_directory), **(model_card_kwargs or {})}
        remove_leftovers(folder)
        with replace_files(folder, last=CONFIG) as files:
            if vocabulary is None:
                self.save_vocabulary(files)
            else:
                vocabulary.save(files / VOCABULARY)
            digest = self._vocabulary_hash(files, folder)
            for name, write in (extra_files or {}).items():
                with atomic_path(files / name) as path:
                    write(path)
            self._save_pretrained(files, digest)
            self._save_page(files, folder, kwargs)
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, model_card_kwargs=model_card_kwargs, **options)
        return None

    def _vocabulary_hash(self, *folders: Path) -> str | None:
        """Return the hash of the vocabulary in the first of the directories that has one."""
        from vatt.models.vocabulary import vocabulary_hash

        folder = next((folder for folder in folders if (folder / VOCABULARY).exists()), folders[-1]) / VOCABULARY
        if self.vocabulary_hash is None and not folder.exists():
            return None
        return vocabulary_hash(folder, self.vocabulary_hash)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        branch: str | None = None,
        ignore_patterns: list[str] | str | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Upload what `save_pretrained` writes. An edited model card in the repository is kept.

        Args:
            repo_id: name on the Hub (``owner/model``).
            token, branch, ignore_patterns, options: of the Hub, as everywhere there.
            model_card_kwargs: see `generate_model_card`.
        """
        left = [ignore_patterns] if isinstance(ignore_patterns, str) else list(ignore_patterns or [])
        try:
            page = Path(hf_hub_download(repo_id, PAGE, token=token, revision=branch))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):  # there is none; what else is wrong stops the upload
            page = None
        if page is not None and is_edited(page.read_text(encoding="utf-8")):
            warnings.warn(f"{repo_id} has a {PAGE} that was not written by vatt; it is kept", stacklevel=2)
            left.append(PAGE)
        told = {**(model_card_kwargs or {}), "name": repo_id}
        options |= {"token": token, "branch": branch, "ignore_patterns": left or None}
        return super().push_to_hub(repo_id, model_card_kwargs=told, **options)

    def generate_model_card(self, *, name: str, source: Path | None = None) -> ModelCard:
        """Return the model card that ``save_pretrained`` and ``push_to_hub`` write. See `vatt.models.card.make_card`.

        Args:
            name: by which its example loads the model.
            source: what is known of the training is looked for here; where the model was loaded from unless given.
        """
        return make_card(self, name, source or self.folder)

    def write_card(self, folder: str | Path) -> None:
        """Update the model card of a saved model from the files in its directory, unless it was edited."""
        card = read_page(Path(folder), PAGE)
        if card is None or not is_edited(card):
            with atomic_path(Path(folder) / PAGE) as path:
                self.generate_model_card(name=str(folder), source=Path(folder)).save(path)

    def _save_page(self, files: Path, folder: Path, kwargs: dict[str, Any]) -> None:
        """Write the model card. An edited card is kept, or copied from the directory that the model was loaded from.

        Args:
            files: Directory with the files that will replace those in ``folder``.
            folder: Directory that the model is saved to.
            kwargs: Passed to `generate_model_card`.
        """
        existing = read_page(folder, PAGE)
        if existing is not None and is_edited(existing):
            return
        loaded = None if self.folder is None or existing is not None else read_page(self.folder, PAGE)
        # The card of a run directory is generated again, since there may be new reports.
        is_copied = loaded is not None and (is_edited(loaded) or not (self.folder / TRAINING).is_file())
        with atomic_path(files / PAGE) as path:
            if is_copied and self._is_unchanged(files):
                path.write_text(loaded, encoding="utf-8")
            else:
                self.generate_model_card(**kwargs).save(path)

    def _is_unchanged(self, folder: Path) -> bool:
        """Return whether a directory has the model as it was loaded. The configuration has the hash of the weights."""
        loaded, saved = ({**read_config(path), "vocabulary_hash": None} for path in (self.folder, folder))
        return loaded == saved

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a saved model, in evaluation mode, on the CPU.

        Args:
            pretrained_model_name_or_path: folder, or name on the Hugging Face Hub (``owner/model``).
            revision, cache_dir, force_download, local_files_only, token: of the Hub, as everywhere there.

        Raises:
            FileNotFoundError: no model is there.
            InputError: it is damaged, a model of another kind, or weights and configuration do not fit; the message
                names the tensors.
            DirectoryInUse: Another process saves to the directory for more than a minute.
        """
        options = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
        folder = local_directory(pretrained_model_name_or_path, options, local_files_only, token)
        with lock_directory(folder, shared=True):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Self:
        """Load the model in a directory. See `from_pretrained`."""
        folder, config = read_saved(folder)
        kind, digest = config["model"], config.get(WEIGHTS_HASH)
        if kind != cls.__name__:
            raise InputError(f"{folder} holds a {kind}, not a {cls.__name__}: load it with vatt.{kind}.from_pretrained")
        folder = current_directory(folder)
        config = cls._defaults() | config  # parts that came later
        missing = [name for name in cls.parts if name not in config]
        if missing:
            raise InputError(f"{folder / CONFIG} has no {missing[0]!r}")
        vocabulary_hash = config.get("vocabulary_hash")
        if not isinstance(vocabulary_hash, str | None):
            raise InputError(f"{folder / CONFIG} is damaged: 'vocabulary_hash' is not text")
        if vocabulary_hash is not None:
            from vatt.models import vocabulary

            vocabulary.vocabulary_hash(folder / VOCABULARY, vocabulary_hash)
        make = partial(cls._from_values, config, folder / CONFIG)
        check_fits(make, folder)
        model = make()
        model.load_state_dict(read_weights(folder, digest))
        model.folder, model.vocabulary_hash = folder, vocabulary_hash
        return model.eval()

    @classmethod
    def _from_values(cls, config: dict[str, Any], file: Path) -> Self:
        """Return the model that a configuration describes, with random weights.

        Raises:
            ImportError: A part needs a package that is not installed.
            InputError: The configuration is damaged; the message names file and key.
        """
        try:
            kwargs = {name: _decode(name, config[name]) for name in cls.parts}
            check_types(cls.__init__, kwargs)
            return cls(**kwargs)
        except ImportError:
            raise
        except Exception as error:  # invalid values may cause any error
            keys = ".".join(reversed(getattr(error, "__notes__", [])))
            reason = str(error)[:500] or type(error).__name__
            raise InputError(f"{file}{f', {keys!r}' if keys else ''}: {reason}") from error

    @classmethod
    def assemble(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        """The model that `config` describes, with these weights, in evaluation mode.

        Raises:
            RuntimeError: they do not fit; the message names the tensors.
        """
        model = cls(**{name: _decode(name, config[name]) for name in cls.parts})
        model.load_state_dict(weights)
        return model.eval()


def _encode(value: Any, brief: bool) -> Any:
    return value.to_dict() if isinstance(value, ClipFormat) else to_config(value, brief)


def _decode(name: str, value: Any) -> Any:
    try:
        return read_format(value) if name == "format" else from_config(value)
    except Exception as error:
        error.add_note(name)
        raise
