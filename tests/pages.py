"""Pages for users, and what is in them: code blocks, commands, links and headings."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS, ROOT / "data" / "README.md"]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    """Return the name of a page, for the ids of tests."""
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return [code for name, code in BLOCK.findall(read(path)) if name == language]


def prose(path: Path) -> str:
    """Return a page without its code blocks."""
    return BLOCK.sub("", read(path))


def shell_lines(path: Path) -> list[str]:
    """Return the commands in the blocks of a page, without comments."""
    lines = "".join(blocks(path, "bash")).splitlines()
    return [command for line in lines if (command := re.sub(r"(^| +)#.*", "", line).strip())]


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs derive them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", read(path)), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def links(path: Path) -> list[str]:
    """Return the targets of the links and images of a page that are files of the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if not re.match(r"[a-z]+:", target)]
