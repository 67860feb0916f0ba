"""Frozen dataclasses from plain mappings and back: strict, so that a misspelt key is an error and not a default."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
from collections.abc import Mapping
from reprlib import Repr
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sbm_cli.errors import ConfigError

T = TypeVar("T")
_brief = Repr()  # of what a hostile file holds: as short as a message, however deep or long
_brief.maxstring = _brief.maxother = 200
_UNIONS = ("Schedule", "AnyObjective")  # as fields declare them: their values say of which `kind` they are
_LARGEST = sys.float_info.max


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says. Raises ValueError if it is none, or nested deeper than anything we write."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return a dataclass `cls` from a mapping of the kind that YAML and JSON give.

    Nested dataclasses are nested mappings; where a field admits several, the mapping's `kind` names the class in
    lower case. `where` names the source in messages.

    Raises ConfigError for an unknown key (with the nearest name), a value of the wrong type, or one out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {_brief.repr(values)}")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, 1)
            raise ConfigError(
                f"{where}: unknown key {_brief.repr(key)}" + (f", did you mean {near[0]!r}?" if near else ""),
                "Known keys: " + ", ".join(hints),
            )
    try:
        return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def dump(config: Any) -> dict[str, Any]:
    """Return the mapping that `build` turns into an equal dataclass."""
    return {f.name: _plain(getattr(config, f.name), f.type) for f in dataclasses.fields(config)}


def _plain(value: Any, declared: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = {"kind": type(value).__name__.lower()} if declared in _UNIONS else {}
        return kind | dump(value)
    return list(value) if isinstance(value, tuple) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    alone = dataclasses.is_dataclass(hint) and isinstance(value, Mapping) and "kind" in value  # a union of one
    if alone or get_origin(hint) in (Union, types.UnionType):
        options = get_args(hint) or (hint,)
        if value is None and type(None) in options:
            return None
        classes = {
            option.__name__.lower(): option
            for option in options
            if isinstance(option, type) and dataclasses.is_dataclass(option)
        }
        if classes:
            kind = value.get("kind") if isinstance(value, Mapping) else None
            if kind not in classes:
                raise ConfigError(f"{where}: kind is one of {', '.join(classes)}, got {_brief.repr(kind)}")
            return build(classes[kind], {k: v for k, v in value.items() if k != "kind"}, where)
        return _value(next(option for option in options if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {_brief.repr(value)}")
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, got {_brief.repr(value)}")
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= _LARGEST:  # NaN is not either, and both JSON and YAML have words for it
            raise ConfigError(f"{where}: expected a finite number, got {_brief.repr(value)}")
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, got {_brief.repr(value)}")
