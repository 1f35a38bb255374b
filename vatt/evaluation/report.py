"""What a number must say of itself: one JSON and one Markdown file for each evaluation."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vatt import __version__
from vatt.io import atomic_write

WITHOUT_EFFECT = (  # on the numbers: where files lie, and who does the work
    "config", "ckpt_path", "run.folder", "run.checkpoint_steps", "data.num_workers", "data.cache", "data.time_limit_s",
    "data.start_method", "trainer.accelerator", "trainer.devices", "trainer.logger", "trainer.log_every_n_steps",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.profiler",
)  # fmt: skip


def circumstances() -> dict[str, str]:
    """Version of the code, and hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "code": code_version(),
        "torch": torch.__version__,
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs, {device}",
    }


def code_version() -> str:
    """The package's version and, in a checkout, the commit; "+" where files differ from it."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("ls-files", "--error-unmatch", __file__) and git("rev-parse", "--short", "HEAD")
        changed = commit and git("status", "--porcelain", "--untracked-files=no")
    except FileNotFoundError:  # there is no git
        return __version__
    return f"{__version__} ({commit}{'+' if changed else ''})" if commit else __version__


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any value of a configuration, but for those that change no number."""
    plain = json.loads(json.dumps(config, sort_keys=True, default=str))
    for path in WITHOUT_EFFECT:
        *rooms, name = path.split(".")
        room = plain
        for part in rooms:
            room = room.get(part) if isinstance(room, dict) else None
        if isinstance(room, dict):
            room.pop(name, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def write_report(
    path: str | Path,
    title: str,
    metrics: Mapping[str, Any],
    about: Mapping[str, Any],
    off_page: Mapping[str, Any] | None = None,
) -> Path:
    """Write a JSON file, and a Markdown page beside it.

    Args:
        path: of the JSON file.
        title: of the page.
        metrics: numbers by name.
        about: protocol, data, seed, …; `circumstances` is added.
        off_page: more, for the JSON file only.

    Returns:
        The Markdown file.
    """
    path = Path(path)
    about = {**about, **circumstances()}
    everything = {"title": title, **metrics, **(off_page or {}), **about}
    with atomic_write(path, "w") as file:
        json.dump(everything, file, indent=1, ensure_ascii=False)
    lines = [f"# {title}", "", "| | |", "|---|---|"]
    lines += [f"| **{key}** | **{_cell(value)}** |" for key, value in metrics.items()]
    lines += [f"| {key} | {_cell(value)} |" for key, value in about.items()]
    page = path.with_suffix(".md")
    with atomic_write(page, "w") as file:
        file.write("\n".join(lines) + "\n")
    return page


def write_per_class(path: str | Path, names: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> None:
    """Write one row a class; a value that does not exist stays empty.

    Args:
        path: CSV file.
        names: of the classes.
        values: by metric, one for each class.
    """
    with atomic_write(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *values])
        for name, row in zip(names, zip(*values.values(), strict=True), strict=True):
            writer.writerow([name, *("" if value is None else f"{value:.6g}" for value in row)])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return f"{len(value)}, see the table"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
