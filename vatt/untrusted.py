"""Reading of small files in untrusted directories."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from vatt.errors import InputError


def inner_file(folder: str | Path, name: str) -> Path:
    """Return the path of a regular file that lies directly in a directory.

    Directories are not trusted: a name may lead out of them by ``..`` or a symbolic link, and opening a named pipe
    would block. Links into the blobs of a Hugging Face cache are followed.

    Args:
        folder: Directory.
        name: Name of the file.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The name is not a plain file name, or the file is a link to another directory or not a regular file.
    """
    folder = Path(folder)
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise InputError(f"{folder}: {name[:100]!r} is not a plain file name")
    path, real_folder = folder / name, folder.resolve()
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is a broken symbolic link") from error
    blobs = [parent.parent / "blobs" for parent in real_folder.parents if parent.name == "snapshots"]
    if real.parent not in (real_folder, *blobs):
        raise InputError(f"{path} is a link to {real}, outside its directory: replace the link with the file")
    if not stat.S_ISREG(real.stat().st_mode):
        raise InputError(f"{path} is not a regular file")
    return path


def read_json(path: str | Path, max_bytes: int = 2**20) -> dict[str, Any]:
    """Read a file with one JSON object.

    Args:
        path: File.
        max_bytes: Larger files are refused.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is too large, is not UTF-8, or is not a JSON object.
    """
    with Path(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{path} has more than {max_bytes / 2**20:g} MiB, the limit for this file")
    try:
        value = json.loads(data.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # halves of surrogate pairs could not be printed
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise InputError(f"{path} is damaged: {reason}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: expected a JSON object, got {type(value).__name__}")
    return value
