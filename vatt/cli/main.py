"""The front door: a command word leads to the function that does the work. Nothing heavy is imported before that."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vatt import __version__
from vatt.errors import VattError
from vatt.signals import exit_on_signals

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# word: module and function, its positional arguments, and what it does
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "synth": ("vatt.cli.commands:synth", ("output",), "write the demonstration corpus: short videos with captions"),
    "scan": ("vatt.cli.data:scan", ("path",), "look at every media file: what it is, and whether it is whole"),
    "manifest": ("vatt.cli.manifest:manifest", (), "convert the annotations of a published dataset to a manifest"),
    "prepare": ("vatt.cli.prepare:prepare", ("path",), "make training shards: small clips, many in a file"),
    "vocabulary": ("vatt.cli.commands:vocabulary", ("manifest",), "make a vocabulary from the texts of a manifest"),
    "pretrain": ("vatt.cli.training:pretrain", (), "train on video, audio and text: pretrain fit --config FILE"),
    "finetune": ("vatt.cli.finetune:finetune", (), "make a classifier of a model: finetune fit --config FILE"),
    "probe": ("vatt.cli.probe:probe", ("manifest",), "train small classifiers on the frozen features of a model"),
    "convert": (
        "vatt.cli.models:convert",
        ("official", "output"),
        "convert weights of VATT (TensorFlow), VideoMAE, V-JEPA or V-JEPA 2 to a model",
    ),
    "onnx": ("vatt.cli.models:onnx", ("model",), "write the encoders of a model as ONNX files"),
    "flops": ("vatt.cli.models:flops", (), "count the operations of a configuration's towers: flops --config FILE"),
    "embed": ("vatt.cli.retrieval:embed", ("path",), "turn videos, sounds and texts into vectors"),
    "index": ("vatt.cli.retrieval:index", ("sources",), "build a searchable index from vectors"),
    "search": ("vatt.cli.retrieval:search", ("index", "query"), "find videos by words, a video or a sound"),
    "app": ("vatt.cli.retrieval:app", ("index",), "a web page on which to search an index"),
    "retrieve": ("vatt.cli.commands:retrieve", ("embeddings",), "measure retrieval on the vectors of a manifest"),
    "plot": ("vatt.cli.plot:plot", ("kind", "sources"), "draw curves, t-SNE, similarities, activations, comparisons"),
    "droptoken": ("vatt.cli.droptoken:droptoken", (), "pretrain at several rates of DropToken, and compare them"),
    "compare": ("vatt.cli.compare:compare", (), "pretrain in several ways with equal computing, and compare them"),
    "codes": ("vatt.cli.codes:codes", ("manifest",), "learn discrete codes of pictures"),
    "scenes": ("vatt.cli.scenes:scenes", ("output",), "write scenes whose depth, camera, points and boxes are known"),
    "readout": (
        "vatt.cli.scenes:readout",
        ("manifest",),
        "train readouts of depth, camera, points and boxes",
    ),
    "doctor": ("vatt.cli.doctor:doctor", (), "look at this installation, and say what to do about what is missing"),
    "demo": ("vatt.cli.demo:demo", (), "all of the above, on a corpus made on the spot"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 for success, 1 if some input could not be used, 2 for invalid input, 130 after Ctrl-C, 141 if
        the reader of the output has exited. SIGTERM and SIGHUP exit with status 143 and 129.
    """
    # By default, waiting OpenMP threads spin and slow down other processes. PyTorch reads the variable on import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"vatt {__version__}")
        return 0
    word, rest = argv[0], argv[1:]
    if word not in COMMANDS:
        close = get_close_matches(word, COMMANDS, n=1)
        print(f"vatt: unknown command {word!r}" + (f"; did you mean {close[0]!r}?" if close else ""), file=sys.stderr)
        print(f"Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    warnings.formatwarning, threading.excepthook = _format_warning, _report_thread_error
    exit_on_signals()
    try:
        return _run(word, rest)
    except BrokenPipeError:  # the reader of the output, such as head, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:
        message = _error_message(error)
        if message is None or os.environ.get("VATT_TRACE"):
            raise
        from vatt.cli.commands import printable

        print(f"vatt {word}: error: {' '.join(map(printable, message.splitlines()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"vatt {word}: stopped", file=sys.stderr)
        return 130


def _error_message(error: Exception) -> str | None:
    """Return the message for an error that the user or the machine has caused, or None for a bug."""
    from vatt.errors import WriteError
    from vatt.io import write_errno

    if isinstance(error, WriteError):
        return str(error)
    code = None if isinstance(error, VattError) else write_errno(error)
    if code is not None:
        name = getattr(error, "filename", None)
        return f"cannot write{f' {name}' if name else ''}: {os.strerror(code)}"
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        detail = str(error).strip().splitlines()
        return f"not enough memory{f': {detail[0]}' if detail else ''}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, (VattError, OSError, ImportError)) else None


def _report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Report a full disk in one sentence, and other errors of threads as Python does.

    TensorBoard writes in a thread, and raises its error again when something else is logged.
    """
    from vatt.io import write_errno

    code = None if args.exc_value is None else write_errno(args.exc_value)
    if code is None:
        threading.__excepthook__(args)
    else:
        print(f"warning: a background thread cannot write: {os.strerror(code)}", file=sys.stderr)


def _format_warning(message: Any, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """Format warnings of this package as one sentence, and other warnings as Python does."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"warning: {message}\n"
    return _PYTHON_FORMAT(message, category, filename, lineno, line)


_PYTHON_FORMAT = warnings.formatwarning


def _run(word: str, rest: list[str]) -> int:
    where, positional, _ = COMMANDS[word]
    module, name = where.split(":")
    function = getattr(import_module(module), name)
    if word in ("pretrain", "finetune", "manifest"):
        return function(rest)
    from vatt.cli.parsing import expand_user
    from vatt.cli.ranges import check_ranges

    values = make_parser(word, function, positional).parse_args(rest)
    expand_user(values)
    options = values.as_dict()
    check_ranges(function, options)
    return function(**options)


def make_parser(word: str, function: Callable[..., int], positional: tuple[str, ...]) -> ArgumentParser:
    """Return the parser of a command: options from the function's parameters, help from its docstring.

    `add_function_arguments` of jsonargparse is not used: it imports everything that the function imports, even PyTorch.
    """
    from inspect import signature
    from typing import get_type_hints

    from docstring_parser import parse

    from vatt.cli.parsing import OneLineErrors

    doc = parse(function.__doc__ or "")
    about = "\n\n".join(part for part in (doc.short_description, doc.long_description) if part)
    parser = OneLineErrors(prog=f"vatt {word}", description=about)
    help_texts = {parameter.arg_name: parameter.description for parameter in doc.params}
    hints = get_type_hints(function)
    for name in positional:
        kind = str(hints[name])
        several = {"nargs": "+"} if "list" in kind else {"nargs": "?"} if "None" in kind else {}
        parser.add_argument(name, type=str, help=help_texts[name], **several)
    for name, parameter in signature(function).parameters.items():
        if name not in positional:
            required = parameter.default is parameter.empty
            value = {"required": True} if required else {"default": parameter.default}
            parser.add_argument(f"--{name}", type=hints[name], help=help_texts[name], **value)
    return parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {word:<{width}}  {what}" for word, (_, _, what) in COMMANDS.items())
    return (
        f"vatt {__version__}: pretrain on video, audio and text; embed, index and search your own videos\n\n"
        f"usage: vatt COMMAND …    (vatt COMMAND --help tells more)\n\n{rows}\n\n"
        "VATT_TRACE=1 shows where in the code an error came from."
    )
