"""Replacements of functions that read media in worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from vatt.media.segments import Stretch
from vatt.media.transcode import Encoding
from vatt.media.types import MediaError


def crash(*_: object) -> None:
    """Stand in for a function whose decoder crashes."""
    os.abort()


def fake_transcode(source: str, output: Path, _: Encoding, stretch: Stretch) -> None:
    """Log the segment in the source and write 100 bytes, or behave as the name of the source says."""
    with Path(source).open("a") as log:
        log.write(f"{stretch.start_s:g}-{stretch.end_s:g}\n")
    output.write_bytes(bytes(100))
    name = Path(source).name
    if name == "slow":
        time.sleep(30)
    elif name == "crash":
        os.abort()
    elif name == "full":
        raise OSError(28, "No space left on device", str(output))
    elif name == "bad":
        raise MediaError(source, "damaged")
    while name == "waits" and not Path(f"{source}.go").exists():
        time.sleep(0.01)
