"""Configuration files and dataset scripts that are distributed with the package.

In a checkout they are in ``configs/`` and ``data/`` beside the package; in a wheel they are inside the package.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from vatt.errors import InputError

PACKAGE = Path(__file__).parent


def resource_dir(name: Literal["configs", "data"]) -> Path:
    """Return the directory of the configuration files or of the dataset scripts."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def packaged_configs() -> dict[str, Path]:
    """Return the packaged configuration files by name, such as ``demo`` or ``data/shapes``."""
    directory = resource_dir("configs")
    return {path.relative_to(directory).with_suffix("").as_posix(): path for path in sorted(directory.rglob("*.yaml"))}


def find_config(name: str) -> Path:
    """Return the path of a configuration file.

    Args:
        name: Path of a file, or, if there is no such file, the name of a packaged configuration with or without
            ``.yaml``, such as ``demo``, ``pretrain_small`` or ``data/shapes``.

    Raises:
        InputError: There is neither such a file nor such a packaged configuration. The message lists close names.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    packaged = packaged_configs().get(name.removesuffix(".yaml"))
    if packaged is None:
        hint = similar_configs(name) or f"; packaged configurations are in {resource_dir('configs')}"
        raise InputError(f"there is no configuration {name!r}, neither as a file nor packaged with vatt{hint}")
    return packaged


def similar_configs(name: str) -> str:
    """Return a suggestion of packaged configurations with similar names, as the end of an error message, or ""."""
    close = get_close_matches(name.removesuffix(".yaml").removeprefix("configs/"), packaged_configs())
    return f"; did you mean {' or '.join(close)}?" if close else ""


def dataset_scripts() -> dict[str, Path]:
    """Return the scripts that convert the annotations of published datasets to manifests, by name of the dataset."""
    return {path.parent.name: path for path in sorted(resource_dir("data").glob("*/prepare.py"))}
