"""Directories of saved models, downloaded from the Hugging Face Hub if necessary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from vatt.directories import current_directory, lock_directory
from vatt.errors import InputError
from vatt.models.card import PAGE, VOCABULARY
from vatt.models.saved import (
    CONFIG,
    WEIGHTS,
    read_config,
    read_format,
)
from vatt.structures import ClipFormat
from vatt.untrusted import inner_file


def read_saved(
    name: str | Path,
    options: dict[str, Any] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The folder of a saved model, and its configuration, whose ``model`` is the name of its class.

    If saving was interrupted, the files are read from a subdirectory of the folder (see
    `vatt.directories.current_directory`).

    Args:
        name: folder, or name on the Hugging Face Hub.
        options, local_files_only, token: of the Hub.

    Raises:
        FileNotFoundError: no model is there.
        InputError: the configuration is damaged.
    """
    folder = local_directory(name, options or {}, local_files_only, token)
    with lock_directory(folder, shared=True):
        return folder, _read_checked(folder)


def local_directory(
    name: str | Path, options: dict[str, Any], local_files_only: bool, token: str | bool | None
) -> Path:
    """Return the directory of a model, downloaded if necessary. See `read_saved`."""
    return Path(name) if Path(name).is_dir() else _download(str(name), options, local_files_only, token)


def _read_checked(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model in a directory. See `read_saved`."""
    files = current_directory(folder)
    for file in (CONFIG, WEIGHTS):
        if not (files / file).is_file():
            raise FileNotFoundError(f"no model in {files}: {file} is missing")
        inner_file(files, file)
    config = {"model": "VATT", **read_config(files)}  # version 0.1 did not write 'model'
    if not isinstance(config["model"], str) or not config["model"].isidentifier():
        raise InputError(f"{folder / CONFIG} is damaged: 'model' is {str(config['model'])[:60]!r}")
    return config


def saved_format(name: str | Path) -> ClipFormat:
    """How clips are read for a saved model. Raises as `read_saved`."""
    folder, config = read_saved(name)
    try:
        return read_format(config.get("format"))
    except InputError as error:
        raise InputError(f"{folder / CONFIG}, 'format': {error}") from error


def _download(name: str, options: dict[str, Any], local_files_only: bool, token: str | bool | None) -> Path:
    patterns = [CONFIG, WEIGHTS, PAGE, f"{VOCABULARY}/**"]
    try:
        where = snapshot_download(
            name, allow_patterns=patterns, local_files_only=local_files_only, token=token, **options
        )
    except HFValidationError:
        raise FileNotFoundError(f"no model in {name}: there is no such folder") from None
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"no model at {name}, and no model of this name on the Hugging Face Hub (offline or unknown)"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0] or "unknown error"
        raise FileNotFoundError(
            f"no model at {name}, and downloading it from the Hugging Face Hub failed: {reason}"
        ) from error
    return Path(where)
