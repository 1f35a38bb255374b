"""Modules that remember how they were made, so that a saved model is rebuilt from plain JSON."""

from __future__ import annotations

import functools
import inspect
from importlib import import_module
from typing import Any

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
        InputError: a class path outside this package's models, or a class that does not exist.
        TypeError: an argument that the class does not have.
    """
    if isinstance(config, dict) and "class_path" in config:
        part, values = _part(config["class_path"]), config.get("init_args", {})
        if not isinstance(values, dict):
            raise InputError(f"'init_args' of {config['class_path']} is not a dict")
        return part(**_from_values(values))
    if isinstance(config, dict):
        return _from_values(config)
    if isinstance(config, list):
        return [from_config(v) for v in config]
    return config


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
    """Return the class that a path names."""
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
