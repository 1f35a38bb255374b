"""Short texts for the page and the log."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

CAPTION_LENGTH = 300  # characters


def shortened(text: str, length: int = CAPTION_LENGTH) -> str:
    """Return a text of at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def summary(error: BaseException) -> str:
    """Return the type, the message and the line of code of an exception in one line of a log."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return shortened(f"{type(error).__name__}: {' '.join(str(error).split())}") + line


def without_directories(text: str, folders: Iterable[str | Path] = ()) -> str:
    """Return a message in one line without directories of the server.

    Args:
        text: The message.
        folders: Directories whose names may contain spaces; others are found by their slashes.
    """
    text = " ".join(text.split())
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(folder.rstrip("/") + "/", "").replace(folder, "…")
    return re.sub(r"(?<![\w.])(?:/[^\s/'\":;,()]+)+/(?=[^\s/'\":;,()])", "", text)
