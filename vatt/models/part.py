"""Modules that remember how they were made, so that a saved model is rebuilt from plain JSON."""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from vatt.errors import InputError

ALLOWED = "vatt.models."  # a configuration may name nothing else: loading a model runs no foreign code


class Part(nn.Module):
    """A module whose constructor arguments are kept in ``init_args``.

    Arguments may be plain values, parts, and lists or dicts of these.
    """

    init_args: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original, signature = cls.__init__, inspect.signature(cls.__init__)

        @functools.wraps(original)
        def remember(self: Part, *args: Any, **kwargs: Any) -> None:
            outermost = "init_args" not in self.__dict__
            if outermost:
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                given = {name: value for name, value in bound.arguments.items() if name != "self"}
                object.__setattr__(self, "init_args", given)
            original(self, *args, **kwargs)

        cls.__init__ = remember  # type: ignore[method-assign]


def to_config(value: Any, brief: bool = False) -> Any:
    """Describe a part, or anything made of parts and plain values, in values that JSON can hold.

    ``brief`` leaves out arguments that have their defaults: a description that options of later versions do not change.
    """
    if isinstance(value, Part):
        path = f"{type(value).__module__}.{type(value).__qualname__}"
        described = {k: to_config(v, brief) for k, v in value.init_args.items()}
        if brief:
            defaults = {k: p.default for k, p in inspect.signature(type(value).__init__).parameters.items()}
            has_default = {k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}
            described = {k: v for k, v in described.items() if k not in has_default or v != to_config(has_default[k])}
        return {"class_path": path, "init_args": described}
    if isinstance(value, dict):
        return {str(k): to_config(v, brief) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config(v, brief) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot stand in the configuration of a model: {value!r}")


def from_config(config: Any) -> Any:
    """Inverse of `to_config`.

    Raises:
        InputError: A class path is outside ``vatt.models``, the class does not exist, or an argument has a wrong type.
        TypeError: an argument that the class does not have.
    """
    if isinstance(config, dict) and "class_path" in config:
        part, values = _part(config["class_path"]), config.get("init_args", {})
        if not isinstance(values, dict):
            raise InputError(f"'init_args' of {config['class_path']} is not a dict")
        kwargs = _from_values(values)
        check_types(part.__init__, kwargs)
        return part(**kwargs)
    if isinstance(config, dict):
        return _from_values(config)
    if isinstance(config, list):
        return [from_config(v) for v in config]
    return config


def check_types(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    """Check values from JSON, and parts built from them, against the annotations of a function.

    Numbers must be finite. Lists are accepted for tuples, and integers for floats. Unknown arguments are not checked.

    Args:
        function: Function or constructor.
        kwargs: Its arguments.

    Raises:
        InputError: A value has a wrong type. The error has the name of the argument as a note.
    """
    hints = get_type_hints(function)
    for name, value in kwargs.items():
        hint = hints.get(name, Any)
        if not _has_type(value, hint):
            text = str(hint).replace("typing.", "") if get_args(hint) else hint.__name__
            error = InputError(f"expected {text}, got {str(value)[:60]!r}")
            error.add_note(name)
            raise error


def _has_type(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return not (type(value) is float and not math.isfinite(value)) and all(_has_type(x, Any) for x in items)
    if kind in (Union, types.UnionType):
        return any(_has_type(value, option) for option in inner)
    if kind is Literal:
        return any(type(value) is type(option) and value == option for option in inner)
    if kind is dict:
        return isinstance(value, dict) and all(_has_type(x, inner[1]) for x in value.values())
    if kind is tuple and inner[-1] is not ...:
        return (
            isinstance(value, list | tuple)
            and len(value) == len(inner)
            and all(_has_type(x, item) for x, item in zip(value, inner, strict=True))
        )
    if kind in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(_has_type(x, inner[0]) for x in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint if hint in (bool, int, str) else isinstance(value, hint)


def _from_values(values: dict[str, Any]) -> dict[str, Any]:
    """Apply `from_config` to every value of a dict. Errors have the key as a note."""
    result = {}
    for key, value in values.items():
        try:
            result[key] = from_config(value)
        except Exception as error:
            error.add_note(key)
            raise
    return result


def _part(path: Any) -> type[Part]:
    """Return the class with an import path."""
    if not isinstance(path, str) or not path.startswith(ALLOWED):
        raise InputError(f"refusing to load {str(path)[:100]!r}: only classes of {ALLOWED}* are allowed")
    module, _, name = path.rpartition(".")
    try:
        part = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise InputError(f"this version of vatt has no {path[:100]!r}") from None
    if not (isinstance(part, type) and issubclass(part, Part)):
        raise InputError(f"{path[:100]!r} is not a model class")
    return part
