"""Command-line parsers that report errors in one sentence and do not accept abbreviated options."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from vatt.errors import InputError
from vatt.resources import similar_configs

MAX_PROPOSALS = 3  # names that are suggested for a misspelled one
MAX_MESSAGE = 400  # characters of a message
YAML_SUFFIXES = (".yaml", ".yml")


class OneLineErrors(ArgumentParser):
    """Parser that reports an error in one sentence, with the closest names for a misspelled option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with status 2."""
        parser = getattr(ex, "subcommand_parser", None) or self
        if not self.exit_on_error:
            super().error(message, ex)
        print(f"{_program(parser.prog)}: error: {explain(message, parser)}", file=sys.stderr)
        self.exit(2)


def explain(message: str, parser: argparse.ArgumentParser) -> str:
    """Convert an error message of jsonargparse to one sentence.

    Args:
        message: Error message, possibly of several lines.
        parser: Parser, or parser of the subcommand, whose options are suggested.

    Returns:
        The sentence, without the name of the command.
    """
    unknown = re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE | re.DOTALL)
    if unknown:
        return _unknown_options(unknown[1].split(), parser)
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    key = f"{key}: " if key else ""
    option = re.search(r"Option '([^']+)' is not accepted", message)
    paths = re.findall(r"class_path '([^']+)'", message)
    if option and paths:
        names = _arguments(paths[-1])
        return f"{key}{paths[-1].rpartition('.')[2]} has no option {option[1]!r}{_proposal(option[1], names)}"
    missing = re.search(
        r'[Kk]ey "([^"]+)" is not expected|No action for key "([^"]+)"|does not accept option \'([^\']+)\'', message
    )
    if missing:
        name = next(filter(None, missing.groups()))
        names = [option.lstrip("-") for option in parser._option_string_actions]
        return f"there is no option {name!r}{_proposal(name, names)}"
    attribute = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    if attribute:
        classes = [name for name, kind in vars(import_module(attribute[1])).items() if inspect.isclass(kind)]
        return f"{key}there is no class {attribute[2]!r} in {attribute[1]}{_proposal(attribute[2], classes)}"
    failed = re.search(r"Call to compute_fn of link .*? failed: (.*)", message, re.DOTALL)
    if failed:
        return " ".join(failed[1].split())
    subclass = re.search(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", message)
    if subclass:
        return f"{key}{subclass[1]} is not a subclass of {subclass[2]}"
    file = re.search(r"Unable to load config '([^']*)'", message)
    if file:
        return f"{key}{file[1]!r} is neither a file nor a mapping{similar_configs(file[1])}"
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    choices = [word.strip(" '\"") for group in re.findall(r"Literal\[([^\]]*)\]", message) for word in group.split(",")]
    if value and choices:
        return f"{key}{value[1]!r} is not valid; choose from {', '.join(dict.fromkeys(choices))}"
    if value and (kinds := re.findall(r"Subtypes: \[(.*)\]", message)):
        nested = re.match(r"NestedArg\(key='(.*?)', val=(.*)\)$", value[1])
        key, text = (f"{key[:-2]}.{nested[1]}: ", nested[2].strip("'")) if nested else (key, value[1])
        return f"{key}{text!r} is not valid; expected {_type_names(kinds[-1])}"
    if value and (kind := re.search(r"Not a valid subclass of (\w+)", message)):
        return f"{key}{value[1]!r} is not valid; expected the import path of a subclass of {kind[1]}"
    if value and (kind := re.search(r"Expected a <class '([\w.]+)'>", message)):
        return f"{key}{value[1]!r} is not valid; expected a value of type {kind[1]}"
    text = " ".join(re.sub(r'Parser key "([^"]+)":', r"\1:", message).split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def expand_user(config: Namespace) -> None:
    """Expand a leading ``~`` in all strings of a configuration, in place."""
    for key, value in config.items():
        config[key] = _expanded(value)


def check_config_files(args: Sequence[str]) -> None:
    """Check that the configuration files among arguments, and files that they refer to, are valid YAML.

    Raises:
        InputError: A file is not UTF-8, not YAML, or has a key twice; the message names the file.
    """
    checked: set[Path] = set()
    for before, word in zip(["", *args], args, strict=False):
        option, _, value = word.rpartition("=")
        if _is_file(value) and ({option or before} & {"-c", "--config"} or value.endswith(YAML_SUFFIXES)):
            _check_config_file(Path(value), checked)


def _check_config_file(path: Path, checked: set[Path]) -> None:
    """Check a file that is not among the checked ones. See `check_config_files`."""
    if path in checked:
        return
    checked.add(path)
    try:
        nodes = [yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    visited: set[int] = set()  # aliases refer to nodes again
    while nodes:
        node = nodes.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in keys:
                    raise InputError(f"{path}, line {key.start_mark.line + 1}: key {key.value!r} is given twice")
                keys.add(key.value)
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif node is not None and node.value.endswith(YAML_SUFFIXES) and _is_file(path.parent / node.value):
            _check_config_file(path.parent / node.value, checked)


def _is_file(path: str | Path) -> bool:
    """Return whether a file exists. A text that is not a possible path, such as a long one, is not a file."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any], key: str = "") -> list[str]:
    """List the options of a configuration that differ from an earlier one, as ``data.batch_size 4 -> 8``.

    Args:
        before: Earlier configuration.
        now: Present configuration.
        key: Prefix of the keys, for recursion.
    """
    changed = []
    for name in before.keys() | now.keys():
        old, new, path = before.get(name), now.get(name), f"{key}.{name}" if key else name
        if isinstance(old, dict) and isinstance(new, dict):
            changed += changed_options(old, new, path)
        elif old != new:
            changed.append(f"{path} {format_value(old)} -> {format_value(new)}")
    return sorted(changed)


def format_value(value: Any) -> str:
    """Return a value of a configuration as text of at most 60 characters."""
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def strings_of(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all strings of a configuration with their keys, such as ``model.pretrained``.

    Args:
        value: Configuration, or a value in it.
        key: Key of the value, for recursion.
    """
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Namespace | dict):
        for name, inner in value.items():
            yield from strings_of(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings_of(inner, key)


def _expanded(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"~[\w.-]*(/|$)", value):
        return os.path.expanduser(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    if isinstance(value, Namespace):
        expand_user(value)
        return value
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    return value


def _unknown_options(words: Iterable[str], parser: argparse.ArgumentParser) -> str:
    names = [word.partition("=")[0] for word in words if re.match(r"--?[^\d.]", word)]  # negative numbers are values
    if not names:
        return f"unexpected arguments: {' '.join(words)}"
    known = list(parser._option_string_actions)
    return " ".join(f"there is no option {name}{_proposal(name, known)}" for name in names)


def _proposal(name: str, known: Iterable[str]) -> str:
    """Return a suggestion of the closest names, first within the group of the option, then among all options."""
    known = [option for option in known if not option.endswith((".help", "+"))]
    group = name.rpartition(".")[0]
    siblings = [option for option in known if option.rpartition(".")[0] == group] if group else []
    if len(name) > 3 and (longer := [option for option in known if option.startswith(name)]):
        return f"; did you mean {' or '.join(longer[:MAX_PROPOSALS])}?"
    close = get_close_matches(name, siblings, MAX_PROPOSALS, 0.75)
    close = close or get_close_matches(name, known, MAX_PROPOSALS, 0.75)
    if not close:
        tail = name.rpartition(".")[2].lstrip("-")
        close = [option for option in known if option.rpartition(".")[2].lstrip("-") == tail][:MAX_PROPOSALS]
    return f"; did you mean {' or '.join(close)}?" if close else ", see --help"


def _arguments(path: str) -> list[str]:
    """Return the argument names of a class, given its import path."""
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _type_names(kinds: str) -> str:
    """Return a list of types as text, such as "int, float or null", given as in ``str(list_of_types)``."""
    kinds = re.sub(r"<class '([\w.]+)'>", r"\1", kinds)
    kinds = re.sub(r"(?:\w+\.)+(\w+)", r"\1", kinds).replace("NoneType", "null")
    *first, last = re.split(r", (?![^\[]*\])", kinds)  # not within brackets
    return f"{', '.join(first)} or {last}" if first else last


def _program(prog: str) -> str:
    """Return the name of the command without the options that argparse inserts."""
    return " ".join(word for word in re.sub(r"\[.*?\]", "", prog).split() if not word.startswith("-"))
