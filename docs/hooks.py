"""Hooks of MkDocs. They add files outside of docs/ to the site, and resolve public names in the API reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import vatt

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")


def on_files(files: Files, config: Any) -> Files:
    """Add the figures of the benchmarks, the guide for contributors and the changelog."""
    figures = sorted((ROOT / "benchmarks" / "pictures").glob("*.png"))
    for path in (*figures, *(ROOT / name for name in PAGES)):
        target = f"pictures/{path.name}" if path.suffix == ".png" else path.name
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links that are relative to the repository, and short names such as ``::: vatt.VATT``."""
    markdown = markdown.replace("](../benchmarks/pictures/", "](pictures/")
    for name in PAGES:
        markdown = markdown.replace(f"](../{name}", f"]({name}")
    return re.sub(r"^::: vatt\.(\w+)$", lambda match: f"::: {full_name(match[1])}", markdown, flags=re.MULTILINE)


def full_name(name: str) -> str:
    """Return the full name of an object that ``vatt`` exports, such as ``vatt.models.vatt.VATT``."""
    value = getattr(vatt, name)
    return f"{value.__module__}.{value.__qualname__}"
