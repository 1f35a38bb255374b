"""``vatt manifest``: convert the annotations of a published dataset to a manifest."""

from __future__ import annotations

import ast
import runpy
import sys
from argparse import REMAINDER, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from vatt.errors import InputError
from vatt.resources import dataset_scripts


def manifest(argv: Sequence[str]) -> int:
    """Run the script of a dataset, ``data/DATASET/prepare.py``.

    Args:
        argv: Name of the dataset and the arguments of its script.

    Raises:
        InputError: There is no script for the dataset, or its input is invalid.
    """
    scripts = dataset_scripts()
    width = max(map(len, scripts))
    parser = ArgumentParser(
        prog="vatt manifest",
        usage="vatt manifest DATASET ...    (vatt manifest DATASET --help shows the arguments of a dataset)",
        description="Convert the annotations of a published dataset to a manifest. Nothing is downloaded.",
        epilog="\n".join(["datasets:", *(f"  {name:<{width}}  {_summary(path)}" for name, path in scripts.items())]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", metavar="DATASET", help="Name of the dataset, one of those below")
    parser.add_argument("arguments", metavar="...", nargs=REMAINDER, help="Arguments of its script")
    if not argv:
        parser.print_usage(sys.stderr)
        return 2
    values = parser.parse_args(argv)
    if values.dataset not in scripts:
        close = get_close_matches(values.dataset, scripts)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose from {', '.join(scripts)}"
        raise InputError(f"there is no script for the dataset {values.dataset!r}; {hint}")
    own, sys.argv = sys.argv, [f"vatt manifest {values.dataset}", *values.arguments]  # the scripts read it
    try:
        runpy.run_path(str(scripts[values.dataset]))["main"]()
    finally:
        sys.argv = own
    return 0


def _summary(script: Path) -> str:
    """Return the first line of the docstring of a script."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]
