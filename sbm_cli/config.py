"""Frozen dataclasses from plain mappings and back, strictly: a misspelt key is an error, not a default."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
from collections.abc import Iterable, Mapping
from math import inf
from reprlib import Repr
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sbm_cli.errors import ConfigError

T = TypeVar("T")


class UnknownKeyError(ConfigError):
    """A mapping has a key that its dataclass lacks."""

    def __init__(self, key: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.key = key


_brief = Repr()  # keeps messages short, however deep or long a hostile file is
_brief.maxstring = _brief.maxother = 200
_KINDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
_LARGEST = sys.float_info.max


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown name: the nearest known one, if one is near."""
    near = difflib.get_close_matches(name, list(known), 1, cutoff=0.7)
    return f", did you mean {near[0]!r}?" if near else ""


def parse_json(text: str | bytes, unique: bool = False) -> Any:
    """Return the content of a JSON text; unique: refuse keys that stand twice.

    Raises ValueError if it is invalid or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object if unique else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{max(keys, key=keys.count)!r} stands twice")
    return found


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return a dataclass `cls` from a mapping as YAML and JSON give it.

    Nested dataclasses are nested mappings. A field that admits several is declared as `Annotated[Base, CLASSES]` with
    the classes by name; `kind` in its mapping chooses one. where: names the source in messages.

    Raises ConfigError for an unknown key (with the nearest name), a value of the wrong type, or one out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {shown(values)}")
    hints = get_type_hints(cls, include_extras=True)
    for key in values:
        if key not in hints:
            raise UnknownKeyError(
                str(key),
                f"{where}: unknown key {_brief.repr(key)}{did_you_mean(str(key), hints)}",
                "Known keys: " + ", ".join(hints),
            )
    try:
        return cls(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_ranges(config: Any, **intervals: str) -> None:
    """Raise ValueError for a field, or an item of one, outside its interval, such as "[0, 1)" or "(0, inf)"."""
    for name, interval in intervals.items():
        least, most = map(float, interval[1:-1].split(","))
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            above = number > least or (interval[0] == "[" and number == least)
            below = number < most or (interval[-1] == "]" and number == most)
            if not above or not below:
                open_ended = f"{'at least' if interval[0] == '[' else 'above'} {least:g}"
                raise ValueError(
                    f"{name} must be {open_ended if most == inf else f'in {interval}'}, got {written(value)}"
                )


def written(value: Any) -> str:
    """Return a value as a recipe has it: lists in brackets, whole numbers without a point."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(written, value))}]"
    return str(value).removesuffix(".0")


def shown(value: Any) -> str:
    """Return what a file says, for messages, cut where it is long."""
    return "nothing" if value is None else _brief.repr(value)


def dump(config: Any) -> dict[str, Any]:
    """Return the mapping that `build` turns into an equal dataclass."""
    hints = get_type_hints(type(config), include_extras=True)
    return {field.name: _plain(getattr(config, field.name), hints[field.name]) for field in dataclasses.fields(config)}


def _plain(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = next(({"kind": name} for name, option in _classes(hint).items() if option is type(value)), {})
        return kind | dump(value)
    return list(value) if isinstance(value, tuple) else value


def _classes(hint: Any) -> Mapping[str, type]:
    """Return the classes that a field admits by name, none if it admits only one."""
    return hint.__metadata__[0] if get_origin(hint) is Annotated else {}


def _value(hint: Any, value: Any, where: str) -> Any:
    if classes := _classes(hint):
        kind = value.get("kind") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind not in classes:
            got = "and has to be given first" if kind is None else f"got {_brief.repr(kind)}"
            raise ConfigError(f"{where}: kind is one of {', '.join(classes)}, {got}")
        return build(classes[kind], {k: v for k, v in value.items() if k != "kind"}, where)
    if get_origin(hint) in (Union, types.UnionType):
        options = get_args(hint)
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            such = f", such as [{value}]" if isinstance(value, str) and len(value) < _brief.maxstring else ""
            raise ConfigError(f"{where}: expected a list{such}, got {shown(value)}")
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, got {shown(value)}")
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) <= _LARGEST:  # false for NaN too, which JSON and YAML can express
            raise ConfigError(f"{where}: expected a finite number, got {_brief.repr(value)}")
        return float(value)
    if hint is Any or (isinstance(value, get_origin(hint) or hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise ConfigError(f"{where}: expected {_KINDS.get(hint, hint.__name__)}, got {shown(value)}")
